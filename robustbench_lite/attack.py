"""The attack contract: a state machine a sample.

An attack is a frozen dataclass of its options with two methods, `start` and `step`. It never loops over batches, moves
devices, touches global random state, stops early, counts, or judges itself: `run.engine` does, and `craft` does the same on a
live model without records.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_lite import plugins, specs
from robustbench_lite.errors import UserError
from robustbench_lite.networks import Architecture, Model
from robustbench_lite.objectives import Goal, Objective, choose_targets
from robustbench_lite.oracle import EOT, Answer, Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

ALL_NORMS = ("Linf", "L2", "L1", "L0")
__all__ = [
    "ALL_NORMS",
    "EOT",
    "Architecture",
    "Asker",
    "Attack",
    "Cost",
    "Goal",
    "Learned",
    "Model",
    "Needs",
    "Setup",
    "State",
    "craft",
    "in_mode",
    "resolve_attack",
]


@dataclass(frozen=True, kw_only=True)
class State(Rows):
    """Where n rows stand; attacks that remember more add tensors (n, ...) in a subclass.

    Args:
        x: (n, c, h, w), the clean images. adv: (n, c, h, w), the present points, in [0, 1].
        goal, threat, draws: what is wanted, what is allowed, and the rows' random streams.
        k: (n,) int64, the steps that each row has taken; the engine counts them. Rows of different ages share a batch.
        done: (n,) bool, rows that have nothing left to try; the engine retires them.
        witness: (n, k), what `adv` is rendered from, under a threat that is `rendered`; the verdict renders it again.
    """

    x: Tensor
    adv: Tensor
    goal: Goal
    threat: Threat
    draws: Draws
    k: Tensor
    done: Tensor
    witness: Tensor | None = None

    @classmethod
    def begin(cls, x: Tensor, goal: Goal, threat: Threat, draws: Draws, adv: Tensor, **more: Any) -> Any:
        """The state before the first step, at `adv`."""
        zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x=x, adv=adv, goal=goal, threat=threat, draws=draws, k=zero, done=zero.bool(), **more)


@dataclass(frozen=True)
class Cost:
    """The most that one sample may cost over all lanes, in queries."""

    forwards: int
    backwards: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.forwards * times, self.backwards * times)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What `prepare` may use.

    Args:
        x: (n, c, h, w), y: (n,), draws: a slice of data disjoint from the evaluated one.
        threat, num_classes: what will be evaluated.
        ask: (x, *objectives, y=None) -> Answer, for any number of images; counted, showing what the attack declared. An
            objective that looks at the label needs `y`. See `Asker`.
    """

    x: Tensor
    y: Tensor
    draws: Draws
    threat: Threat
    num_classes: int
    ask: Callable[..., Answer]


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What `prepare` has learned, as it is kept.

    Args:
        tensors: by name. figures: what is worth telling of it, by name.
    """

    tensors: Mapping[str, Tensor]
    figures: Mapping[str, float] = field(default_factory=dict)


class Asker:
    """The oracle while an attack prepares: any number of images, all counted, nothing watched.

    What goes beyond the attack's `setup_budget` is neither shown nor counted: its label is -1, its objectives -inf, its
    gradients 0.

    Args:
        attack: shown what it declared. system, threat: what will be attacked. seed: of the system's own randomness.
        block: how many images to show at once, the last ones filled up with copies; None: all there are.
    """

    def __init__(
        self,
        attack: "Attack",
        system: System,
        threat: Threat,
        *,
        seed: int = 0,
        adaptive: bool = True,
        block: int | None = None,
    ) -> None:
        self._attack, self._system, self._threat = attack, system, threat
        self._seed, self._adaptive, self._block = seed, adaptive, block
        #: images, and gradients, so far
        self.forwards = self.backwards = 0

    def __call__(self, x: Tensor, *objectives: Objective, y: Tensor | None = None) -> Answer:
        """Show x (n, c, h, w) with labels y (n,) to the system."""
        y = torch.zeros(len(x), dtype=torch.int64, device=x.device) if y is None else y
        block, asked = self._block or max(len(x), 1), self.forwards
        return Answer.joined([self._ask(part, objectives, asked, block) for part in _cut(x, y, block)])

    def _ask(self, part: tuple[Tensor, Tensor], objectives: tuple[Objective, ...], asked: int, block: int) -> Answer:
        """One block; images asked before set the place in the random streams, so that asking twice draws twice."""
        count, index = len(part[0]), torch.arange(block, device=part[0].device)
        x, y = (rows[torch.where(index < count, index, 0)] if count else rows for rows in part)
        ledger, draws = replace(Ledger.new(x), forwards=torch.full_like(y, asked)), Draws.for_images(self._seed, x, y)
        needs, goal, threat = self._attack.needs, Goal(y=y), self._threat
        oracle = Oracle(
            self._system, needs, x, goal, threat, draws, ledger=ledger, adaptive=self._adaptive, watch=False
        )
        budget = self._attack.setup_budget
        paid = count if budget is None else max(0, min(count, budget - self.forwards))
        answer = oracle.query(x, *objectives, probe=True, asking=None if paid == count else index < paid)
        self.forwards += int((oracle.ledger.forwards[:count] - asked).sum())
        self.backwards += int(oracle.ledger.backwards[:count].sum())
        return answer.first(count)


def _cut(x: Tensor, y: Tensor, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    for begin in range(0, max(len(x), 1), block):
        yield x[begin : begin + block], y[begin : begin + block]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Options of an attack, and its mathematics.

    Class attributes tell what it is: `name`; `needs`; `norms` and `aims` that it can work with; `source`, the paper;
    `version`, raised when its numbers could change.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    norms: ClassVar[tuple[str, ...]] = ALL_NORMS
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("fixed-eps",)
    source: ClassVar[str] = ""
    version: ClassVar[int] = 1
    #: prose, which is in no key
    __not_hashed__: ClassVar[frozenset[str]] = frozenset({"source"})
    #: the watch sits elsewhere (a substitute, say): only the last point is judged, once
    submits_last: ClassVar[bool] = False
    #: it reads codes and reconstructions, which only a system that reconstructs has
    needs_codes: ClassVar[bool] = False
    #: each lane aims at another image of the target class; see `pictures`
    aims_at_pictures: ClassVar[bool] = False
    #: another library's code: run as it is, on a micro-batch at a time, and exempt from the law that rows feel no neighbours
    foreign: ClassVar[bool] = False

    @classmethod
    def read(cls, text: str) -> "Attack":
        """The attack that a spec string with this name means.

        Raises:
            UserError: an unknown option or a value that does not fit.
        """
        return specs.build(cls, specs.parse(text).options, resolve=_inner)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """The state before the first step; may ask the oracle."""
        raise NotImplementedError

    def step(self, state: State, oracle: Oracle) -> State:
        """One step of every row; must not mix rows. `k` is counted by the caller."""
        raise NotImplementedError

    def length(self) -> int:
        """After how many steps a row ends, if it is not done before."""
        raise NotImplementedError

    def advanced(self, before: State, after: State) -> Tensor:
        """Which rows (n,) bool a step has changed, but for `k` and what follows from it.

        An attack that tries one point a step and mostly stays where it is may answer this: where few rows are left, several
        of its next steps are made side by side, as if each stayed, and those after the first that did not are forgotten.
        No number can depend on that.
        """
        return torch.ones_like(after.done)

    def cost(self, num_classes: int) -> Cost:
        """The most queries that a sample may cost; the conformance suite holds the attack to it."""
        raise NotImplementedError

    def lanes(self, num_classes: int) -> int:
        """How many lanes a sample has: restarts, or targets tried one after the other."""
        return 1

    @property
    def lanes_in_flight(self) -> int:
        """How many lanes of a sample run side by side; an option of the attack, since it decides which lane wins."""
        return 1

    @property
    def target_rule(self) -> str | None:
        """How the class to climb towards is chosen under an untargeted threat; None climbs away from the label."""
        return None

    @property
    def eot(self) -> EOT | None:
        """Averaging over draws that every query of this attack wants."""
        return None

    @property
    def budget(self) -> int | None:
        """The most forwards that the oracle pays for a sample; None: no cap."""
        return None

    @property
    def setup_budget(self) -> int | None:
        """The most forwards that `prepare` is paid for; None: no cap."""
        return None

    @property
    def crafted_on(self) -> System | None:
        """The system that the examples are made on, where it is not the one that is attacked.

        Records tell what it says of the clean images, and whether the examples break it.
        """
        return None

    def under(self, threat: Threat, num_classes: int) -> "Attack":
        """The attack as it is run under this threat on a system of so many classes; a cascade may choose its stages by it."""
        return self

    def stages(self) -> Sequence["Attack"]:
        """The attacks of a cascade, each run on what is still unbroken; an ordinary attack is its own only stage."""
        return (self,)

    def prepare(self, setup: Setup) -> "Attack":
        """Learn what comes first (a substitute, a universal patch) and return the attack that has learned it."""
        return self

    def learns(self, threat: Threat) -> bool:
        """Whether there is anything to learn under this threat; if not, `prepare` is not called, and needs no data."""
        return type(self).prepare is not Attack.prepare

    @property
    def learned(self) -> Learned | None:
        """Of an attack that has prepared: what it has learned, to be kept with the records; None keeps nothing."""
        return None

    def recall(self, learned: Learned, setup: Setup) -> "Attack":
        """What `prepare` returned, from what was kept of it: a run that goes on does not learn again, and asks nothing."""
        raise NotImplementedError

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse a threat that this attack was not made for.

        Raises:
            UserError: the norm or the aim is not supported.
        """
        if threat.norm not in self.norms:
            raise UserError(f"{self.name} does not support {threat.norm}; it supports {', '.join(self.norms)}")
        if threat.aim not in self.aims:
            want = f"{threat.norm}:EPS" if "fixed-eps" in self.aims else f"{threat.norm} without eps"
            raise UserError(f"{self.name} does not work on {threat}; it needs {want}")

    def __str__(self) -> str:
        return str(specs.Spec(self.name, specs.options_of(self)))


