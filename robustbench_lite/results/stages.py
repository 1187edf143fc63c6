"""A cascade's components, one by one, from the records' columns `stage` and `stages`."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from robustbench_lite.results.fates import CELL

COLUMNS = (
    *CELL,
    *("stage", "attacked", "broken", "robust_acc", "forwards", "backwards", "seconds"),
)


def by_stage(records: pd.DataFrame, timings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Columns `COLUMNS`, a row a component, in the order of each cascade; empty where no attack is one.

    `attacked` samples were left to the component and `broken` ones it broke; `robust_acc` is the share of all recorded
    samples that was left unbroken after it, which says nothing of its strength alone. `forwards` and `backwards` are
    means over the attacked ones. `seconds` come from the timings' column `stages`; NaN without.
    """
    rows: list[dict[str, Any]] = []
    if "stages" in records.columns and len(records):
        for key, own in records.groupby([*CELL, "adaptive"], sort=False):
            cell = tuple(map(str, key))[:-1]
            names = dict(zip(CELL, cell, strict=True))
            rows += [names | row for row in _stages(own, _seconds(own, timings))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def both(now: str, before: str) -> str:
    """Two texts of a timings' column `stages`, added up."""
    if not (now and before):
        return now or before
    found = json.loads(before)
    for name, seconds in json.loads(now).items():
        found[name] = found.get(name, 0.0) + seconds
    return json.dumps(found)


def _stages(own: pd.DataFrame, seconds: dict[str, float]) -> Iterator[dict[str, Any]]:
    """The components of one cascade."""
    paths = [_read(text) for text in own["stages"].fillna("")]
    longest = max(paths, key=len)
    ended = [len(path) - 1 if broken else math.inf for path, broken in zip(paths, own["broken"], strict=True)]
    for place, (name, _, _) in enumerate(longest):
        costs = [path[place] for path in paths if len(path) > place]
        yield {
            "stage": name,
            "attacked": len(costs),
            "broken": sum(end == place for end in ended),
            "robust_acc": sum(end > place for end in ended) / len(own),
            "forwards": sum(cost[1] for cost in costs) / len(costs),
            "backwards": sum(cost[2] for cost in costs) / len(costs),
            "seconds": seconds.get(f"{place} {name}", math.nan),
        }


def _read(text: str) -> list[tuple[str, int, int]]:
    """`apgd 101+101 > apgd-t 12+12` as (name, forwards, backwards)."""
    found = []
    for part in text.split(" > ") if text else ():
        name, _, cost = part.rpartition(" ")
        forwards, _, backwards = cost.partition("+")
        found.append((name, int(forwards), int(backwards)))
    return found


def _seconds(own: pd.DataFrame, timings: pd.DataFrame | None) -> dict[str, float]:
    """By place and name of the component, over all timings of these records."""
    found = ""
    if timings is not None and "stages" in timings.columns:
        for text in timings.loc[timings["key"].isin(own["key"].unique()), "stages"].fillna(""):
            found = both(text, found)
    return dict(json.loads(found or "{}"))
