"""Records in, summary out: for each system and threat a row an attack, and a row for the worst case over them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robustbench_lite.results.clocks import CLOCKS, clock, declared_needs, failure, with_failures
from robustbench_lite.results.fates import CELL, FAILED, LEFT_OUT, SYSTEM, Cell, Expected, System, Trial, trials
from robustbench_lite.results.sources import SOURCE, source_figures
from robustbench_lite.results.statistics import clopper_pearson

WORST_CASE = "worst-case"
COLUMNS = (
    *("dataset", "model", "defense", "threat", "attack", "needs", "adaptive", "n", "clean_acc"),
    *("robust_acc", "robust_acc_low", "robust_acc_high", "success_rate", "targeted_success", "median_norm"),
    *("invalid", "forwards", "backwards", "seconds", "flags"),
    *("norm", "eps", "failed", "left_out", "clean_acc_low", "clean_acc_high", "broken_8bit", "median_break_forward"),
    *("setup_seconds", "setup_queries", "seed", "failure"),
    *("source_acc", "source_agreement", "source_success", "transfer", "transfer_low", "transfer_high"),
    "denied",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Context:
    """What stands beside the records: clocks, diagnostics, and what each attack needs."""

    timings: pd.DataFrame | None
    diagnostics: pd.DataFrame | None
    needs: Mapping[str, str]


def summarise(
    records: pd.DataFrame,
    timings: pd.DataFrame | None = None,
    diagnostics: pd.DataFrame | None = None,
    *,
    needs: Mapping[str, str] | None = None,
    expected: Expected | None = None,
) -> pd.DataFrame:
    """The summary: columns `COLUMNS`; for each (dataset, model, defense, threat) a row an attack and one `worst-case`.

    `clean_acc` and `robust_acc` are shares of all n samples of the row, with exact 95 % intervals over test images.
    A row with samples that have no verdict has no `robust_acc`; its low and high are then no confidence interval but
    the share with all of these counted as broken, and with all counted as robust.

    Where examples are crafted on another system, their source, `source_acc` and `source_agreement` are the shares of
    clean images that it gets right, and of which it says what the system says; `source_success` and `transfer` (with an
    exact interval) the shares of those that both get right whose examples break the source, and the system.

    `denied` is the share of the attacked samples that broke in the search alone: the verdict denied it by more than
    rounding, and they ended unbroken.

    Args:
        records: one row a sample and cell.
        timings: clocks by cell, for `seconds`, and why a cell failed, for `failure`; may have a column `needs`.
        diagnostics: fired and unchecked ones go to `flags`; without it nothing is said.
        needs: attack text -> what it needs of the oracle.
        expected: (dataset, model, defense, threat, attack) -> number of samples; a cell with fewer rows is unfinished.

    Raises:
        UserError: no records, columns missing, or a sample twice in a cell.
    """
    context = _Context(timings=timings, diagnostics=diagnostics, needs={**declared_needs(timings), **(needs or {})})
    every = trials(records, with_failures(records, timings, expected))
    rows = [row for trial in every for row in _trial_rows(trial, context)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def as_shown(summary: pd.DataFrame) -> pd.DataFrame:
    """A row an attack: of two that ran plainly and adaptively the one that left less, or has not ended, as the tables show it."""
    order = summary.sort_values("robust_acc", kind="stable", na_position="first")
    return summary.loc[order.drop_duplicates(["dataset", "model", "defense", "threat", "attack"]).index.sort_values()]


def _trial_rows(trial: Trial, context: _Context) -> list[dict[str, object]]:
    flags = flags_of(trial.system, context.diagnostics)
    rows = [_cell_row(cell, context) | {"flags": flags} for cell in trial.cells]
    return [*rows, _worst_row(trial, rows) | {"flags": flags}]


def flags_of(system: System, diagnostics: pd.DataFrame | None) -> str:
    """Names of the fired diagnostics of a system, and of the unchecked ones with a `?`, joined by `;`."""
    if diagnostics is None or diagnostics.empty:
        return ""
    own = diagnostics[(diagnostics[list(SYSTEM)] == list(system)).all(axis=1)]
    marks = {"fired": "", "unchecked": "?"}
    pairs = zip(own["diagnostic"], own["status"], strict=True)
    return ";".join(dict.fromkeys(f"{name}{marks[status]}" for name, status in pairs if status in marks))


def _cell_row(cell: Cell, context: _Context) -> dict[str, object]:
    counted, rows = cell.counted, cell.rows
    attacked = rows[_attacked(cell)]
    return {
        **dict(zip(CELL, cell.key, strict=True)),
        "needs": context.needs.get(cell.key[4], ""),
        "adaptive": bool(rows["adaptive"].any()) if len(rows) else pd.NA,
        **_accuracies(counted),
        **_searches(cell, attacked),
        "norm": _one(rows["norm"], ""),
        "eps": _one(rows["eps"].astype(float), math.nan),
        "seed": _one(rows["seed"], pd.NA),
        "left_out": len(cell.fates) - len(counted),
        **source_figures(rows, attacked),
        **clock(cell, context.timings),
        "failure": failure(cell, context.timings),
    }


def _worst_row(trial: Trial, rows: Sequence[dict[str, object]]) -> dict[str, object]:
    first, records = rows[0], pd.concat([cell.rows for cell in trial.cells])
    nearest = np.min([distances(cell, trial.worst.index) for cell in trial.cells], axis=0)
    adaptive = [row["adaptive"] for row in rows if row["adaptive"] is not pd.NA]
    return {
        **{name: first[name] for name in SYSTEM},
        "attack": WORST_CASE,
        "needs": "-",
        "adaptive": any(adaptive) if adaptive else pd.NA,
        **_accuracies(trial.worst),
        "targeted_success": math.nan,
        "median_norm": _median_norm(records, trial.worst, nearest),
        **{name: sum(row[name] for row in rows) for name in ("invalid", "forwards", "backwards")},  # type: ignore[misc]
        **{name: sum(row[name] for row in rows) for name in CLOCKS},  # type: ignore[misc]
        "norm": _one(records["norm"], ""),
        "eps": _one(records["eps"].astype(float), math.nan),
        "left_out": len(set(records["index"])) - int((trial.worst.index >= 0).sum()),
        "broken_8bit": _worst_8bit(trial),
        "median_break_forward": math.nan,
        "denied": denied_share(trial.cells, trial.worst),
        "seed": _one(records["seed"], pd.NA),
        **dict.fromkeys(SOURCE, math.nan),
        "failure": "",
    }


def _accuracies(fates: pd.DataFrame) -> dict[str, object]:
    """n, the two accuracies with their intervals, the success rate, and how many samples have no verdict."""
    n, right, robust = len(fates), fates["right"], fates["robust"]
    clean, clean_low, clean_high = _share(right)
    accuracy, low, high = _share(robust)
    whole = bool(robust.notna().all() and right.notna().all())
    kept, initially = int((robust == 1).sum()), int((right == 1).sum())
    return {
        "n": n,
        "clean_acc": clean,
        "clean_acc_low": clean_low,
        "clean_acc_high": clean_high,
        "robust_acc": accuracy,
        "robust_acc_low": low,
        "robust_acc_high": high,
        "success_rate": (initially - kept) / initially if whole and initially else math.nan,
        "failed": int(robust.isna().sum()),
    }


def _share(values: pd.Series) -> tuple[float, float, float]:
    """Share of ones with its exact interval; where some values are NaN, none, and the two bounds instead."""
    n, ones, unknown = len(values), int((values == 1).sum()), int(values.isna().sum())
    if n == 0:
        return math.nan, math.nan, math.nan
    if unknown:
        return math.nan, ones / n, (ones + unknown) / n
    return ones / n, *clopper_pearson(ones, n)


def _searches(cell: Cell, attacked: pd.DataFrame) -> dict[str, object]:
    """What the search found and what it cost, over the attacked samples."""
    broken = attacked[attacked["broken"].astype(bool) & attacked["valid"].astype(bool)]
    aimed = attacked[attacked["target"] >= 0]
    when = broken["break_forward"].astype(float)
    whole = bool(cell.counted["robust"].notna().all())
    return {
        "targeted_success": _mean(aimed["target_hit"]) if whole else math.nan,
        "median_norm": _median_norm(cell.rows, cell.counted, distances(cell, cell.counted.index)),
        "invalid": int((~cell.rows["valid"].astype(bool) & ~cell.rows["reason"].isin([FAILED, LEFT_OUT])).sum()),
        "forwards": _mean(attacked["forwards"]),
        "backwards": _mean(attacked["backwards"]),
        "broken_8bit": int(broken["broken_8bit"].astype(bool).sum()) / len(attacked)
        if len(attacked) and whole
        else math.nan,
        "median_break_forward": float(when[when >= 0].median()),
        "denied": denied_share([cell], cell.counted),
    }


def _attacked(cell: Cell) -> np.ndarray:
    """Which of a cell's rows were attacked: right on the clean image, not left out, and no crash."""
    fates = cell.fates.loc[cell.rows["index"].to_numpy()]
    failed = (cell.rows["reason"] == FAILED).to_numpy()
    return (fates["right"] == 1).to_numpy() & ~fates["left_out"].to_numpy() & ~failed


