"""One cell: an attack on a subject under a threat, from what is recorded already to complete records."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite import specs
from robustbench_lite.attack import Asker, Attack, Goal, Learned, Setup, prepares
from robustbench_lite.data import outside
from robustbench_lite.errors import UserError
from robustbench_lite.fingerprint import fingerprint, source_digest
from robustbench_lite.rows import concat
from robustbench_lite.run.engine import Search, search
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.records import COLUMNS, Records, cell_key
from robustbench_lite.run.stages import better, billed, joined, leaving, new_bill, told
from robustbench_lite.run.subject import Subject, load
from robustbench_lite.run.verdict import CLEAN_WRONG, REASONS, TARGET_IS_LABEL, judge, look, pictured
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: raised when the engine or the verdict changes in a way that could change numbers
NUMBERS = 2
#: the same, where only those of random systems could
RANDOM_NUMBERS = 2
_FLUSH_SECONDS = 2.0
#: the most samples that an attack is given to learn from
SETUP_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """What is run.

    Args:
        attack_text: what records call the attack. early_exit: retire a sample at its first confirmed break; see
            `leaves_early`.
        targets: (n,) the user's own, one for every sample of the split, or None.
        keep: positions of the slice whose adversarial examples are kept.
        eot: draws that every query averages over; 0, as the attack itself wants.
        blind: the adversary knows nothing of the camera: all steps are made on the system without it, and the point that
            is best there is handed in.
        plain: the adversary does not know the defense; where it rejects, the point that is best without is handed in.
    """

    subject: Subject
    attack: Attack
    attack_text: str
    threat: Threat
    threat_text: str
    early_exit: bool = True
    precision: str = "float32"
    targets: Tensor | None = None
    keep: frozenset[int] = frozenset()
    eot: int = 0
    blind: bool = False
    plain: bool = False

    @property
    def hunted(self) -> Subject:
        """What the adversary works on."""
        subject = self.subject.plain if self.plain else self.subject
        return replace(subject.bare, shapes=subject.shapes) if self.blind and subject.bare is not None else subject

    @property
    def hands_in(self) -> bool:
        """Whether examples are made on something else than the system, and are judged by it once."""
        return self.draws > 1 or (self.plain and self.subject.system.detector is not None)

    @property
    def adaptive(self) -> bool:
        """Whether the attack uses what its adversary knows of the defense, and of a camera."""
        if self.plain:
            return False
        return not self.blind if self.subject.bare is not None else self.subject.adaptive

    @property
    def draws(self) -> int:
        """How often each example is looked at: more than once where the system or the threat is random."""
        random = self.subject.system.randomised or self.threat.random
        return self.subject.sitting.count if random else 1

    @property
    def leaves_early(self) -> bool:
        """Whether a sample leaves at its first confirmed break; on a random system none does, since that is confirmed by
        draws that the last word does not count, and it might deny a break that better ones would have followed."""
        return self.early_exit and not self.blind and self.draws == 1

    @property
    def idle(self) -> Tensor:
        """Which positions of the slice, (m,), nobody needs an example of: behind a camera those wrong on both sides of it."""
        wrong, bare = self.subject.clean.wrong, self.subject.bare
        return wrong if bare is None else wrong & bare.clean.wrong

    @property
    def target_rule(self) -> str | None:
        """How the class to climb towards is chosen."""
        return self.threat.target if self.threat.goal == "targeted" else self.attack.target_rule

    @property
    def target_column(self) -> Tensor | None:
        """The user's own targets in the order of the slice, (m,)."""
        return None if self.targets is None else self.targets.cpu()[torch.from_numpy(self.subject.indices)]

    @property
    def lessons(self) -> np.ndarray:
        """Positions of the split that the attack learns from, none of them evaluated; see `Attack.prepare`.

        Raises:
            UserError: every sample is evaluated.
        """
        return outside(self.subject.data, self.subject.indices, SETUP_SAMPLES, self.subject.seed)

    @cached_property
    def key(self) -> str:
        """The cell's content address."""
        subject = self.subject
        options = [(name, getattr(self.attack, name)) for name in specs.option_types(type(self.attack))]
        return cell_key(
            {
                "numbers": NUMBERS,
                "system": subject.system.digest,
                "fast": subject.fast.notes.get("fast", ""),
                "adaptive": subject.adaptive,
                "eot": self.eot,
                "blind": self.blind,
                "draws": self.draws,
                "data": subject.data.digest(),
                "attack": [
                    self.attack.name,
                    self.attack.version,
                    source_digest(type(self.attack)),
                    fingerprint(options),
                ],
                "threat": [
                    *(self.threat.norm, self.threat.eps, self.threat.goal, self.threat.target),
                    *self.threat.settings,
                ],
                "seed": subject.seed,
                "precision": self.precision,
                "early exit": self.leaves_early,
                "floor": subject.shapes.floor,
                "fixed": subject.shapes.fixed,
                "threads": torch.get_num_threads(),
                "device": _device_name(subject.device),
                "torch": torch.__version__,
                "targets": fingerprint(self.targets) if self.target_rule == "column" else None,
                "lessons": fingerprint(self.lessons) if prepares(self.attack, self.threat) else None,
                **({"plain": True} if self.plain else {}),
                **({"random": RANDOM_NUMBERS} if self.draws > 1 else {}),
            }
        )


