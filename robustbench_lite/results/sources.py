"""Of an attack that crafts on another system, its source: how good that is, and how well the examples transfer."""

import math

import pandas as pd

from robustbench_lite.results.statistics import clopper_pearson

SOURCE = ("source_acc", "source_agreement", "source_success", "transfer", "transfer_low", "transfer_high")


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


def source_line(row: pd.Series) -> str:
    """The figures of a summary row in words."""
    said = (
        f"agrees with the system on {_percent(row['source_agreement'])} and is right on {_percent(row['source_acc'])}"
    )
    bounds = f"[{_percent(row['transfer_low'])}, {_percent(row['transfer_high'])}]"
    reached = f"{_percent(row['source_success'])} break it and {_percent(row['transfer'])} {bounds} transfer"
    bought = f"; {row['setup_queries']:.0f} queries to learn it" if row["setup_queries"] > 0 else ""
    return f"{row['attack']} on {row['model']}, {row['defense']}: its source {said}; of what both get right {reached}{bought}."


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that a source was asked about."""
    return rows[rows["source_prediction"] >= 0] if "source_prediction" in rows else rows[:0]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"