def denied_share(cells: Sequence[Cell], fates: pd.DataFrame) -> float:
    """The share of the initially right samples that broke in some search alone, and by these fates ended unbroken.

    NaN where no search at fixed eps on a system that answers alike was counted.
    """
    rows = pd.concat([cell.rows for cell in cells])
    if "denied" not in rows:
        return math.nan
    rows = rows[rows["denied"].notna() & rows["eps"].notna() & (rows["draws"] == 1)]
    robust = fates.index[((fates["right"] == 1) & (fates["robust"] == 1)).to_numpy()]
    right = int((fates["right"] == 1).sum())
    if not len(rows) or not right:
        return math.nan
    return len(set(rows.loc[rows["denied"] > 0, "index"]) & set(robust)) / right


def distances(cell: Cell, samples: pd.Index) -> np.ndarray:
    """Norm of each sample's adversarial example in the cell's own norm (s,); infinite where there is none."""
    rows = cell.rows[cell.rows["broken"].astype(bool) & cell.rows["valid"].astype(bool)]
    column = str(_one(cell.rows["norm"], "linf")).lower()
    if column not in rows:  # a threat beside the norms: its images have no distance
        return np.full(len(samples), math.nan)
    found = pd.Series(rows[column].to_numpy(dtype=float), index=rows["index"].to_numpy())
    return found.reindex(samples).fillna(math.inf).to_numpy()


