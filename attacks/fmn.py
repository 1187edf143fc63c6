"""FMN: steps of shrinking length, projected onto a ball whose radius follows the boundary."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import ALL_NORMS, Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, between, positive
from robustbench_lite.attacks.schedules import cosine
from robustbench_lite.norms.rowwise import divided, row_sum
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Search(State):
    """A state with its ball.

    Args:
        radius: (n,) float64, of the ball that the point was projected onto.
        best: (n,) float64, the smallest norm that broke the sample; infinite before.
        most: (n,) float64, the norm of the furthest corner of the box.
    """

    radius: Tensor
    best: Tensor
    most: Tensor


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Step along the gradient of the margin, then project onto a ball that shrinks while it breaks the sample.

    Until a first break the radius is the present norm plus the distance to the boundary of the linearised margin, times
    1 + gamma; then it shrinks by 1 - gamma where the point breaks and grows by 1 + gamma where not (L0: by one
    coordinate at least).
    Steps have L2 length in every norm, and shrink along half a cosine as gamma does. Good within 100 steps. It misleads
    where the gradient is masked; in L0, few steps end far from the smallest number of coordinates.

    Args:
        steps: queries, each one forward and one backward.
        first_step: L2 length of the first step.
        last_step: of the last one; none: a hundredth of the first.
        first_gamma: by how much the radius changes at first.
        last_gamma: and in the end.
    """

    name: ClassVar[str] = "fmn"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ALL_NORMS
    aims: ClassVar = ("minimum-norm",)
    source: ClassVar[str] = (
        "Pintor et al. 2021, Fast minimum-norm adversarial attacks through adaptive norm constraints, arXiv 2102.12827, "
        "alg. 1"
    )
    steps: int = 1000
    first_step: float = 1.0
    last_step: float | None = None
    first_gamma: float = 0.05
    last_gamma: float = 0.001

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        for option in ("first_step", "last_step"):
            positive(self, option)
        for option in ("first_gamma", "last_gamma"):
            between(self, option, 0, 1)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        most = threat.geometry.distance(torch.maximum(x, 1 - x))
        radius, best = torch.zeros_like(most), torch.full_like(most, torch.inf)
        state: State = Search.begin(x, goal, threat, draws, x, radius=radius, best=best, most=most)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Up the margin, and onto the new ball."""
        assert isinstance(state, Search)
        said = oracle.query(state.adv, margin)
        assert said.grads is not None
        state, grad = self._resized(state, said.adversarial, said.values[0], said.grads[0]), said.grads[0]
        last_step = self.first_step / 100 if self.last_step is None else self.last_step
        reach = cosine(state.k, self.steps, self.first_step, last_step)
        move = divided(grad * along(reach, grad), row_sum(grad.double().square()).sqrt()).float()
        return replace(state, adv=state.threat.project(state.adv + move, state.x, state.radius))

    def length(self) -> int:
        """As the option says."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step."""
        return Cost(self.steps, self.steps)

    def _resized(self, state: Search, broken: Tensor, height: Tensor, grad: Tensor) -> Search:
        """The ball for the next point."""
        geometry = state.threat.geometry
        norm, slope = state.threat.distance(state.adv, state.x), geometry.dual(grad)
        best = torch.where(broken, torch.minimum(norm, state.best), state.best)
        gamma = cosine(state.k, self.steps, self.first_gamma, self.last_gamma)
        smaller = torch.minimum(geometry.resized(state.radius, state.radius * (1 - gamma)), best)
        larger = geometry.resized(state.radius, state.radius * (1 + gamma))
        # A little further than published: a point that lands on the boundary itself does not break an affine model.
        ahead = (norm + height.double().abs() / slope.clamp(min=1e-12)) * (1 + gamma)
        ahead = geometry.resized(state.radius, ahead)
        radius = torch.where(broken, smaller, torch.where(best < torch.inf, larger, ahead))
        return replace(state, radius=torch.minimum(radius, state.most), best=best)
