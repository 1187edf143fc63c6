"""The security curve: robust accuracy over eps.

Fixed-eps runs give one point an eps. One minimum-norm run gives the whole curve: at eps, what was broken within eps is
lost. Both begin at eps 0 with the clean accuracy, since a sample that is wrong there is broken at norm 0.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from robustbench_lite.results.fates import Expected, Trial, trials
from robustbench_lite.results.metrics import WORST_CASE, as_shown, distances, summarise
from robustbench_lite.results.statistics import clopper_pearson

COLUMNS = ("dataset", "model", "defense", "norm", "attack", "eps", "n", "robust_acc", "low", "high")
_LINE = ["dataset", "model", "defense", "norm", "attack"]
_POINTS = 200  # of a minimum-norm curve; more cannot be seen


def security_curve(records: pd.DataFrame, *, expected: Expected | None = None) -> pd.DataFrame:
    """Points of every curve there is: columns `COLUMNS`, sorted by eps within an attack; empty where there is none.

    An attack has a curve when it ran at two eps of one norm or more, or with minimum norm (attack text unchanged).
    `norm` carries what else the threat says, such as a target, since curves of different goals do not join.

    Raises:
        UserError: as `metrics.summarise`.
    """
    summary = as_shown(summarise(records, expected=expected))
    summary["norm"] = summary["norm"] + summary["threat"].map(goal_of)
    fixed = summary[summary["eps"].notna()]
    rows = [row for _, group in fixed.groupby(_LINE, sort=False) for row in _fixed(group)]
    for trial in trials(records, expected):
        rows += _minimum_norm(trial)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def goal_of(threat: str) -> str:
    """What a threat says besides its norm and eps: `,goal=targeted` of `L2:1,goal=targeted` and `L2:goal=targeted`.

    The eps of a patch is its area.
    """
    _, _, rest = threat.partition(":")
    eps, _, options = rest.partition(",")
    options = options if "=" not in eps or eps.startswith("area=") else rest
    return f",{options}" if options else ""


def _fixed(group: pd.DataFrame) -> Iterator[dict[str, object]]:
    group = group.drop_duplicates("eps").sort_values("eps")
    if len(group) < 2:
        return
    who = {name: group.iloc[0][name] for name in _LINE}
    if group["eps"].iloc[0] > 0 and group["clean_acc"].nunique(dropna=False) == 1:
        first = group.iloc[0]
        yield who | _point(0.0, first["n"], first["clean_acc"], first["clean_acc_low"], first["clean_acc_high"])
    for _, row in group.iterrows():
        yield who | _point(row["eps"], row["n"], row["robust_acc"], row["robust_acc_low"], row["robust_acc_high"])


def _minimum_norm(trial: Trial) -> Iterator[dict[str, object]]:
    """The curves of the attacks of a trial that looked for the nearest example, and of the nearest over them."""
    cells = [cell for cell in trial.cells if len(cell.rows) and cell.rows["eps"].isna().all()]
    norms = {str(norm) for cell in cells for norm in cell.rows["norm"].unique()}
    if len(cells) != len(trial.cells) or len(norms) != 1:
        return
    dataset, model, defense, threat = trial.system
    who = {"dataset": dataset, "model": model, "defense": defense, "norm": norms.pop() + goal_of(threat)}
    near = {cell.key[4]: (cell.counted, distances(cell, cell.counted.index)) for cell in cells}
    near[WORST_CASE] = (trial.worst, np.min([distances(cell, trial.worst.index) for cell in cells], axis=0))
    for attack, (fates, found) in near.items():
        if fates["robust"].notna().all():
            right = (fates["right"] == 1).to_numpy()
            yield from (who | {"attack": attack} | point for point in _steps(found[right], len(fates)))


def _steps(found: np.ndarray, n: int) -> Iterator[dict[str, object]]:
    """Points of the step function eps -> share of n whose nearest example (m,) is farther than eps."""
    for eps in _thinned(np.unique(np.concatenate([[0.0], found[np.isfinite(found)]]))):
        left = int((found > eps).sum())
        yield _point(float(eps), n, left / n if n else math.nan, *clopper_pearson(left, n))


def _thinned(values: np.ndarray) -> Iterable[float]:
    if len(values) <= _POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, _POINTS).round().astype(int)]


def _point(eps: float, n: int, accuracy: float, low: float, high: float) -> dict[str, object]:
    return {"eps": float(eps), "n": int(n), "robust_acc": accuracy, "low": low, "high": high}
