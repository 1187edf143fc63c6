"""How well a detector tells adversarial examples from clean images, from the records' columns `score` and `clean_score`.

Positives are the *successful* examples alone: valid points of samples that were right before, and are answered wrongly.
Negatives are the clean images that are answered rightly, rejected or not. Neither looks at the deployed threshold, except
where a column says so.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from robustbench_lite.results.fates import CELL, CLEAN_WRONG, FAILED, LEFT_OUT, fates_of
from robustbench_lite.results.grid import percent

KEY = (*CELL, "adaptive")
#: rates of false alarms that the table tells the rates of hits at
FALSE_ALARMS = (0.05, 0.01)
COLUMNS = (
    *KEY,
    *("n", "negatives", "positives", "auc", "tpr_at_5", "tpr_at_1", "clean_rejected"),
    *("robust_acc", "wrong_accepted", "wrong_rejected"),
)
SHOWN = ("tpr_at_5", "tpr_at_1", "wrong_accepted", "wrong_rejected", "robust_acc")
ROC = (*KEY, "threshold", "fpr", "tpr")


def detection(records: pd.DataFrame) -> pd.DataFrame:
    """Columns `COLUMNS`, a row a cell on a system with a detector; empty where there is none.

    `auc` is the chance that a positive scores above a negative, ties counted half. `tpr_at_5` and `tpr_at_1` are the shares
    of positives above the lowest threshold that no more than 5 and 1 % of the negatives of *this slice* lie above. At the
    deployed threshold, and over all n samples with a verdict: `clean_rejected` is the share whose clean image is rejected,
    `robust_acc` that of the right and accepted ones that stay so or whose example is rejected; `wrong_accepted` and
    `wrong_rejected` are the shares whose example is answered wrongly and passes, and does not.
    """
    rows = [_row(key, own) for key, own in _cells(records)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def roc(records: pd.DataFrame) -> pd.DataFrame:
    """Columns `ROC`: for each cell every corner of its curve, from rejecting nothing to rejecting everything."""
    parts = [
        pd.DataFrame(dict(zip(ROC[len(KEY) :], curve(*scores_of(own)), strict=True))).assign(
            **dict(zip(KEY, key, strict=True))
        )[list(ROC)]
        for key, own in _cells(records)
    ]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(ROC))


def scores_of(own: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The detector's scores of a cell's negatives and positives."""
    right = own["clean_prediction"] == own["label"]
    negative = own.loc[right & own["clean_score"].notna(), "clean_score"].to_numpy(dtype=float)
    fooled = _attacked(own) & right & own["valid"].astype(bool) & (own["prediction"] != own["label"])
    positive = own.loc[fooled & own["score"].notna(), "score"].to_numpy(dtype=float)
    return negative, positive


def auc(negative: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive is larger than a negative, ties counted half (Mann and Whitney); NaN without both."""
    if not len(negative) or not len(positive):
        return float("nan")
    ranked = np.sort(negative)
    below = np.searchsorted(ranked, positive, side="left")
    upto = np.searchsorted(ranked, positive, side="right")
    return float((below + upto).mean() / 2 / len(ranked))


def tpr_at(fpr: float, negative: np.ndarray, positive: np.ndarray) -> float:
    """The share of positives above the lowest threshold that no more than the share `fpr` of negatives lies above."""
    if not len(negative) or not len(positive):
        return float("nan")
    threshold = np.sort(negative)[len(negative) - 1 - int(fpr * len(negative) + 1e-9)]
    return float((positive > threshold).mean())


def curve(negative: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, downwards, and the shares of negatives and positives above each; none without both."""
    if not len(negative) or not len(positive):
        return (np.empty(0),) * 3
    levels = np.concatenate((np.unique(np.concatenate((negative, positive)))[::-1], [-np.inf]))
    return levels, _above(negative, levels), _above(positive, levels)


def _above(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return 1 - np.searchsorted(np.sort(values), levels, side="right") / len(values)


def _cells(records: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The cells on systems with a detector, as they come."""
    if not len(records) or "clean_score" not in records.columns:
        return
    for key, own in records.groupby(list(KEY), sort=False):
        if own["clean_score"].notna().any():
            yield key, own


def _attacked(own: pd.DataFrame) -> pd.Series:
    """Which samples were attacked: right and accepted before, with a verdict."""
    return ~own["reason"].fillna("").isin([CLEAN_WRONG, LEFT_OUT, FAILED])


def _row(key: tuple[Any, ...], own: pd.DataFrame) -> dict[str, Any]:
    negative, positive = scores_of(own)
    counted = own[~own["reason"].fillna("").isin([LEFT_OUT, FAILED])]
    attacked, rejected = _attacked(counted), counted["rejected"].astype(bool)
    wrong = attacked & counted["valid"].astype(bool) & (counted["prediction"] != counted["label"])
    n, robust = max(len(counted), 1), fates_of(counted)["robust"] == 1
    return {
        **dict(zip(KEY, key, strict=True)),
        "n": len(counted),
        "negatives": len(negative),
        "positives": len(positive),
        "auc": auc(negative, positive),
        "tpr_at_5": tpr_at(FALSE_ALARMS[0], negative, positive),
        "tpr_at_1": tpr_at(FALSE_ALARMS[1], negative, positive),
        "clean_rejected": float((~attacked & rejected).sum()) / n,
        "robust_acc": float(robust.sum()) / n,
        "wrong_accepted": float((wrong & ~rejected).sum()) / n,
        "wrong_rejected": float((wrong & rejected).sum()) / n,
    }


def table(found: pd.DataFrame) -> Group:
    """A table for each system with a row an attack; `found` is of `detection`."""
    parts: list[Any] = []
    names = ("", "AUC", "TPR at 5 %", "at 1 %", "passed", "rejected", "robust")  # AUC, and SHOWN
    for (dataset, model, defense, threat), own in found.groupby(list(KEY[:4]), sort=False):
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in names:
            grid.add_column(name, justify="right" if name else "left", overflow="fold")
        for row in own.to_dict("records"):
            shares = (float(row[name]) for name in SHOWN)
            area = "-" if math.isnan(row["auc"]) else f"{row['auc']:.3f}"
            grid.add_row(Text(f"{row['attack']}{'' if row['adaptive'] else ' (plain)'}"), area, *map(percent, shares))
        clean = percent(float(own["clean_rejected"].iloc[0]))
        title = f"{dataset} · {threat} · {model}, {defense}: detection in %, {clean} of clean images rejected"
        parts += [Text(title, style="bold"), grid]
    told = " AUC, TPR: of examples that are answered wrongly, against clean images that are answered rightly.\n"
    return Group(*parts, Text(f"{told} passed, rejected: of all samples, answered wrongly and let through, or not.\n"))
