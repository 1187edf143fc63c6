"""DDN: the direction of a perturbation and its length, one after the other."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, between, positive
from robustbench_lite.attacks.schedules import cosine
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import divided
from robustbench_lite.objectives import cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Length(State):
    """A state with the length of its perturbation.

    Args:
        radius: (n,) float64, as long as the perturbation is made, before it is cut at the box.
        most: (n,) float64, the distance to the furthest corner of the box.
    """

    radius: Tensor
    most: Tensor


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Turn the perturbation along the gradient, then make it a little shorter or longer than before.

    Shorter by the factor 1 - gamma where the point breaks the sample, longer by 1 + gamma where it does not: so it walks
    along the boundary, and the nearest breaking point counts. Good within 100 steps. It misleads where cross-entropy has
    no gradient, as every attack that climbs it: such rows turn at random, and `fmn`, which climbs the margin, tells.

    Args:
        steps: queries, each one forward and one backward.
        gamma: by how much the length changes in a step.
        first_radius: the length before the first step.
        levels: round every point to so many grey levels, as the authors' code does with 256, so that the nearest
            breaking point is one that can be saved as an image; none: do not round.
    """

    name: ClassVar[str] = "ddn"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar = ("minimum-norm",)
    source: ClassVar[str] = (
        "Rony et al. 2019, Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and "
        "defenses, arXiv 1811.09600, alg. 1"
    )
    steps: int = 1000
    gamma: float = 0.05
    first_radius: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        between(self, "gamma", 0, 1)
        positive(self, "first_radius")
        if self.levels is not None and self.levels < 2:
            raise UserError(f"ddn: levels={self.levels}; accepted: 2 and more, or none")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        most = threat.geometry.distance(torch.maximum(x, 1 - x))
        radius = torch.full_like(most, self.first_radius)
        state: State = Length.begin(x, goal, threat, draws, x, radius=radius, most=most)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Turn, then set the length."""
        assert isinstance(state, Length)
        said = oracle.query(state.adv, cross_entropy)
        assert said.grads is not None
        turn = cosine(state.k, self.steps, 1.0, 0.01)
        delta = state.adv - state.x + along(turn, state.x).float() * _direction(state, said.grads[0])
        change = torch.where(said.adversarial, 1 - self.gamma, 1 + self.gamma)
        radius = torch.minimum(state.radius * change, state.most)
        length = state.threat.geometry.distance(delta)
        adv = state.x + divided(delta * along(radius, delta), length)
        return replace(state, adv=self._rounded(adv.float().clamp(0, 1)), radius=radius)

    def length(self) -> int:
        """As the option says."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step."""
        return Cost(self.steps, self.steps)

    def _rounded(self, adv: Tensor) -> Tensor:
        if self.levels is None:
            return adv
        return (adv * (self.levels - 1)).round() / (self.levels - 1)


def _direction(state: State, grad: Tensor) -> Tensor:
    """The gradient, of length 1; a random direction where there is none, so that the row does not stand still."""
    direction = state.threat.steepest(grad)
    still = (direction == 0).flatten(1).all(1)
    if not bool(still.any()):
        return direction
    drawn = state.threat.geometry.random_direction(state.x, state.draws, state.k, "ddn")
    return torch.where(along(still, grad), drawn, direction)
