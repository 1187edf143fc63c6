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
from robustbench_lite.attack import Asker, Attack, Setup, prepares
from robustbench_lite.data import outside
from robustbench_lite.errors import UserError
from robustbench_lite.fingerprint import fingerprint, source_digest
from robustbench_lite.run.engine import Search, search
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.records import COLUMNS, Records, cell_key
from robustbench_lite.run.subject import Subject, load
from robustbench_lite.run.verdict import CLEAN_WRONG, RANDOM_DRAWS, REASONS, TARGET_IS_LABEL
from robustbench_lite.threat import Threat

#: raised when the engine or the verdict changes in a way that could change numbers
NUMBERS = 1
_FLUSH_SECONDS = 2.0
#: the most samples that an attack is given to learn from
SETUP_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """What is run.

    Args:
        attack_text: what records call the attack. early_exit: retire a sample at its first confirmed break.
        targets: (n,) the user's own, one for every sample of the split, or None.
        keep: positions of the slice whose adversarial examples are kept.
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
                "data": subject.data.digest(),
                "attack": [
                    self.attack.name,
                    self.attack.version,
                    source_digest(type(self.attack)),
                    fingerprint(options),
                ],
                "threat": [self.threat.norm, self.threat.eps, self.threat.goal, self.threat.target],
                "seed": subject.seed,
                "precision": self.precision,
                "early exit": self.early_exit,
                "floor": subject.shapes.floor,
                "fixed": subject.shapes.fixed,
                "threads": torch.get_num_threads(),
                "device": _device_name(subject.device),
                "torch": torch.__version__,
                "targets": fingerprint(self.targets) if self.target_rule == "column" else None,
                "lessons": fingerprint(self.lessons) if prepares(self.attack) else None,
            }
        )


@dataclass(kw_only=True)
class Ran:
    """What came of a cell: its rows, seconds spent now, kept examples by index, and why it failed, if it did."""

    rows: pd.DataFrame
    seconds: float = 0.0
    examples: dict[int, np.ndarray] = field(default_factory=dict)
    failed: str = ""
    setup_seconds: float = 0.0
    setup_queries: float = 0.0


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
    ran, sink, before = Ran(rows=known), _Sink(records, key), records.noted(key)
    started = time.perf_counter()
    try:
        for frame, examples in _until_failure(_compute(cell, key, todo, records), ran):
            sink.add(frame)
            ran.examples.update(examples)
            advance(len(frame), int(frame["broken"].sum()))
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
    attacked = kept[~cell.subject.clean.wrong[kept] & ~_left_out(cell, kept)]
    return [int(index) for index in cell.subject.indices[attacked.numpy()]]


class _Sink:
    """Gathers frames and appends them to the records every so often."""

    def __init__(self, records: Records, key: str) -> None:
        self._records, self._key, self._frames, self._last = records, key, list[pd.DataFrame](), time.monotonic()

    def add(self, frame: pd.DataFrame) -> None:
        self._frames.append(frame)
        if time.monotonic() - self._last > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        frames, self._frames, self._last = self._frames, [], time.monotonic()
        if frames:
            self._records.append(self._key, pd.concat(frames, ignore_index=True))


Part = tuple[pd.DataFrame, dict[int, np.ndarray]]


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


def _compute(cell: Cell, key: str, todo: Tensor, records: Records) -> Iterator[Part]:
    """Rows of the positions `todo`: those that are settled before any attack, then the attacked ones as they end."""
    if not len(todo):
        return
    subject = cell.subject
    wrong = subject.clean.wrong[todo]
    left_out = _left_out(cell, todo) & ~wrong
    for rows, reason in ((wrong, CLEAN_WRONG), (left_out, TARGET_IS_LABEL)):
        if bool(rows.any()):
            yield _settled(cell, key, todo[rows], reason), {}
    alive = todo[~wrong & ~left_out]
    if len(alive):
        yield from _attacked(cell, key, alive, records)


def _left_out(cell: Cell, todo: Tensor) -> Tensor:
    """Which positions have the target as their label: there is nothing to do for them."""
    labels = cell.subject.labels[todo]
    rule = cell.target_rule
    if rule == "column" and cell.target_column is not None:
        return cell.target_column[todo] == labels
    if rule is not None and rule.isdigit():
        return labels == int(rule)
    return torch.zeros(len(todo), dtype=torch.bool)


def _attacked(cell: Cell, key: str, alive: Tensor, records: Records) -> Iterator[Part]:
    """Run the stages, each on what is unbroken; a sample's row is made when it breaks, or after the last stage."""
    subject, copies = cell.subject, [cell.subject.fast]
    if (
        subject.reduced is not None and cell.threat.eps is not None
    ):  # a smallest norm is not to be had from a coarse copy
        copies = [subject.reduced, subject.fast]
    stages = [(stage, fast) for stage in _prepared(cell, key, records) for fast in copies]
    paid = torch.zeros((2, len(subject.indices)), dtype=torch.int64)
    for number, (attack, fast) in enumerate(stages):
        job = Search(
            attack=attack,
            threat=cell.threat,
            system=subject.system,
            fast=fast,
            shapes=subject.shapes,
            load=subject.load,
            adaptive=subject.adaptive,
            stop_early=cell.early_exit,
            target_column=cell.target_column,
        )
        alive_next: list[Tensor] = []
        for outcome in search(job, alive, subject.clean):
            outcome = _with_paid(outcome, paid)
            ends = outcome.verdict.broken | (number == len(stages) - 1)
            alive_next.append(outcome.sample[~ends].cpu())
            if bool(ends.any()):
                ended = outcome[ends.nonzero().squeeze(1)]
                yield _frame(cell, key, ended), _kept(cell, ended)
        alive = torch.cat(alive_next).sort().values if alive_next else alive[:0]
        if not len(alive):
            return


