"""AutoAttack: a cascade of attacks with fixed budgets, each on what those before it left unbroken."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, get_args

from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.apgd import APGD, APGDT, Climbed, ClimbedTowards
from robustbench_lite.attacks.fab import FAB, FABT
from robustbench_lite.attacks.options import at_least, one_of
from robustbench_lite.attacks.square import Square
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.specs import joined
from robustbench_lite.threat import Threat

Version = Literal["standard", "plus", "rand"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a version runs.

    Args:
        components: in their order. restarts: of apgd and of fab. targets: of apgd-t. large_eps, eot_draws: of apgd and apgd-t.
    """

    components: tuple[str, ...]
    restarts: int = 1
    targets: int = 9
    large_eps: bool = False
    eot_draws: int = 1


STANDARD = Budget(components=("apgd-ce", "apgd-t", "fab-t", "square"))
BUDGETS = {
    "standard": STANDARD,
    "plus": Budget(components=("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), restarts=5),
    "rand": Budget(components=("apgd-ce", "apgd-dlr"), eot_draws=20),
}
#: where a version does otherwise in one norm
IN_NORM = {("standard", "L1"): replace(STANDARD, restarts=5, targets=5, large_eps=True)}
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
#: what the difference of logits ratio needs, and what it needs towards a target
CLASSES, CLASSES_TARGETED = 3, 4


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack: apgd with two objectives, fab and square, one after the other on what is still unbroken.

    The standard of robustness tables. Every component keeps its published budget; a sample leaves at its first break, so
    the accuracy after a component is not that component's own strength. It knows nothing of a defense: where gradients
    are masked, or the system is random (version=rand), an attack made for the defense may find more.

    standard is apgd (cross-entropy), apgd-t (9 targets), fab-t (9 targets), square (5000 queries); in L1 apgd has 5
    restarts, apgd-t 5 targets, and both begin at 3 eps. plus is apgd, apgd:objective=dlr and fab with 5 restarts each,
    square, apgd-t, fab-t. rand is apgd and apgd:objective=dlr, every answer averaged over 20 draws.

    With fewer classes there are fewer targets. With 2 classes apgd climbs the margin instead of the difference of logits
    ratio, with 2 or 3 apgd-t climbs the log-odds.

    Args:
        version: standard, plus or rand.
        components: only these, in this order, joined by +: apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square.
        steps: of apgd, apgd-t, fab and fab-t.
        queries: of square.
    """

    name: ClassVar[str] = "autoattack"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = (
        "Croce and Hein 2020, arXiv 2003.01690, sec. 5; in L1: Croce and Hein 2021, arXiv 2103.01208"
    )
    # The contract's `version` counts changes of an attack's numbers; here its stages' own versions, which keys know, do.
    version: Version = "standard"  # type: ignore[assignment, misc]
    components: str | None = None
    steps: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        one_of(self, "version", get_args(Version))
        at_least(self, "steps", 1)
        at_least(self, "queries", 1)
        for component in self._chosen(BUDGETS[self.version]):
            if component not in COMPONENTS:
                raise unknown("component", component, COMPONENTS)

    def under(self, threat: Threat, num_classes: int) -> Attack:
        """The cascade with the budgets of the threat's norm, and with objectives for this number of classes."""
        budget = IN_NORM.get((self.version, threat.norm), BUDGETS[self.version])
        parts = tuple(self._component(name, budget, num_classes) for name in self._chosen(budget))
        return Cascade(**asdict(self), parts=parts)

    def stages(self) -> Sequence[Attack]:
        """Those of Linf and L2 on many classes."""
        return self.under(Threat(norm="Linf", eps=0.0), 1000).stages()

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a threat with a target."""
        super().check(threat, num_classes)
        if threat.goal == "targeted":
            raise UserError(
                f"{self.name} breaks a sample by any wrong answer, and {threat} has a target; write apgd, fab"
            )

    def length(self) -> int:
        """The steps of all stages, one after the other."""
        return sum(stage.length() for stage in self.stages())

    def cost(self, num_classes: int) -> Cost:
        """The sum over the stages, in the dearest norm."""
        runs = [self.under(Threat(norm=norm, eps=0.0), num_classes).stages() for norm in self.norms]
        costs = [[stage.cost(num_classes) for stage in run] for run in runs]
        return Cost(
            max(sum(cost.forwards for cost in run) for run in costs),
            max(sum(cost.backwards for cost in run) for run in costs),
        )

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """There is none: the stages have theirs."""
        raise UserError(
            f"{self.name} is a cascade; where one attack is wanted, take apgd, apgd-t, fab, fab-t or square"
        )

    def _chosen(self, budget: Budget) -> tuple[str, ...]:
        return budget.components if self.components is None else joined(self.components)

    def _component(self, name: str, budget: Budget, classes: int) -> Attack:
        if name == "square":
            return Square(queries=self.queries)
        if name == "fab":
            return FAB(steps=self.steps, restarts=budget.restarts)
        if name == "fab-t":
            return FABT(steps=self.steps, targets_in_flight=FABT.targets)  # few are left, and most of them hold out
        steps, large_eps, draws = self.steps, budget.large_eps, budget.eot_draws
        if name == "apgd-t":
            towards: ClimbedTowards = "dlr" if classes >= CLASSES_TARGETED else "log-odds"
            return APGDT(steps=steps, targets=budget.targets, objective=towards, large_eps=large_eps, eot_draws=draws)
        ratio: Climbed = "dlr" if classes >= CLASSES else "margin"
        climbed: Climbed = "ce" if name == "apgd-ce" else ratio
        return APGD(steps=steps, restarts=budget.restarts, objective=climbed, large_eps=large_eps, eot_draws=draws)


@dataclass(frozen=True, kw_only=True)
class Cascade(AutoAttack):
    """An AutoAttack that knows what it is up against."""

    parts: tuple[Attack, ...] = ()

    def stages(self) -> Sequence[Attack]:
        """The parts."""
        return self.parts