@dataclass(kw_only=True)
class Ran:
    """What came of a cell: its rows, seconds spent now, kept examples by index, and why it failed, if it did.

    `stages` are the seconds of each stage, by place and name.
    """

    rows: pd.DataFrame
    seconds: float = 0.0
    examples: dict[int, np.ndarray] = field(default_factory=dict)
    failed: str = ""
    setup_seconds: float = 0.0
    setup_queries: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def run_cell(cell: Cell, records: Records, advance: Callable[[int, int], None], held: Collection[int] = ()) -> Ran:
    """Compute what is missing of the cell and return all its rows.

    Rows are on disk within two seconds of being known; an exception of the attack's own is told in `failed` and what was
    computed before it is kept.

    Args:
        advance: called with (samples that ended, how many of them broke).
        held: indices whose examples an earlier run has kept; those that are to be kept and are not there are made again.

    Raises:
        torch.OutOfMemoryError: the micro-batch does not fit; the caller tries a smaller one.
        KeyboardInterrupt: after what is known was written.
    """
    key = cell.key
    have = records.rows(key)
    wanted = cell.subject.indices
    lost = [index for index in _examples_of(cell) if index not in held]
    known = have[have["index"].isin(wanted) & ~have["index"].isin(lost)]
    todo = torch.from_numpy((~np.isin(wanted, known["index"].to_numpy(dtype=np.int64))).nonzero()[0])
    advance(len(known), int(known["broken"].sum()))
    ran, before = Ran(rows=known), records.noted(key)
    sink = _Sink(cell, key, records, ran.examples)
    started = time.perf_counter()
    try:
        for part in _until_failure(_compute(cell, key, todo, records, ran.stages), ran):
            sink.add(part)
            advance(len(part), part.broken)
    finally:
        sink.flush()
    ran.seconds = time.perf_counter() - started
    ran.setup_seconds, ran.setup_queries = (records.noted(key).get(name, 0.0) for name in ("seconds", "queries"))
    if records.noted(key) is not before:  # it has learned just now
        ran.seconds -= ran.setup_seconds
    rows = records.rows(key) if ran.failed else records.finish(key)
    ran.rows = _named(cell, rows[rows["index"].isin(wanted)])
    return ran


def _examples_of(cell: Cell) -> list[int]:
    """Indices of the samples that are attacked and whose examples are to be kept."""
    kept = torch.tensor(sorted(cell.keep), dtype=torch.int64)
    attacked = kept[~cell.idle[kept] & ~_left_out(cell, kept)]
    return [int(index) for index in cell.subject.indices[attacked.numpy()]]


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """Samples that nobody attacks, and why; what the system says of them that examples are made on, if there is one."""

    positions: Tensor
    reason: int
    source: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def broken(self) -> int:
        return len(self) if self.reason == CLEAN_WRONG else 0


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """Samples whose attack is over."""

    outcome: Outcome

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def broken(self) -> int:
        return int(self.outcome.verdict.broken.sum())


class _Spare(_Ended):
    """Samples that were settled before, and attacked all the same: their examples are kept, and no rows."""

    def __len__(self) -> int:
        return 0

    @property
    def broken(self) -> int:
        return 0


Part = _Settled | _Ended


