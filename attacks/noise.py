"""Random noise: what a gradient attack must beat."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """The worst of so many random points of the ball; a baseline, and an alarm where it beats a gradient.

    Args:
        kind: `uniform` in the ball; `gaussian`, a normal direction stretched to length eps; `sign`, a random corner of the
            cube (in another norm: that corner's direction, stretched to eps).
        draws: how many points are tried, one query each; the first ten of a hundred are those of ten.
        sigma: for gaussian, the standard deviation of every value instead of the length eps; what falls out of the ball is
            projected back.
    """

    name: ClassVar[str] = "noise"
    needs: ClassVar[Needs] = Needs.LABELS
    source: ClassVar[str] = "Rauber and Bethge 2020, Fast differentiable clipping-aware normalization, arXiv 2007.07677, sec. 2"
    kind: Literal["uniform", "gaussian", "sign"] = "uniform"
    draws: int = 100
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"noise: draws={self.draws}; accepted: 1 and more")
        if self.sigma is not None and not (self.kind == "gaussian" and self.sigma > 0):
            raise UserError(f"noise: sigma={self.sigma:g}; accepted: above 0, with kind=gaussian")

    def length(self) -> int:
        return self.draws

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.draws)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        adv = self._point(state)
        oracle.query(adv)
        return replace(state, adv=adv)

    def _point(self, state: State) -> Tensor:
        x, threat, draws, k = state.x, state.threat, state.draws, state.k
        if self.kind == "uniform":
            return threat.random_point(x, draws, k)
        shape = x.shape[1:]
        direction = draws.signs(shape, "noise", k) if self.kind == "sign" else draws.normal(shape, "noise", k)
        if self.sigma is not None:
            return threat.project(x + self.sigma * direction, x)
        length = threat.geometry.distance(direction)
        return threat.project(x + (direction * along(threat.radius / length, x)).to(x.dtype), x)


