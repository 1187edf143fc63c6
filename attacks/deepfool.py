"""DeepFool: onto the nearest linearised boundary, until the answer changes."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least
from robustbench_lite.attacks.planes import every_other, leads, nearest, stretched
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

# Added to every step, in the unit of the norm, so that steps do not shrink to nothing in front of the boundary.
_NUDGE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Steps(State):
    """The way so far; `adv` is the present point, brought into the threat.

    Args:
        total: (n, c, h, w), the sum of all steps, before overshoot and box. rivals: (n, m), classes that are tried.
    """

    total: Tensor
    rivals: Tensor


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Step onto the nearest linearised boundary until the answer changes: a near example for little money.

    It stops at the first break, a little beyond the boundary, and does not look for a nearer one: the norm is an upper
    bound, on adversarially trained models a loose one (`fab`, `fmn`, `ddn` search on). The overshoot stretches the
    whole way from the clean image, once. Its steps do not know the box; every point is cut at it, and asked about again.
    With a radius it is the same way, and the last point is brought into the ball.

    Args:
        steps: at most so many.
        classes: how many of the likeliest classes are looked at, the label among them; the gradient of each other one
            costs a backward a step.
        overshoot: how much longer the way is made than to the boundary, as a share of it.
    """

    name: ClassVar[str] = "deepfool"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf")
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("minimum-norm", "fixed-eps")
    source: ClassVar[str] = (
        "Moosavi-Dezfooli, Fawzi and Frossard 2016, DeepFool: a simple and accurate method to fool deep neural networks, "
        "arXiv 1511.04599, alg. 2 and sec. 3.3"
    )
    steps: int = 50
    classes: int = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        if self.classes < 2:
            raise UserError(f"deepfool: classes={self.classes}; accepted: 2 and more, the label among them")
        at_least(self, "overshoot", 0)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images; where there are more classes than are looked at, one forward ranks them."""
        rivals = every_other(goal, oracle.num_classes)
        if goal.success != "targeted" and oracle.num_classes > self.classes:
            scores = oracle.query(x, grads=False).scores
            assert scores is not None
            scores = scores.nan_to_num(nan=-torch.inf).gather(1, rivals)
            rivals = rivals.gather(1, scores.argsort(dim=1, descending=True, stable=True)[:, : self.classes - 1])
        state: State = Steps.begin(x, goal, threat, draws, x, total=torch.zeros_like(x), rivals=rivals)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """To the boundary that is nearest by the gradients here; then a forward says whether the answer has changed."""
        assert isinstance(state, Steps)
        here = self._point(state.x, state.total)
        said = oracle.query(here, *leads(state.goal, state.rivals))
        _, grad, far = nearest(said, state.threat.geometry)
        move = stretched(far + _NUDGE, here) * state.threat.steepest(grad)
        # Only a sample that was wrong from the beginning is broken here: it stays.
        total = torch.where(along(said.adversarial, here), state.total, state.total + move)
        there = self._point(state.x, total)
        done = oracle.query(there, grads=False, asking=~said.adversarial).adversarial | said.adversarial
        return replace(state, total=total, adv=state.threat.project(there, state.x), done=done)

    def _point(self, x: Tensor, total: Tensor) -> Tensor:
        return (x + (1 + self.overshoot) * total).clamp(0, 1)

    def length(self) -> int:
        """The most steps."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """Two forwards a step and a backward for each class that is looked at but the label; one forward to rank many."""
        rivals = min(self.classes, num_classes) - 1
        return Cost(2 * self.steps + (num_classes > self.classes), rivals * self.steps)