class _Sink:
    """Gathers what is known, keeps the examples, and appends rows to the records every so often."""

    def __init__(self, cell: Cell, key: str, records: Records, examples: dict[int, np.ndarray]) -> None:
        self._cell, self._key, self._records, self._examples = cell, key, records, examples
        self._idle, self._ended, self._last = list[_Settled](), list[Outcome](), time.monotonic()

    def add(self, part: Part) -> None:
        if isinstance(part, _Settled):
            self._idle.append(part)
        else:
            self._examples.update(_kept(self._cell, part.outcome))
            if isinstance(part, _Spare):
                return
            # Rows tell of the image, they do not hold it.
            self._ended.append(replace(part.outcome, adv=part.outcome.adv[:, :0]))
        if time.monotonic() - self._last > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        idle, ended = self._idle, self._ended
        self._idle, self._ended, self._last = [], [], time.monotonic()
        frames = [_settled(self._cell, self._key, part) for part in idle]
        if ended:  # one table of many rows costs what one of few does
            frames.append(_frame(self._cell, self._key, concat(ended)))
        if frames:
            self._records.append(self._key, pd.concat(frames, ignore_index=True))


def _until_failure(parts: Iterator[Part], ran: Ran) -> Iterator[Part]:
    """The parts up to an exception of the attack's, which is told in `ran.failed`; what others must know goes through."""
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except (torch.OutOfMemoryError, MemoryError, UserError):
            raise
        except (Exception, SystemExit) as error:
            ran.failed = f"{type(error).__name__}: {error}".splitlines()[0]
            return
        yield part


def _compute(cell: Cell, key: str, todo: Tensor, records: Records, clocks: dict[str, float]) -> Iterator[Part]:
    """Rows of the positions `todo`: those that are settled before any attack, then the attacked ones as they end."""
    if not len(todo):
        return
    subject = cell.subject
    wrong = subject.clean.wrong[todo]
    left_out = _left_out(cell, todo) & ~wrong
    settled = [(todo[wrong], CLEAN_WRONG), (todo[left_out], TARGET_IS_LABEL)]
    alive, stages = todo[~cell.idle[todo] & ~_left_out(cell, todo)], list[Attack]()
    try:
        stages = _prepared(replace(cell, subject=cell.hunted), key, records) if len(alive) else []
    except Exception:  # what needs no attack is known all the same
        yield from (_Settled(positions=rows, reason=reason) for rows, reason in settled if len(rows))
        raise
    source = stages[-1].crafted_on if stages else None
    for rows, reason in settled:
        if len(rows):
            yield _Settled(positions=rows, reason=reason, source=_source_answers(cell, source, rows))
    if len(alive):
        yield from _attacked(cell, alive, stages, clocks)


def _source_answers(cell: Cell, source: System | None, positions: Tensor) -> Tensor | None:
    """What the system says of the clean images that the examples are made on, (n,) on the CPU."""
    if source is None:
        return None
    return look(source, *cell.subject.load(positions), cell.subject.shapes).prediction


def _with_source(cell: Cell, source: System | None, outcome: Outcome) -> Outcome:
    """The outcome with what the system says that the examples are made on; it is no part of the search, nor counted."""
    none = torch.full_like(outcome.sample, -1)
    if source is None:
        return replace(outcome, source_prediction=none, source_broken=none > 0)
    x, y, draws = cell.subject.load(outcome.sample.cpu())
    target = outcome.target if cell.threat.goal == "targeted" else None
    goal = Goal(y=y, target=target, success=cell.threat.goal)
    judged = judge(source, x, goal, cell.threat, outcome.adv, draws, cell.subject.shapes)
    said = look(source, x, y, draws, cell.subject.shapes).prediction.to(none.device)
    return replace(outcome, source_prediction=said, source_broken=judged.broken)


def _left_out(cell: Cell, todo: Tensor) -> Tensor:
    """Which positions have the target as their label: there is nothing to do for them."""
    labels = cell.subject.labels[todo]
    rule = cell.target_rule
    if rule == "column" and cell.target_column is not None:
        return cell.target_column[todo] == labels
    if rule is not None and rule.isdigit():
        return labels == int(rule)
    return torch.zeros(len(todo), dtype=torch.bool)


