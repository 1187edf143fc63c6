"""Of an attack that crafts on another system, its source: how good that is, and how well the examples transfer."""

import math
from collections.abc import Iterator

import pandas as pd

from robustbench_lite.results.statistics import clopper_pearson

SOURCE = ("source_acc", "source_agreement", "source_success", "transfer", "transfer_low", "transfer_high")
#: rows of an attack that have a line each
_FEW = 3


def source_figures(rows: pd.DataFrame, attacked: pd.DataFrame) -> dict[str, float]:
    """The columns `SOURCE` of one cell; NaN where the attack has no source.

    Args:
        rows: all of the cell. attacked: those that were right on the clean image and attacked.
    """
    known = _asked(rows)
    if not len(known):
        return dict.fromkeys(SOURCE, math.nan)
    both = _asked(attacked)
    both = both[both["source_prediction"] == both["label"]]
    broken = both["broken"].astype(bool) & both["valid"].astype(bool)
    hits, n = int(broken.sum()), len(both)
    low, high = clopper_pearson(hits, n) if n else (math.nan, math.nan)
    return {
        "source_acc": float((known["source_prediction"] == known["label"]).mean()),
        "source_agreement": float((known["source_prediction"] == known["clean_prediction"]).mean()),
        "source_success": float(both["source_broken"].astype(bool).mean()) if n else math.nan,
        "transfer": hits / n if n else math.nan,
        "transfer_low": low,
        "transfer_high": high,
    }


def source_lines(rows: pd.DataFrame) -> Iterator[str]:
    """The figures of one attack in words: each system's, or their range where that would fill the screen."""
    if len(rows) <= _FEW:
        yield from (
            _line(f"{row['attack']} on {row['model']}, {row['defense']}", row.to_frame().T)
            for _, row in rows.iterrows()
        )
    else:
        yield _line(f"{rows['attack'].iloc[0]}, all {len(rows)} rows", rows)


def _line(who: str, rows: pd.DataFrame) -> str:
    said = f"agrees with the system on {_range(rows['source_agreement'])} and is right on {_range(rows['source_acc'])}"
    bounds = f" [{_percent(rows['transfer_low'].iloc[0])}, {_percent(rows['transfer_high'].iloc[0])}]" * (
        len(rows) == 1
    )
    reached = f"{_range(rows['source_success'])} break it and {_range(rows['transfer'])}{bounds} transfer"
    queries = float(rows["setup_queries"].max())
    bought = f"; {queries:.0f} queries to learn it" if queries > 0 else ""
    return f"{who}: its source {said}; of what both get right {reached}{bought}."


def _range(values: pd.Series) -> str:
    """`90.3 %`, or `90.3 to 96.0 %`."""
    low, high = _percent(values.min()), _percent(values.max())
    return high if low == high else f"{low.removesuffix(' %')} to {high}"


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that a source was asked about."""
    return rows[rows["source_prediction"] >= 0] if "source_prediction" in rows else rows[:0]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"
