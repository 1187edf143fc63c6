"""From a cell and what is recorded of it already to complete records."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from robustbench_lite.errors import UserError
from robustbench_lite.guard import is_memory_error, told
from robustbench_lite.rows import concat
from robustbench_lite.run import clocks
from robustbench_lite.run.cascade import Part, Settled, Spare, computed
from robustbench_lite.run.cell import Cell, left_out
from robustbench_lite.run.cell_rows import ended_rows, named, settled_rows
from robustbench_lite.run.finished_stages import FinishedStages
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.progress import CellProgress, Report
from robustbench_lite.run.records import Records
from robustbench_lite.run.verdict import FAILED, REASONS

_LOGGER = logging.getLogger(__name__)
#: what is known is on disk after so many seconds, or before the next step where steps are longer
_FLUSH_SECONDS = 2.0
#: the examples of a cell are one file: it is written again after so many times what that took
_SELDOM = 20


@dataclass(kw_only=True)
class Ran:
    """What came of a cell: its rows, seconds spent now, kept examples by index, and why it failed, if it did.

    `busy_seconds` are those of this process's own work (`clocks.busy`), setup included; `stages` the seconds of each stage, by
    place and name; `computed`, whether there was anything to do.
    """

    rows: pd.DataFrame
    seconds: float = 0.0
    busy_seconds: float = 0.0
    examples: dict[int, np.ndarray] = field(default_factory=dict)
    failed: str = ""
    setup_seconds: float = 0.0
    setup_queries: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    computed: bool = True


def _nobody(text: str) -> None:
    """Who is told nothing."""


def _forget(examples: dict[int, np.ndarray]) -> None:
    """Keeps nothing."""


def run_cell(
    cell: Cell,
    records: Records,
    advance: Callable[[int, int], None],
    held: Collection[int] = (),
    note: Callable[[str], None] = _nobody,
    report: Report | None = None,
    keep: Callable[[dict[int, np.ndarray]], object] = _forget,
) -> Ran:
    """Compute what is missing of the cell and return all its rows.

    Rows, examples, and which stages of a cascade have ended, are on disk within two seconds of being known; an exception of the
    attack's own is told in `failed` and what was computed before it is kept.

    Args:
        advance: called with (samples that ended, how many of them broke).
        held: indices whose examples an earlier run has kept; those that are to be kept and are not there are made again.
        note: told where records were of another system.
        report: told how far the cell is, see `Reporter.progress`. keep: keeps examples, and those that it is given later.

    Raises:
        torch.OutOfMemoryError: the micro-batch does not fit; the caller tries a smaller one.
        KeyboardInterrupt: after what is known was written.
    """
    key = cell.key
    have = _of_this_system(cell, records, key, note)
    wanted = cell.subject.indices
    lost = [index for index in _examples_of(cell) if index not in held]
    known = have[have["index"].isin(wanted) & ~have["index"].isin(lost)]
    todo = torch.from_numpy((~np.isin(wanted, known["index"].to_numpy(dtype=np.int64))).nonzero()[0])
    advance(len(known), int(known["broken"].sum()))
    ran, before = Ran(rows=known, computed=len(todo) > 0), records.noted(key)
    if len(known):
        _LOGGER.info("%d of %d samples come from the records %s", len(known), len(wanted), key)
    sink = _Sink(cell, key, records, ran.examples, keep)
    finished = FinishedStages(records.stages_file(key), key, wanted, _answers(cell))

    def write(expected: float) -> None:
        sink.flush_after(_FLUSH_SECONDS - expected)
        finished.write_after(_FLUSH_SECONDS - expected)

    progress = CellProgress(report, write)
    progress.broken = int(known["broken"].sum())
    device, complete = cell.subject.device, False
    started, busy = clocks.wall(), clocks.busy(device)
    try:
        for part in _until_failure(computed(cell, key, todo, records, finished, progress), ran):
            sink.add(part)
            advance(len(part), part.broken)
            progress.broken += part.broken
        complete = not ran.failed
    finally:
        sink.flush()
        if not complete:
            sink.keep_examples()
            finished.write(clocked=bool(ran.failed))
    ran.seconds = clocks.wall() - started + finished.seconds_before
    ran.busy_seconds = clocks.busy(device) - busy
    ran.stages = finished.seconds
    ran.setup_seconds, ran.setup_queries = (records.noted(key).get(name, 0.0) for name in ("seconds", "queries"))
    if records.noted(key) is not before:  # it has learned just now
        ran.seconds -= ran.setup_seconds
    rows = records.finish(key) if complete else records.rows(key)
    if complete:
        finished.forget()
    ran.rows = named(cell, rows[rows["index"].isin(wanted)])
    return ran


def _answers(cell: Cell) -> torch.Tensor:
    """What the system says of the clean images, (n,) int64; nothing that can be compared where it is random."""
    prediction = cell.subject.clean.prediction
    return torch.zeros_like(prediction) if cell.subject.system.model_is_random else prediction


def _of_this_system(cell: Cell, records: Records, key: str, note: Callable[[str], None]) -> pd.DataFrame:
    """What is recorded of the cell, if the system still answers its clean images as it did then; else it is forgotten.

    A key covers what can be seen of a system. What cannot, such as a file that it reads as it answers, shows here.
    """
    have, subject = records.rows(key), cell.subject
    place = pd.Series(range(len(subject.indices)), index=subject.indices)
    rows = have[have["index"].isin(subject.indices) & (have["reason"] != REASONS[FAILED])]
    at = place[rows["index"].to_numpy(dtype=np.int64)].to_numpy()
    answers, labels = subject.clean.prediction.numpy()[at], subject.labels.numpy()[at]
    same = (rows["label"] == labels) & ((rows["clean_prediction"] == answers) | subject.system.model_is_random)
    if bool(same.all()) and bool((ours := _of_this_cell(cell, rows)).all()):
        return have
    told = (
        f"{int((~same).sum())} of {len(rows)} recorded clean answers are not the system's any more; the records are stale"
        if not bool(same.all())
        else f"{int((~ours).sum())} of {len(rows)} records are of another threat or other classes; they are damaged"
    )
    note(f"{cell.attack_text} on {subject.name}: {told} and computed anew")
    records.forget(key)
    return records.rows(key)


def _of_this_cell(cell: Cell, rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether the rows are of this cell's threat and classes, (n,) bool."""
    eps, classes = cell.threat.eps, cell.subject.system.num_classes
    known = (rows["norm"] == cell.threat.norm) & (rows["eps"].isna() if eps is None else rows["eps"] == eps)
    return known & rows["prediction"].between(0, classes - 1)