def _median_norm(rows: pd.DataFrame, fates: pd.DataFrame, distances: np.ndarray) -> float:
    """Median over the initially right; only for minimum-norm runs in which every sample has a verdict."""
    if not len(rows) or rows["eps"].notna().any() or fates["robust"].isna().any():
        return math.nan
    mine = np.sort(distances[(fates["right"] == 1).to_numpy()])
    if not len(mine):
        return math.nan
    low, high = mine[(len(mine) - 1) // 2], mine[len(mine) // 2]
    return float(low if low == high else (low + high) / 2)


def _worst_8bit(trial: Trial) -> float:
    """Share of the initially right that some attack broke with an image of 8-bit pixels."""
    right = trial.worst.index[(trial.worst["right"] == 1).to_numpy()]
    if trial.worst["robust"].isna().any() or not len(right):
        return math.nan
    rows = pd.concat([cell.rows[_attacked(cell)] for cell in trial.cells])
    hit = rows["broken"].astype(bool) & rows["valid"].astype(bool) & rows["broken_8bit"].astype(bool)
    return len(set(rows["index"][hit]) & set(right)) / len(right)


def _mean(values: pd.Series) -> float:
    return float(values.astype(float).mean()) if len(values) else math.nan


def _one(values: pd.Series, otherwise: object) -> object:
    """The value that all rows have; `otherwise` where they differ or there are none."""
    unique = values.unique()
    return unique[0] if len(unique) == 1 else otherwise