def needs_of(attack: Attack) -> Needs:
    """What the attack is shown; of a cascade the most that one of its stages is."""
    order = list(Needs)
    return max((stage.needs for stage in attack.stages()), key=order.index)


def prepares(attack: Attack, threat: Threat) -> bool:
    """Whether the attack, or a stage of it, learns something first."""
    return any(stage.learns(threat) for stage in (attack, *attack.stages()))


def resolve_attack(attack: "str | Attack | type[Attack]") -> Attack:
    """An attack from a spec string such as `pgd:steps=40`; an attack object is returned as it is.

    Raises:
        UserError: an unknown name, an unknown option or a value that does not fit.
    """
    if isinstance(attack, Attack):
        return attack
    if isinstance(attack, type) and issubclass(attack, Attack):
        return attack()
    name = specs.head(attack)
    found = plugins.load("attack", name if name.replace("-", "").isalnum() else specs.parse(attack).name)
    if isinstance(found, type) and issubclass(found, Attack):
        return found.read(attack)
    return specs.build(found, specs.parse(attack).options, resolve=_inner)


def _inner(kind: type, text: str) -> object:
    if isinstance(kind, type) and issubclass(kind, Attack):
        return resolve_attack(text)
    if kind in (Model, Architecture):
        return kind(text)
    raise UserError(f"{text!r} cannot be given as text")


