"""From a cell and what is recorded of it already to complete records."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from robustbench_lite.errors import UserError
from robustbench_lite.rows import concat
from robustbench_lite.run import clocks
from robustbench_lite.run.cascade import Part, Settled, Spare, computed
from robustbench_lite.run.cell import Cell, left_out
from robustbench_lite.run.cell_rows import ended_rows, named, settled_rows
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.records import Records

_FLUSH_SECONDS = 2.0


@dataclass(kw_only=True)
class Ran:
    """What came of a cell: its rows, seconds spent now, kept examples by index, and why it failed, if it did.

    `busy_seconds` are those of this process's own work (`clocks.busy`), setup included; `stages` the seconds of each stage, by
    place and name.
    """

    rows: pd.DataFrame
    seconds: float = 0.0
    busy_seconds: float = 0.0
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
    device = cell.subject.device
    started, busy = clocks.wall(), clocks.busy(device)
    try:
        for part in _until_failure(computed(cell, key, todo, records, ran.stages), ran):
            sink.add(part)
            advance(len(part), part.broken)
    finally:
        sink.flush()
    ran.seconds, ran.busy_seconds = clocks.wall() - started, clocks.busy(device) - busy
    ran.setup_seconds, ran.setup_queries = (records.noted(key).get(name, 0.0) for name in ("seconds", "queries"))
    if records.noted(key) is not before:  # it has learned just now
        ran.seconds -= ran.setup_seconds
    rows = records.rows(key) if ran.failed else records.finish(key)
    ran.rows = named(cell, rows[rows["index"].isin(wanted)])
    return ran


def _examples_of(cell: Cell) -> list[int]:
    """Indices of the samples that are attacked and whose examples are to be kept."""
    kept = torch.tensor(sorted(cell.keep), dtype=torch.int64)
    attacked = kept[~cell.idle[kept] & ~left_out(cell, kept)]
    return [int(index) for index in cell.subject.indices[attacked.numpy()]]


class _Sink:
    """Gathers what is known, keeps the examples, and appends rows to the records every so often."""

    def __init__(self, cell: Cell, key: str, records: Records, examples: dict[int, np.ndarray]) -> None:
        self._cell, self._key, self._records, self._examples = cell, key, records, examples
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
        if time.monotonic() - self._last > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        idle, ended = self._idle, self._ended
        self._idle, self._ended, self._last = [], [], time.monotonic()
        frames = [settled_rows(self._cell, self._key, part) for part in idle]
        if ended:  # one table of many rows costs what one of few does
            frames.append(ended_rows(self._cell, self._key, concat(ended)))
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


def _kept(cell: Cell, outcome: Outcome) -> dict[int, np.ndarray]:
    positions = outcome.sample.tolist()
    return {
        int(cell.subject.indices[position]): outcome.adv[row].cpu().numpy().copy()
        for row, position in enumerate(positions)
        if position in cell.keep
    }