def _attacked(cell: Cell, alive: Tensor, learned: list[Attack], clocks: dict[str, float]) -> Iterator[Part]:
    """Run the stages, each on what is unbroken; a sample's row is made when it breaks, or after the last stage.

    Of a random system a break in doubt (see `stages.SURE`) is kept, and the sample goes on: the last word might deny it.
    """
    subject, copies = cell.hunted, [cell.hunted.fast]
    if (
        subject.reduced is not None and cell.threat.eps is not None
    ):  # a smallest norm is not to be had from a coarse copy
        copies = [subject.reduced, subject.fast]
    stages = [(stage, fast) for stage in learned for fast in copies]
    bill, doubts = new_bill(len(learned), len(subject.indices)), None
    for number, (attack, fast) in enumerate(stages):
        job = Search(
            attack=attack,
            threat=cell.threat,
            system=subject.system,
            fast=fast,
            shapes=subject.shapes,
            load=subject.load,
            adaptive=subject.adaptive,
            stop_early=cell.leaves_early,
            target_column=cell.target_column,
            eot=cell.eot,
            watch=cell.blind or subject.bare is None,  # what one draw of a camera shows is no break
        )
        alive_next, held = list[Tensor](), list[Outcome]()
        clock, started = f"{number // len(copies)} {attack}", time.perf_counter()
        for outcome in search(job, alive, subject.clean):
            outcome = better(billed(outcome, bill, number // len(copies)), doubts, cell.threat)
            ends = leaving(outcome, random=cell.draws > 1) | (number == len(stages) - 1)
            alive_next.append(outcome.sample[~ends].cpu())
            held.append(outcome[(outcome.verdict.broken & ~ends).nonzero().squeeze(1)])
            if bool(ends.any()):
                yield from _ended(cell, attack.crafted_on, outcome[ends.nonzero().squeeze(1)])
        clocks[clock] = clocks.get(clock, 0.0) + time.perf_counter() - started
        alive = torch.cat(alive_next).sort().values if alive_next else alive[:0]
        if not len(alive):
            return
        doubts = joined(held)


def _ended(cell: Cell, source: System | None, outcome: Outcome) -> Iterator[Part]:
    """The ended samples, with the last word where the system is random; those that were settled before apart."""
    if cell.hands_in:
        outcome = _judged_last(cell, outcome)
    outcome = _with_source(cell, source, outcome)
    before = cell.subject.clean.wrong[outcome.sample.cpu()].to(outcome.sample.device)
    for kind, rows in ((_Spare, before), (_Ended, ~before)):
        if bool(rows.any()):
            yield kind(outcome=outcome[rows.nonzero().squeeze(1)])


def _judged_last(cell: Cell, outcome: Outcome) -> Outcome:
    """Each sample's one example, judged once with draws that decided nothing before: what the search liked is no proof."""
    subject = cell.subject
    x, y, draws = subject.load(outcome.sample.cpu())
    target = outcome.target if bool((outcome.target >= 0).any()) else None
    goal = Goal(y=y, target=target, success=cell.threat.goal)
    sitting = subject.sitting.last
    adv, witness = outcome.adv, outcome.witness
    verdict = judge(subject.system, x, goal, cell.threat, adv, draws, subject.shapes, sitting, witness)
    if witness is not None:
        outcome = replace(outcome, adv=pictured(cell.threat, x, witness, draws, sitting))
    told = verdict.broken if subject.bare is None else torch.zeros_like(verdict.broken)  # nobody looks behind a camera
    return replace(outcome, verdict=verdict, break_forward=torch.where(told, outcome.break_forward, -1))


def _prepared(cell: Cell, key: str, records: Records) -> list[Attack]:
    """The stages, each with what it has learned, now or in an earlier run that kept it.

    What that cost is noted in the records, since it is paid once a cell, and before what was learned is kept.
    """
    if not prepares(cell.attack, cell.threat):
        return list(cell.attack.stages())
    started, askers, kept, taught = time.perf_counter(), list[Asker](), records.learned(key), list[Learned | None]()

    def learned(attack: Attack) -> Attack:
        if not attack.learns(cell.threat):
            return attack
        subject, data = cell.subject, cell.subject.data
        lessons = cell.lessons
        x, y, draws = load(data, lessons, torch.arange(len(lessons)), subject.seed, subject.device)
        adaptive, block = subject.adaptive, subject.shapes.floor
        askers.append(Asker(attack, subject.fast, cell.threat, seed=subject.seed, adaptive=adaptive, block=block))
        classes = subject.system.num_classes
        setup = Setup(x=x, y=y, draws=draws, threat=cell.threat, num_classes=classes, ask=askers[-1])
        place = len(askers) - 1
        able = attack.recall(kept[place], setup) if place < len(kept) else attack.prepare(setup)
        taught.append(able.learned)
        return able

    whole = learned(cell.attack)
    stages = [whole if stage is whole else learned(stage) for stage in whole.stages()]
    if kept:
        return stages
    queries, seconds = sum(asker.forwards + asker.backwards for asker in askers), time.perf_counter() - started
    figures = {name: value for one in taught if one is not None for name, value in one.figures.items()}
    records.note(key, {**figures, "seconds": seconds, "queries": float(queries)})
    if None not in taught:
        records.keep(key, [one for one in taught if one is not None])
    return stages


def _kept(cell: Cell, outcome: Outcome) -> dict[int, np.ndarray]:
    positions = outcome.sample.tolist()
    return {
        int(cell.subject.indices[position]): outcome.adv[row].cpu().numpy().copy()
        for row, position in enumerate(positions)
        if position in cell.keep
    }


def _frame(cell: Cell, key: str, outcome: Outcome) -> pd.DataFrame:
    verdict = outcome.verdict.to("cpu")
    positions = outcome.sample.cpu()
    norms = verdict.norms.numpy()
    values = _common(cell, key, positions) | {
        "prediction": verdict.prediction.numpy(),
        "broken": verdict.broken.numpy(),
        "valid": verdict.valid.numpy(),
        "reason": [REASONS[code] for code in verdict.reason.tolist()],
        **{name: norms[:, column] for column, name in enumerate(("linf", "l2", "l1", "l0"))},
        "margin": verdict.margin.numpy(),
        "forwards": outcome.forwards.cpu().numpy(),
        "backwards": outcome.backwards.cpu().numpy(),
        "target": outcome.target.cpu().numpy(),
        "target_hit": verdict.target_hit.numpy(),
        "rejected": verdict.rejected.numpy(),
        "score": verdict.score.numpy(),
        "draws": cell.draws,
        "break_rate": verdict.break_rate.numpy(),
        "broken_8bit": verdict.broken_8bit.numpy(),
        "lane": outcome.lane.cpu().numpy(),
        "break_forward": outcome.break_forward.cpu().numpy(),
        "source_prediction": _numbers(outcome.source_prediction, -1),
        "source_broken": _numbers(outcome.source_broken, False),
        "witness": "" if outcome.witness is None else cell.threat.tell(outcome.witness),
        **told([str(stage) for stage in cell.attack.stages()], outcome),
    }
    return pd.DataFrame(values)[list(COLUMNS)]


def _numbers(column: Tensor | None, otherwise: int | bool) -> Any:
    return otherwise if column is None else column.cpu().numpy()


def _settled(cell: Cell, key: str, part: _Settled) -> pd.DataFrame:
    """Rows of samples that nobody attacks: wrong on the clean image (broken at norm 0), or left out."""
    positions, reason = part.positions, part.reason
    clean = cell.subject.clean[positions]
    wrong = reason == CLEAN_WRONG
    values = _common(cell, key, positions) | {
        "prediction": clean.prediction.numpy(),
        "broken": wrong,
        "valid": True,
        "reason": ["nan-scores" if nan else REASONS[reason] for nan in clean.nan.tolist()],
        **dict.fromkeys(("linf", "l2", "l1", "l0"), 0.0),
        "margin": clean.margin.numpy(),
        "forwards": 0,
        "backwards": 0,
        "target": -1,
        "target_hit": False,
        "rejected": clean.rejected.numpy(),
        "score": clean.score.numpy(),
        "draws": cell.draws,
        "break_rate": float(wrong),
        "broken_8bit": wrong,
        "lane": 0,
        "break_forward": 0 if wrong else -1,
        "source_prediction": _numbers(part.source, -1),
        "source_broken": False,
        "witness": "",
        "stage": "",
        "stages": "",
    }
    return pd.DataFrame(values)[list(COLUMNS)]


def _common(cell: Cell, key: str, positions: Tensor) -> dict[str, Any]:
    subject = cell.subject
    clean = subject.clean[positions]
    return _names(cell) | {
        "index": subject.indices[positions.numpy()],
        "label": subject.labels[positions].numpy(),
        "clean_prediction": clean.prediction.numpy(),
        "norm": cell.threat.norm,
        "eps": np.nan if cell.threat.eps is None else cell.threat.eps,
        "clean_score": clean.score.numpy(),
        "seed": subject.seed,
        "key": key,
        "shape": "x".join(str(side) for side in subject.data.shape),
    }


def _names(cell: Cell) -> dict[str, Any]:
    subject = cell.subject
    return {
        "dataset": subject.data.name,
        "model": subject.model,
        "defense": subject.defense,
        "threat": cell.threat_text,
        "attack": cell.attack_text,
        "adaptive": cell.adaptive,
    }


def _named(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that another plan may have computed, under this plan's names, in the order of the index."""
    return rows.assign(**_names(cell))[list(COLUMNS)].reset_index(drop=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
