"""Random perturbations: what no adversary at all would find."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_lite.attack import ALL_NORMS, Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: the norms in which twice the perturbation is twice as long
STRETCHES = ("Linf", "L2", "L1")


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """The worst of N random points of the ball.

    It is what the others must beat: where noise finds what a gradient does not, the gradient is masked. Alone it says
    nothing of robustness. N draws are the first N of any larger number.

    Args:
        kind: uniform, a uniform point of the ball, brought into the box (L0: random values of random coordinates);
            gaussian, normal noise stretched to length eps, then cut at the box, which shortens it again;
            sign, the point of ball and box that lies furthest in a random direction: a random corner of the cube in
            Linf, a random direction at full length in L2, a few coordinates pushed to random walls in L1 and L0.
        draws: how many points to try.
        sigma: gaussian only: the standard deviation, instead of the stretching; projected into ball and box.
    """

    name: ClassVar[str] = "noise"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ALL_NORMS
    source: ClassVar[str] = (
        "Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, sec. 6 (noise as a control); "
        "Rauber and Bethge 2020, arXiv 2007.07677 (noise that keeps its length in the box)"
    )
    kind: Literal["uniform", "gaussian", "sign"] = "uniform"
    draws: int = 100
    sigma: float | None = None

    def __post_init__(self) -> None:
        one_of(self, "kind", ("uniform", "gaussian", "sign"))
        at_least(self, "draws", 1)
        positive(self, "sigma")
        if self.sigma is not None and self.kind != "gaussian":
            raise UserError(f"noise: sigma={self.sigma:g} is for kind=gaussian, not for kind={self.kind}")

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse what `Attack.check` does, and to stretch noise to a number of coordinates."""
        super().check(threat, num_classes)
        if self.kind == "gaussian" and self.sigma is None and threat.norm not in STRETCHES:
            raise UserError(
                f"noise: {threat.norm} has no length to stretch kind=gaussian to; give sigma, such as sigma=0.5"
            )

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One more point; the oracle keeps the worst."""
        adv = self._point(state)
        oracle.query(adv)
        return replace(state, adv=adv)

    def length(self) -> int:
        """As many steps as draws."""
        return self.draws

    def cost(self, num_classes: int) -> Cost:
        """One forward a draw."""
        return Cost(self.draws)

    def _point(self, state: State) -> Tensor:
        threat, x = state.threat, state.x
        if self.kind == "uniform":
            return threat.random_point(x, state.draws, state.k)
        normal = state.draws.normal(x.shape[1:], "noise", state.k)
        if self.kind == "sign":
            return threat.extreme(x, normal)
        return threat.project(x + self._scaled(normal, threat), x)

    def _scaled(self, normal: Tensor, threat: Threat) -> Tensor:
        if self.sigma is not None:
            return self.sigma * normal
        return along(threat.radius / threat.geometry.distance(normal), normal).to(normal.dtype) * normal
