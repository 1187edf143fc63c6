"""Climb towards a class of the adversary's choice."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

from torch import Tensor

from robustbench_lite.attack import Goal, State
from robustbench_lite.attacks.gradient import Ascent, gradient
from robustbench_lite.attacks.options import at_least, one_of
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import named
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

RULES = ("least-likely", "random", "next", "second", "column", "all")
Climbed = Literal["log-odds", "ce", "squared"]


class HasTarget(Protocol):
    """An attack with an option `target`."""

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> str: ...


def known_target(attack: HasTarget) -> None:
    """The option is a rule or a class index."""
    if attack.target not in RULES and not attack.target.isdecimal():
        raise UserError(f"{attack.name}: target={attack.target}; accepted: {', '.join(RULES)} or a class index")


def check_target(attack: HasTarget, threat: Threat, num_classes: int) -> None:
    """Refuse a class that is not there, and a target besides the one that a targeted threat has itself."""
    if attack.target.isdecimal() and int(attack.target) >= num_classes:
        raise UserError(f"{attack.name}: target={attack.target} is not a class; accepted: 0 to {num_classes - 1}")
    default: object = type(attack).target
    if threat.goal == "targeted" and attack.target not in (default, threat.target):
        raise UserError(
            f"{attack.name}: target={attack.target}, but {threat} has a target of its own; leave the attack's out"
        )


@dataclass(frozen=True, kw_only=True)
class Targeted(Ascent):
    """Iterate towards a target class, chosen once on the clean image.

    Under an untargeted threat any wrong answer on the way breaks the sample, and whether the target was hit is told
    besides; under a targeted one the threat names the target. A distant target (least-likely, say) tells how far the
    model can be driven, not how robust it is: for that take target=second or target=all. `squared` stalls where the
    model is sure of a wrong class.

    Args:
        target: least-likely, random, next (label + 1), second (likeliest but the label), a class index, column (a label
            an image, which comes with the data) or all (every other class, one after the other).
        objective: log-odds, ln p_target - ln p_true, which never saturates; ce, ln p_target; or squared,
            -|p - e_target|^2 / 2 - image_weight |x' - x|^2.
        image_weight: of the distance to the clean image in `squared`.
        steps: queries per target, each one forward and one backward.
        step_size: the length of every step, as a fraction of eps; none: shrinking steps, as `pgd`.
        random_start: begin at a random point of the ball, not at the clean image.
        raw: step along the gradient as it is, times step_size * eps, instead of the norm's steepest direction.
    """

    name: ClassVar[str] = "targeted"
    source: ClassVar[str] = (
        "Kurakin, Goodfellow and Bengio 2017, arXiv 1607.02533, sec. 2.3 (the least likely class); "
        "Carlini and Wagner 2017, arXiv 1608.04644 (the choice of targets)"
    )
    target: str = "least-likely"
    objective: Climbed = "log-odds"
    image_weight: float = 0.0
    random_start: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", get_args(Climbed))
        at_least(self, "image_weight", 0)
        known_target(self)
        if self.image_weight and self.objective != "squared":
            raise UserError(f"targeted: image_weight={self.image_weight:g} is for objective=squared")
        if self.raw and self.step_size is None:
            raise UserError("targeted: raw=true needs step_size: the gradient is multiplied by step_size * eps")

    @property
    def target_rule(self) -> str:
        """As the option says."""
        return self.target

    def lanes(self, num_classes: int) -> int:
        """One, or with target=all one a class but the label."""
        return max(1, num_classes - 1) if self.target == "all" else 1

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a class that is not there, or a target besides a targeted threat's own."""
        super().check(threat, num_classes)
        check_target(self, threat, num_classes)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images, or at a random point of the ball."""
        if goal.target is None:
            raise UserError("targeted: the goal has no target; give one, such as Goal(y=y, target=t)")
        return super().start(x, goal, threat, draws, oracle)

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The gradient, pulled back to the clean image by the image term."""
        grad = gradient(oracle, state.adv, named(self.objective))
        return state, grad - 2 * self.image_weight * (state.adv - state.x)

    def move(self, state: State, slope: Tensor) -> Tensor:
        """The next point."""
        if not self.raw:
            return super().move(state, slope)
        far = along(self.reach(state.k) * state.threat.radius, slope).to(slope.dtype)
        return state.threat.project(state.adv + far * slope, state.x)
