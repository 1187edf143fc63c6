"""The Jacobian-based saliency map: push pairs of values to the wall."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least
from robustbench_lite.attacks.targeted import check_target, known_target
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat

#: how many pairs of one row are looked at together
_AT_ONCE = 2**16


def target_score(outputs: Outputs, goal: Goal) -> Tensor:
    """z_target."""
    assert goal.target is not None
    return outputs.scores.gather(1, goal.target[:, None]).squeeze(1)


def other_scores(outputs: Outputs, goal: Goal) -> Tensor:
    """The sum of all z_k but z_target."""
    return outputs.scores.sum(1) - target_score(outputs, goal)


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Raise two values at a time to the wall: the pair that helps the target most and all other classes least.

    Of all pairs whose common slope is up for the target's logit and down for the sum of the others', the one with the
    largest product of the two; a value at the wall is left alone, and where no pair is left the search ends. It changes
    few values, each by much. It is greedy and goes one way only, so more values than the fewest: where it fails, `fmn`
    in L0 may not. The sum of the other logits is one function, so a step costs two gradients, not one a class.

    Under an untargeted threat any wrong answer on the way breaks the sample.

    Args:
        target: second (likeliest but the label), least-likely, random, next (label + 1), a class index, column (a label
            an image, which comes with the data) or all (every other class, one after the other).
        theta: by how much a value is raised; below 0 it is lowered. 1 goes to the wall.
        steps: the most pairs; the paper changes up to 14.5 % of the values: 57 pairs on MNIST, 222 on CIFAR-10.
    """

    name: ClassVar[str] = "jsma"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L0",)
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("minimum-norm", "fixed-eps")
    source: ClassVar[str] = (
        "Papernot et al. 2016, The limitations of deep learning in adversarial settings, arXiv 1511.07528, alg. 3"
    )
    target: str = "second"
    theta: float = 1.0
    steps: int = 222

    def __post_init__(self) -> None:
        known_target(self)
        at_least(self, "steps", 1)
        if not 0 < abs(self.theta) <= 1:
            raise UserError(f"jsma: theta={self.theta:g}; accepted: -1 to 1, but not 0")

    @property
    def target_rule(self) -> str:
        """As the option says."""
        return self.target

    def lanes(self, num_classes: int) -> int:
        """One, or with target=all one a class but the label."""
        return max(1, num_classes - 1) if self.target == "all" else 1

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a class that is not there, or a target besides the threat's own."""
        super().check(threat, num_classes)
        check_target(self, threat, num_classes)

    def length(self) -> int:
        """A step a pair."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """A forward and two backwards a step and lane."""
        return Cost(self.steps, 2 * self.steps) * self.lanes(num_classes)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        if goal.target is None:
            raise UserError("jsma: the goal has no target; give one, such as Goal(y=y, target=t)")
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Where nothing is broken yet, one more pair."""
        if bool(state.done.all()):
            return state  # what nobody asks for is not shown either
        answer = oracle.query(state.adv, target_score, other_scores, asking=~state.done)
        assert answer.grads is not None
        rise, climb = answer.grads if self.theta > 0 else -answer.grads
        return self._moved(replace(state, done=state.done | answer.adversarial), rise, -climb)

    def _moved(self, state: State, rise: Tensor, fall: Tensor) -> State:
        """The state after its best pair; done where there is none that may be changed."""
        wall = 1.0 if self.theta > 0 else 0.0
        free = (state.adv != wall).flatten(1)
        changed = (state.adv != state.x).flatten(1)
        if state.threat.eps is not None:  # a value that has changed already may go on, a new one must have a place
            spare = state.threat.radius - changed.sum(1)
            free = free & (changed | (spare >= 2)[:, None])
        first, second = best_pair(rise.flatten(1), fall.flatten(1), free)
        moves = ~state.done & (first >= 0)
        here = torch.arange(free.shape[1], device=free.device)
        chosen = ((here == first[:, None]) | (here == second[:, None])) & moves[:, None]
        moved = (state.adv + self.theta).clamp(0, 1)
        adv = torch.where(chosen.view_as(state.adv), moved, state.adv)
        return replace(state, adv=adv, done=~moves)


def best_pair(rise: Tensor, fall: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (p, q) of free places with the largest (rise_p + rise_q) (fall_p + fall_q), both sums above 0.

    Args:
        rise, fall: (n, d). free: (n, d) bool.

    Returns:
        Two (n,) int64, p < q and of equal pairs the first; -1 where no pair will do.
    """
    count, width = rise.shape
    best = torch.zeros(count, dtype=rise.dtype, device=rise.device)
    first = torch.full((count,), -1, dtype=torch.int64, device=rise.device)
    second = first
    lost = torch.finfo(rise.dtype).min / 4  # with anything that a gradient holds, the sum stays below 0
    rise = torch.where(free, rise, lost)
    some = max(1, _AT_ONCE // width)
    for begin in range(0, width - 1, some):
        one = slice(begin, begin + some)
        up = rise[:, one, None] + rise[:, None, begin:]  # (n, some, width - begin): all later places
        down = fall[:, one, None] + fall[:, None, begin:]
        worth = torch.where((up > 0) & (down > 0), up * down, 0.0).triu(1).flatten(1)
        value, place = worth.max(1)
        better = value > best
        p, q = begin + place // up.shape[2], begin + place % up.shape[2]
        best = torch.where(better, value, best)
        first, second = torch.where(better, p, first), torch.where(better, q, second)
    return first, second
