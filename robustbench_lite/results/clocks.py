"""What timings tell: how long a cell took, what its attack needs, and why it failed."""

import math

import pandas as pd

from robustbench_lite.results.fates import CELL, Cell, Expected

CLOCKS = ("seconds", "setup_seconds", "setup_queries")


def with_failures(
    records: pd.DataFrame, timings: pd.DataFrame | None, expected: Expected | None = None
) -> Expected | None:
    """`expected`, and the cells that timings call failed, which were to have all samples of their dataset."""
    crashed = _crashed(timings)
    if crashed is None or crashed.empty:
        return expected
    expected = dict(expected or {})
    sizes = records.groupby("dataset")["index"].nunique()
    found = dict.fromkeys(records[list(CELL)].drop_duplicates().itertuples(index=False, name=None), 0)
    lost = {key: max(1, int(sizes.get(key[0], 0))) for key in crashed[list(CELL)].itertuples(index=False, name=None)}
    return expected | {key: n for key, n in (found | lost).items() if key not in expected}


def clock(cell: Cell, timings: pd.DataFrame | None) -> dict[str, float]:
    """The sums of `CLOCKS` over a cell's timings; NaN where there are none, and of a cell that has not ended."""
    own = _timed(cell, timings)
    if own is None or own.empty or (len(cell.rows) and bool((cell.rows["key"] == "").all())):
        return dict.fromkeys(CLOCKS, math.nan)
    same = own[own["key"].isin(cell.rows["key"].unique())]  # tells the plain run of an attack from the adaptive one
    own = same if len(same) else own
    return {name: float(own[name].sum()) for name in CLOCKS}


def failure(cell: Cell, timings: pd.DataFrame | None) -> str:
    """Why samples of the cell have no verdict, as far as timings tell; nothing once a later run has made up for it."""
    own = _crashed(_timed(cell, timings))
    return "" if own is None or cell.counted["robust"].notna().all() else "; ".join(own["failed"].unique())


def _crashed(timings: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if timings is None else timings[timings["failed"].fillna("") != ""]


def _timed(cell: Cell, timings: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if timings is None else timings[(timings[list(CELL)] == list(cell.key)).all(axis=1)]


def declared_needs(timings: pd.DataFrame | None) -> dict[str, str]:
    """Attack text -> needs, where the timings have a column for it."""
    if timings is None or "needs" not in timings.columns:
        return {}
    return dict(zip(timings["attack"], timings["needs"], strict=True))
