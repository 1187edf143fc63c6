"""The fast adaptive boundary attack: towards the linearised boundary, and back towards the clean image."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, share
from robustbench_lite.attacks.planes import every_other, leads, nearest, plane, stretched
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Objective, log_odds
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Walk(State):
    """A walk along the boundary; `adv` is the present point, brought into the threat.

    Args:
        here: (n, c, h, w), the present point, however far from x. best: (n,) float64, the nearest break so far.
    """

    here: Tensor
    best: Tensor


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Look for the nearest example: project onto the nearest linearised boundary, biased towards the clean image.

    It has no step size and does not feel the scale of the logits. Every step projects the present point and the clean
    image onto the boundary (exactly, in the box) and goes a little beyond, to a mean of the two; a point that breaks is
    drawn back towards the clean image before. With a radius it is the same walk, which ends at the first break inside.
    A boundary that bends strongly, or a gradient that is masked, leads it astray: it is one attack among others.
    It asks for the gradients of all classes at every step; with many classes `fab-t` costs far less.

    Args:
        steps: of a restart; each costs one forward and a backward for every class but the label.
        restarts: how often to begin anew, at half the distance found so far (or half of eps) in a random direction.
        eta: how far beyond the boundary to go; 1 is onto it.
        beta: where to go on from after a break, on the way from the clean image (0) to the break (1).
        alpha_max: the largest weight of the clean image's projection.
    """

    name: ClassVar[str] = "fab"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("fixed-eps", "minimum-norm")
    source: ClassVar[str] = (
        "Croce and Hein 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack, "
        "arXiv 1907.02044"
    )
    steps: int = 100
    restarts: int = 1
    eta: float = 1.05
    beta: float = 0.9
    alpha_max: float = 0.1

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        at_least(self, "restarts", 1)
        at_least(self, "eta", 1)
        share(self, "beta")
        share(self, "alpha_max")

    def boundaries(self, goal: Goal, classes: int) -> list[Objective]:
        """What is 0 on the boundaries that a step looks for."""
        return leads(goal, every_other(goal, classes))

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        state: State = Walk.begin(x, goal, threat, draws, x, here=x, best=best)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One query, two projections."""
        assert isinstance(state, Walk)
        x, threat, norm = state.x, state.threat, state.threat.geometry
        here = self._here(state)
        said = oracle.query(here, *self.boundaries(state.goal, oracle.num_classes))
        broken, best = said.adversarial, state.best
        best = torch.where(broken, torch.minimum(best, threat.distance(here, x)), best)
        value, grad, _ = nearest(said, norm)
        w, b = plane(here, value, grad)
        # The plane is taken where the break is, which is nearer to the boundary than the point drawn back from it.
        back = torch.where(along(broken, x), x + self.beta * (here - x), here)
        there = self._biased(back, x, w, b, threat)
        return replace(state, here=there, adv=threat.project(there, x), best=best, done=best == 0)

    def _here(self, state: Walk) -> Tensor:
        """The present point, or a new one where a restart begins."""
        begins = (state.k > 0) & (state.k % self.steps == 0)
        if not bool(begins.any()):
            return state.here
        x, threat = state.x, state.threat
        found = torch.where(state.best.isfinite(), state.best, threat.distance(state.here, x))
        half = 0.5 * (found if threat.eps is None else found.clamp(max=threat.eps))
        direction = threat.geometry.random_direction(x, state.draws, state.k, "fab")
        return torch.where(along(begins, x), (x + stretched(half, x) * direction).clamp(0, 1), state.here)

    def _biased(self, here: Tensor, x: Tensor, w: Tensor, b: Tensor, threat: Threat) -> Tensor:
        """Beyond the boundary (w, b): between the projections of the present point and of the clean image."""
        both = threat.geometry.hyperplane(torch.cat((here, x)), torch.cat((w, w)), torch.cat((b, b)))
        onto, clean_onto = both.chunk(2)
        way, clean_way = threat.distance(onto, here), threat.distance(clean_onto, x)
        weight = stretched((way / (way + clean_way).clamp(min=1e-12)).clamp(max=self.alpha_max), x)
        ahead, clean_ahead = here + self.eta * (onto - here), x + self.eta * (clean_onto - x)
        return ((1 - weight) * ahead + weight * clean_ahead).clamp(0, 1)

    def length(self) -> int:
        """The steps of all restarts."""
        return self.steps * self.restarts

    def cost(self, num_classes: int) -> Cost:
        """One forward a step, and a backward for each class but the label."""
        return Cost(self.length(), self.length() * (num_classes - 1))


@dataclass(frozen=True, kw_only=True)
class FABT(FAB):
    """The boundary attack towards the likeliest other classes, one after the other.

    The classes are ranked once, on the clean image; whatever wrong answer comes on the way breaks the sample. A step costs
    one backward, however many classes there are, and a class that is not the nearest at first gets its whole search: the
    result is as a rule nearer than that of `fab`.

    Args:
        steps: of a restart; each costs one forward and one backward.
        restarts: of every target: how often to begin anew, at half the distance found so far (or half of eps) in a random
            direction.
        eta: how far beyond the boundary to go; 1 is onto it.
        beta: where to go on from after a break, on the way from the clean image (0) to the break (1).
        alpha_max: the largest weight of the clean image's projection.
        targets: how many classes to try, likeliest first; at most all but the label.
        targets_in_flight: how many targets of a sample run side by side. More of them fill the batches where few samples
            are left; one at a time costs the fewest queries where the first target breaks nearly every sample.
    """

    name: ClassVar[str] = "fab-t"
    source: ClassVar[str] = (
        "Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free "
        "attacks, arXiv 2003.01690 (targeted form of the attack of arXiv 1907.02044)"
    )
    targets: int = 9
    targets_in_flight: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "targets", 1)
        at_least(self, "targets_in_flight", 1)

    @property
    def target_rule(self) -> str:
        """Lane j goes to the boundary of the j-th likeliest class but the label."""
        return "all"

    def lanes(self, num_classes: int) -> int:
        """One a target, and no more than there are other classes."""
        return max(1, min(self.targets, num_classes - 1))

    @property
    def lanes_in_flight(self) -> int:
        """As the option says."""
        return self.targets_in_flight

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a threat with a target of its own."""
        super().check(threat, num_classes)
        if threat.goal == "targeted":
            raise UserError(
                f"{self.name} chooses its targets itself, and {threat} has one; write fab, which goes to it"
            )

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        if goal.target is None:
            raise UserError("fab-t: the goal has no target; give one, such as Goal(y=y, target=t)")
        return super().start(x, goal, threat, draws, oracle)

    def boundaries(self, goal: Goal, classes: int) -> list[Objective]:
        """The lead of the goal's target over the label."""
        return [log_odds]

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step and target."""
        return Cost(self.length(), self.length()) * self.lanes(num_classes)
