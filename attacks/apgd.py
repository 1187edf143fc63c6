"""Auto-PGD, away from the label or towards one class after the other."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from robustbench_lite.attacks.auto_ascent import AutoAscent
from robustbench_lite.attacks.options import at_least, one_of
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Objective, named
from robustbench_lite.threat import Threat

Climbed = Literal["ce", "dlr", "margin"]
ClimbedTowards = Literal["dlr", "log-odds", "ce"]


@dataclass(frozen=True, kw_only=True)
class APGD(AutoAscent):
    """Auto-PGD: steps with momentum from a random point at the ball's surface, which shrink by themselves.

    The step is 2 eps at first. At checkpoints that grow denser, a row that mostly fell, or found nothing better, halves its
    own step and goes back to its best point. In L1 a step moves only the coordinates with the largest slopes, two thirds
    as many as the best perturbation has, and the projection onto ball and box is exact. Every point on the way counts;
    the last one is the best. With fewer than 3 classes (towards a target: 4) dlr is the plain difference of two scores.
    Cross-entropy dies where a model is very confident: try objective=dlr. Where the system is random, take eot_draws.

    Args:
        objective: ce, dlr (the difference of logits ratio) or margin.
        steps: of a restart; it costs one forward and one backward more than these.
        rho: the share of the steps between two checkpoints that must go up, or the step is halved (Linf, L2).
        large_eps: begin with a radius of 3 eps for 30 % of the steps and 2 eps for 30 %, and only then come to eps; the
            published way in L1.
        eot_draws: answers of a randomised system to average at every point; each is a query.
        restarts: how often to begin, each time at another point; a sample stops at its first break.
        restarts_in_flight: how many restarts of a sample run side by side.
    """

    name: ClassVar[str] = "apgd"
    objective: Climbed = "ce"
    restarts: int = 1
    restarts_in_flight: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", get_args(Climbed))
        at_least(self, "restarts", 1)
        at_least(self, "restarts_in_flight", 1)

    @property
    def climbed(self) -> Objective:
        """As the option says."""
        return named(self.objective)

    def lanes(self, num_classes: int) -> int:
        """One a restart."""
        return self.restarts

    @property
    def lanes_in_flight(self) -> int:
        """As the option says."""
        return self.restarts_in_flight


@dataclass(frozen=True, kw_only=True)
class APGDT(AutoAscent):
    """Auto-PGD towards the likeliest other classes, each in a run of its own.

    The classes are ranked once, on the clean image; whatever wrong answer comes on the way breaks the sample. The targeted
    difference of logits ratio does not feel the scale of the logits, so a very confident model does not stop it; with 2 or
    3 classes it is the plain difference z_target - z_true. Steps and checkpoints are those of `apgd`.

    Args:
        objective: dlr, log-odds (z_target - z_true) or ce (ln p_target).
        targets: how many classes to try, likeliest first; at most all but the label.
        targets_in_flight: how many targets of a sample run side by side.
        steps: of a target; it costs one forward and one backward more than these.
        rho: the share of the steps between two checkpoints that must go up, or the step is halved (Linf, L2).
        large_eps: begin with a radius of 3 eps for 30 % of the steps and 2 eps for 30 %, and only then come to eps; the
            published way in L1.
        eot_draws: answers of a randomised system to average at every point; each is a query.
    """

    name: ClassVar[str] = "apgd-t"
    objective: ClimbedTowards = "dlr"
    targets: int = 9
    targets_in_flight: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", get_args(ClimbedTowards))
        at_least(self, "targets", 1)
        at_least(self, "targets_in_flight", 1)

    @property
    def climbed(self) -> Objective:
        """As the option says; in its targeted form, because the goal has a target."""
        return named(self.objective)

    @property
    def target_rule(self) -> str:
        """Lane j climbs towards the j-th likeliest class but the label."""
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
                f"{self.name} chooses its targets itself, and {threat} has one; write apgd:objective=dlr, which climbs"
                " towards the target"
            )