def craft(
    attack: Attack,
    model: nn.Module | System,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    draws: Draws,
    *,
    num_classes: int | None = None,
    stop_early: bool = False,
    mode: Literal["eval", "train"] = "eval",
    block: int | None = None,
    eot: EOT | None = None,
) -> Tensor:
    """Adversarial examples on a live model, without records: for training, substitutes and composed attacks.

    The stepping is the engine's. At a fixed eps, with one lane and without `stop_early`, the last iterate is returned,
    as adversarial training wants it; otherwise the best point that the oracle noted (minimum-norm: the nearest), and
    the last iterate where nothing broke. An attack with a target rule gets its targets from the clean answers, as in
    the engine; a sample without a target (the label is the class) is returned as it is.

    Args:
        x: (n, c, h, w) in [0, 1]. goal, threat, draws: as for `Attack.start`.
        stop_early: retire a sample at its first break; without a radius the search goes on for a nearer one.
        mode: what batch normalisation does meanwhile; the model's own mode is restored.
        block: show the model exactly so many images at once, filled up with copies, so that an example has the same bits
            whatever is crafted beside it; None: all that are under way.
        eot: average over these draws; None: as the attack itself wants.

    Returns:
        (n, c, h, w) in [0, 1], inside the threat, detached.
    """
    system = _as_system(model, num_classes, x)
    if block is not None and len(x) > block:
        parts = zip(x.split(block), torch.arange(len(x), device=x.device).split(block), strict=True)
        more: dict[str, Any] = {"stop_early": stop_early, "mode": mode, "block": block, "eot": eot}
        return torch.cat([craft(attack, system, part, goal[at], threat, draws[at], **more) for part, at in parts])
    lanes = attack.lanes(system.num_classes)
    stop_early = stop_early and threat.eps is not None
    watch = (stop_early or lanes > 1 or threat.eps is None) and not attack.submits_last
    with in_mode(system.model, mode):
        flight = _Flight(attack=attack, system=system, threat=threat, watch=watch, stop_early=stop_early)
        flight = replace(flight, block=block, eot=attack.eot if eot is None else eot)
        best = flight.run(x, goal, draws)
        for lane in range(1, lanes):
            again = flight.run(x, goal, draws.in_lane(lane))
            better = along(again[1] > best[1], x)
            best = torch.where(better, again[0], best[0]), torch.maximum(again[1], best[1])
    return best[0]