def _examples_of(cell: Cell) -> list[int]:
    """Indices of the samples that are attacked and whose examples are to be kept."""
    kept = torch.tensor(sorted(cell.keep), dtype=torch.int64)
    attacked = kept[~cell.idle[kept] & ~left_out(cell, kept)]
    return [int(index) for index in cell.subject.indices[attacked.numpy()]]


class _Sink:
    """Gathers what is known, keeps the examples, and appends rows to the records every so often."""

    def __init__(
        self,
        cell: Cell,
        key: str,
        records: Records,
        examples: dict[int, np.ndarray],
        keep: Callable[[dict[int, np.ndarray]], object],
    ) -> None:
        self._cell, self._key, self._records, self._examples, self._keep = cell, key, records, examples, keep
        self._kept, self._kept_at, self._keeping = 0, time.monotonic(), 0.0
        self._idle, self._ended, self._last = list[Settled](), list[Outcome](), time.monotonic()

    def add(self, part: Part) -> None:
        if isinstance(part, Settled):
            self._idle.append(part)
        else:
            self._examples.update(_kept(self._cell, part.outcome))
            if isinstance(part, Spare):
                return
            # Rows tell of the image, they do not hold it.
            self._ended.append(replace(part.outcome, adv=part.outcome.adv[:, :0]))
        self.flush_after(_FLUSH_SECONDS)

    def flush_after(self, seconds: float) -> None:
        """Write what there is, if the last time is so long ago."""
        if time.monotonic() - self._last > seconds:
            self.flush()

    def flush(self) -> None:
        idle, ended = self._idle, self._ended
        if not (idle or ended):
            return
        if time.monotonic() - self._kept_at > _SELDOM * self._keeping:
            self.keep_examples()  # before the rows: a row without its example is computed again
        self._idle, self._ended, self._last = [], [], time.monotonic()
        frames = [settled_rows(self._cell, self._key, part) for part in idle]
        if ended:  # one table of many rows costs what one of few does
            frames.append(ended_rows(self._cell, self._key, concat(ended)))
        if frames:
            self._records.append(self._key, pd.concat(frames, ignore_index=True))

    def keep_examples(self) -> None:
        """Write the examples so far, if there are new ones."""
        if len(self._examples) == self._kept:
            return
        began = time.monotonic()
        self._keep(self._examples)
        self._kept, self._kept_at = len(self._examples), time.monotonic()
        self._keeping = self._kept_at - began


def _until_failure(parts: Iterator[Part], ran: Ran) -> Iterator[Part]:
    """The parts up to an exception of the attack's, which is told in `ran.failed`; what others must know goes through."""
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_memory_error(error):
                raise torch.OutOfMemoryError(told(error)) from error
            ran.failed = told(error)
            return
        yield part


def _kept(cell: Cell, outcome: Outcome) -> dict[int, np.ndarray]:
    positions = outcome.sample.tolist()
    return {
        int(cell.subject.indices[position]): outcome.adv[row].cpu().numpy().copy()
        for row, position in enumerate(positions)
        if position in cell.keep
    }
