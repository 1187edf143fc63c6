"""Robust accuracy as the attack goes on: over the queries that a sample has cost, and over the seconds of the search.

Both begin at the clean accuracy and end at the robust accuracy of the summary. Only attacks at a fixed eps (or under a
threat without a norm) are here: a search for the nearest example has broken a sample at *some* distance long before it
ends, so its course says nothing. A cell in which a sample has no verdict has no course.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from robustbench_lite.results.clocks import clock
from robustbench_lite.results.fates import SYSTEM, Cell, Expected, Trial, trials, worst_case

QUERIES = (*SYSTEM, "attack", "adaptive", "n", "forwards", "robust_acc")
TIME = (*SYSTEM, "step", "attack", "adaptive", "n", "seconds", "robust_acc")


def over_queries(records: pd.DataFrame, *, expected: Expected | None = None) -> pd.DataFrame:
    """Columns `QUERIES`: for each cell every corner of its curve, from the clean accuracy at 0 to where the search ended.

    `robust_acc` is the share of all n samples that is right and not broken once every sample has had so many forwards, a
    sample's later restarts included. A gradient attack pays about as many backwards. Where it is not known when a sample
    broke (a foreign library's attack, a last judgement by other draws), it counts at the end of its search.

    Raises:
        UserError: as `metrics.summarise`.
    """
    rows = [row for trial in trials(records, expected) for cell in trial.cells for row in _queries(cell)]
    return pd.DataFrame(rows, columns=list(QUERIES))


def over_time(records: pd.DataFrame, timings: pd.DataFrame | None, *, expected: Expected | None = None) -> pd.DataFrame:
    """Columns `TIME`: for each system and threat a row for the start, and one for the end of each attack.

    `seconds` are those of all attacks so far, one after the other in the order of the plan, what they learned beforehand
    included; `robust_acc` is the worst case over them. When within an attack a sample broke is not on the clock. Seconds
    are of the machine that ran it. Where a clock is missing, the system has no course from there on.

    Raises:
        UserError: as `metrics.summarise`.
    """
    rows = [row for trial in trials(records, expected) for row in _seconds(trial, timings)]
    return pd.DataFrame(rows, columns=list(TIME))


def _queries(cell: Cell) -> Iterator[dict[str, object]]:
    fates = cell.counted
    if not len(fates) or fates[["right", "robust"]].isna().any(axis=None) or _nearest(cell):
        return
    lost = fates.index[(fates["right"] == 1) & (fates["robust"] == 0)]
    rows = cell.rows.set_index("index")
    when, spent = rows["break_forward"].reindex(lost).to_numpy(), rows["forwards"].reindex(lost).to_numpy()
    moments = np.sort(np.where(when >= 0, when, spent).astype(np.int64))
    right, end = int((fates["right"] == 1).sum()), int(rows["forwards"].max())
    names = dict(zip((*SYSTEM, "attack"), cell.key, strict=True))
    who = names | {"adaptive": bool(cell.rows["adaptive"].any()), "n": len(fates)}
    for forwards in sorted({0, *moments.tolist(), end}):
        kept = right - int(np.searchsorted(moments, forwards, side="right"))
        yield who | {"forwards": forwards, "robust_acc": kept / len(fates)}


def _seconds(trial: Trial, timings: pd.DataFrame | None) -> Iterator[dict[str, object]]:
    cells = [cell for cell in trial.cells if not _nearest(cell)]
    n = len(trial.worst)
    if not n or trial.worst["right"].isna().any():
        return
    who = {**dict(zip(SYSTEM, trial.system, strict=True)), "n": n}
    clean = float((trial.worst["right"] == 1).mean())
    rows: list[dict[str, object]] = [{"attack": "", "adaptive": False, "step": 0, "seconds": 0.0, "robust_acc": clean}]
    seconds = 0.0
    for step, cell in enumerate(cells, start=1):
        told = clock(cell, timings)
        seconds += told["seconds"] + told["setup_seconds"]
        kept = _kept(trial, cells[:step])
        if math.isnan(seconds) or math.isnan(kept):
            break
        names = {"attack": cell.key[4], "adaptive": bool(cell.rows["adaptive"].any()), "step": step}
        rows.append({**names, "seconds": seconds, "robust_acc": kept / n})
    if len(rows) > 1:
        yield from (who | row for row in rows)


def _kept(trial: Trial, cells: Sequence[Cell]) -> float:
    """How many samples these attacks have left; NaN where one has no verdict. Who was left out by all of them is left."""
    samples = trial.worst.index
    worst = worst_case([cell.fates for cell in cells], samples)["robust"]
    spared = trial.worst["right"].loc[samples.difference(worst.index)]
    return math.nan if worst.isna().any() else float((worst == 1).sum() + (spared == 1).sum())


def _nearest(cell: Cell) -> bool:
    """Whether the attack looked for the nearest example: a norm without an eps."""
    return bool(len(cell.rows) and cell.rows["eps"].isna().all() and (cell.rows["norm"] != "").any())