@dataclass(frozen=True, kw_only=True)
class _Flight:
    """How `craft` steps one lane of all rows."""

    attack: Attack
    system: System
    threat: Threat
    watch: bool
    stop_early: bool
    block: int | None = None
    eot: EOT | None = None

    def run(self, x: Tensor, goal: Goal, draws: Draws) -> tuple[Tensor, Tensor]:
        """The points of the lane, and how good they are (-inf: not broken)."""
        attack, threat = self.attack, self.threat
        index = self._filled(len(x), x.device)
        goal = aimed(attack, self.system, x[index], goal[index], threat, draws[index])[: len(x)]
        points, ranks = x.clone(), Ledger.new(x).rank
        rows = torch.arange(len(x), device=x.device)
        if goal.target is not None:
            rows = rows[goal.target >= 0]
            x, goal, draws = x[rows], goal[rows], draws[rows]
        if not len(rows):
            return points, ranks
        index = self._filled(len(rows), x.device)
        oracle = self._oracle(x[index], goal[index], draws[index], Ledger.new(x)[index])
        state = attack.start(x[index], goal[index], threat, draws[index], oracle)[: len(rows)]
        ledger, taken = oracle.ledger[: len(rows)], 0
        while len(rows) and taken < attack.length():
            state, ledger = self._step(state, ledger)
            taken += 1
            over = state.done | (ledger.found if self.stop_early else False)
            if bool(over.any()):
                _keep(points, ranks, rows[over], state[over], ledger[over])
                rows, state, ledger = rows[~over], state[~over], ledger[~over]
        _keep(points, ranks, rows, state, ledger)
        return points, ranks

    def _step(self, state: State, ledger: Ledger) -> tuple[State, Ledger]:
        count, index = len(state), self._filled(len(state), state.x.device)
        state, ledger = (state, ledger) if len(index) == count else (state[index], ledger[index])
        oracle = self._oracle(state.x, state.goal, state.draws, ledger)
        state = self.attack.step(state, oracle)
        return replace(state, k=state.k + 1)[:count], oracle.ledger[:count]

    def _filled(self, count: int, device: torch.device) -> Tensor:
        """The rows, and the first one again until the block is full."""
        index = torch.arange(count if self.block is None else self.block, device=device)
        return torch.where(index < count, index, 0)

    def _oracle(self, x: Tensor, goal: Goal, draws: Draws, ledger: Ledger) -> Oracle:
        attack = self.attack
        kept: dict[str, Any] = {"ledger": ledger, "eot": self.eot, "budget": attack.budget, "watch": self.watch}
        return Oracle(self.system, attack.needs, x, goal, self.threat, draws, **kept)


def aimed(attack: Attack, system: System, x: Tensor, goal: Goal, threat: Threat, draws: Draws) -> Goal:
    """The goal with the classes to climb towards, where they are wanted and the caller gave none."""
    rule = threat.target if goal.success == "targeted" else attack.target_rule
    if goal.target is not None or rule is None:
        return goal
    with torch.no_grad():
        scores = system(x, draws, 0).scores
    uniform = draws.in_lane(0).uniform((), "target").view(-1)
    return replace(goal, target=choose_targets(rule, scores, goal.y, uniform, draws.lane))


def _keep(points: Tensor, ranks: Tensor, rows: Tensor, state: State, ledger: Ledger) -> None:
    points[rows] = torch.where(along(ledger.found, state.adv), ledger.pending, state.adv.detach())
    ranks[rows] = ledger.rank


def _as_system(model: nn.Module | System, num_classes: int | None, x: Tensor) -> System:
    if isinstance(model, System):
        return model
    frozen = _Live(model)
    if num_classes is None:
        with torch.no_grad():
            num_classes = model(x[:1]).shape[1]
    shape = (x.shape[1], x.shape[2], x.shape[3])
    return System(model=frozen, num_classes=num_classes, input_shape=shape)


class _Live(nn.Module):
    """A model in training, behind a module of its own so that a `System` freezes nothing of it."""

    live: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "live", model)  # past Module's registry, on purpose

    def forward(self, x: Tensor) -> Tensor:
        return self.live(x)


@contextmanager
def in_mode(model: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """Put the model into a mode with frozen parameters, and back afterwards, module by module."""
    live = model.live if isinstance(model, _Live) else model
    modes = {part: part.training for part in live.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in live.parameters()}
    live.train(mode == "train").requires_grad_(False)
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
