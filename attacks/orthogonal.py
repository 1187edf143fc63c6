"""Attacks on a classifier and its detector at once: fool the one, then pass the other."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Cost, Goal, State
from robustbench_lite.attacks.gradient import Ascent, normalised
from robustbench_lite.attacks.options import at_least
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import WRONG, margin, rejection
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Joint(State):
    """A climb on two functions; `adv` is the best point so far.

    Args:
        at: (n, c, h, w), the point to be asked about next.
        velocity: (n, c, h, w), the decayed sum of the normalised gradients.
        lead: (n,), the best point's margin up to `WRONG`. passing: (n,), how far below the threshold its score is.
    """

    at: Tensor
    velocity: Tensor
    lead: Tensor
    passing: Tensor


@dataclass(frozen=True, kw_only=True)
class Selective(Ascent):
    """Climb the margin until the answer is wrong by 0.05, then descend the detector's score; and again, as it comes.

    Each step looks at one of the two functions alone. The point that is wrong with the lowest score is kept. On a system
    without a detector, or to whoever knows of none, it is plain ascent of the margin. Steps, as in `pgd`, shrink from
    2 eps to 0 if no `step_size` is given. It misleads where the detector's score has no honest gradient.

    Args:
        steps: queries of a restart, each one forward and two backwards.
        step_size: the length of every step, as a fraction of eps; none: shrinking steps.
        random_start: begin at a random point of the ball, not at the clean image.
        momentum: how much of the former direction a step keeps; 0 is as published.
        restarts: how often to begin anew, each time at another random point (without random_start: once); a sample stops
            at its first break.
    """

    name: ClassVar[str] = "selective"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    source: ClassVar[str] = (
        "Bryniarski, Hingun, Pachuca, Wang and Carlini 2021, Evading adversarial example detection defenses with "
        "orthogonal projected gradient descent, arXiv 2106.15023, sec. 3"
    )
    steps: int = 200
    momentum: float = 0.9
    restarts: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "momentum", 0)
        at_least(self, "restarts", 1)

    def lanes(self, num_classes: int) -> int:
        """One a restart; without a random start all would be alike, so there is one."""
        return self.restarts if self.random_start else 1

    def cost(self, num_classes: int) -> Cost:
        """One forward and two backwards a step and lane."""
        return Cost(self.steps, 2 * self.steps) * self.lanes(num_classes)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point of the ball, or at the clean images."""
        first, low = self._first_point(x, threat, draws), torch.full((len(x),), -torch.inf, device=x.device)
        rest = torch.zeros_like(x)
        state: State = Joint.begin(x, goal, threat, draws, first, at=first, velocity=rest, lead=low, passing=low)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Ask about both, keep the best point, and step along one."""
        assert isinstance(state, Joint)
        said = oracle.query(state.at, margin, rejection)
        assert said.grads is not None
        lead, passing = said.values[0].clamp(max=WRONG), said.values[1]
        better = (lead > state.lead) | ((lead == state.lead) & (lead == WRONG) & (passing > state.passing))
        velocity = self.momentum * state.velocity + normalised(self.towards(lead >= WRONG, *said.grads))
        return replace(
            state,
            adv=torch.where(along(better, state.at), state.at, state.adv),
            lead=torch.where(better, lead, state.lead),
            passing=torch.where(better, passing, state.passing),
            at=self.move(replace(state, adv=state.at), velocity),
            velocity=velocity,
        )

    def towards(self, wrong: Tensor, lead: Tensor, passing: Tensor) -> Tensor:
        """Where to step: by the gradient of the margin, or where the answer is wrong (n,) by that of the detector."""
        blind = (passing == 0).flatten(1).all(1)
        return torch.where(along(wrong & ~blind, lead), passing, lead)


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Selective):
    """As `selective`, with steps on the detector that leave the margin as it is, to first order.

    From the detector's gradient its projection on the classifier's is taken away, so that what was won is not lost again
    with every step; in Linf the step goes along the signs of what is left.

    Args:
        steps: queries of a restart, each one forward and two backwards.
        step_size: the length of every step, as a fraction of eps; none: shrinking steps.
        random_start: begin at a random point of the ball, not at the clean image.
        momentum: how much of the former direction a step keeps; 0 is as published.
        restarts: how often to begin anew, each time at another random point (without random_start: once); a sample stops
            at its first break.
        both: take the projection on the detector's gradient away from the classifier's, too.
    """

    name: ClassVar[str] = "orthogonal"
    both: bool = False

    def towards(self, wrong: Tensor, lead: Tensor, passing: Tensor) -> Tensor:
        """The gradients of `Selective.towards`, each at right angles to the other."""
        first = _beside(lead, passing) if self.both else lead
        return super().towards(wrong, first, _beside(passing, lead))


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """What is left of each row of `one` without its projection on that of `other`; all, where that is zero."""
    along_it, size = row_sum(one * other), row_sum(other * other)
    share = torch.where(size > 0, along_it / size, torch.zeros_like(size))
    return one - along(share, one).to(one.dtype) * other