def _prepared(cell: Cell, key: str, records: Records) -> list[Attack]:
    """The stages, each with what it has learned; what that cost is noted in the records, since it is paid once a cell."""
    if not prepares(cell.attack):
        return list(cell.attack.stages())
    started, askers = time.perf_counter(), list[Asker]()

    def learned(attack: Attack) -> Attack:
        if type(attack).prepare is Attack.prepare:
            return attack
        subject, data = cell.subject, cell.subject.data
        lessons = cell.lessons
        x, y, draws = load(data, lessons, torch.arange(len(lessons)), subject.seed, subject.device)
        adaptive, block = subject.adaptive, subject.shapes.floor
        askers.append(Asker(attack, subject.fast, cell.threat, seed=subject.seed, adaptive=adaptive, block=block))
        classes = subject.system.num_classes
        return attack.prepare(Setup(x=x, y=y, draws=draws, threat=cell.threat, num_classes=classes, ask=askers[-1]))

    whole = learned(cell.attack)
    stages = [whole if stage is whole else learned(stage) for stage in whole.stages()]
    queries, seconds = sum(asker.forwards + asker.backwards for asker in askers), time.perf_counter() - started
    records.note(key, {"seconds": seconds, "queries": float(queries)})
    return stages


def _with_paid(outcome: Outcome, paid: Tensor) -> Outcome:
    """Add what earlier stages cost, and remember the sum for later ones."""
    sample = outcome.sample.cpu()
    before = paid[:, sample]
    paid[:, sample] = before + torch.stack((outcome.forwards, outcome.backwards)).cpu()
    before = before.to(outcome.forwards.device)
    found = outcome.break_forward
    return replace(
        outcome,
        forwards=outcome.forwards + before[0],
        backwards=outcome.backwards + before[1],
        break_forward=torch.where(found >= 0, found + before[0], found),
    )


def _kept(cell: Cell, outcome: Outcome) -> dict[int, np.ndarray]:
    positions = outcome.sample.tolist()
    return {
        int(cell.subject.indices[position]): outcome.adv[row].cpu().numpy().copy()
        for row, position in enumerate(positions)
        if position in cell.keep
    }


def _frame(cell: Cell, key: str, outcome: Outcome) -> pd.DataFrame:
    verdict, subject = outcome.verdict.to("cpu"), cell.subject
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
        "draws": RANDOM_DRAWS if subject.system.randomised else 1,
        "break_rate": verdict.break_rate.numpy(),
        "broken_8bit": verdict.broken_8bit.numpy(),
        "lane": outcome.lane.cpu().numpy(),
        "break_forward": outcome.break_forward.cpu().numpy(),
    }
    return pd.DataFrame(values)[list(COLUMNS)]


def _settled(cell: Cell, key: str, positions: Tensor, reason: int) -> pd.DataFrame:
    """Rows of samples that nobody attacks: wrong on the clean image (broken at norm 0), or left out."""
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
        "draws": RANDOM_DRAWS if cell.subject.system.randomised else 1,
        "break_rate": float(wrong),
        "broken_8bit": wrong,
        "lane": 0,
        "break_forward": 0 if wrong else -1,
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
        "adaptive": subject.adaptive,
    }


def _named(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that another plan may have computed, under this plan's names, in the order of the index."""
    return rows.assign(**_names(cell))[list(COLUMNS)].reset_index(drop=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
