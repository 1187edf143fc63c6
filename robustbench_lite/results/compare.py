"""Is one defense better than another? Paired by image, never by whether two intervals overlap."""

import math
from itertools import combinations

import pandas as pd

from robustbench_lite.results.fates import Expected, Trial, trials
from robustbench_lite.results.statistics import Paired, holm, mcnemar

#: pairs that are all told in words; of more, those with the first defense
_FEW = 6
COLUMNS = (
    *("dataset", "threat", "model", "first", "second", "n"),
    *("difference", "only_first", "only_second", "p", "p_holm"),
)


def compare_rows(records: pd.DataFrame, *, expected: Expected | None = None) -> pd.DataFrame:
    """Every two defenses of the same model, by their worst case: columns `COLUMNS`, a row a pair.

    `difference` is the robust accuracy of `second` minus that of `first` over the images that both saw; `p` is the
    exact McNemar test, `p_holm` corrected over all pairs of one dataset and threat. Both are NaN where a sample has no
    verdict: what a crash hides is not evidence.

    Raises:
        UserError: as `metrics.summarise`.
    """
    every = list(trials(records, expected))
    models = list(dict.fromkeys(trial.system[1] for trial in every))
    every.sort(key=lambda trial: models.index(trial.system[1]))
    pairs = [(a, b) for a, b in combinations(every, 2) if _comparable(a, b)]
    frame = pd.DataFrame([_row(a, b) for a, b in pairs], columns=list(COLUMNS))
    for _, group in frame.groupby(["dataset", "threat"], sort=False):
        frame.loc[group.index, "p_holm"] = holm(group["p"].tolist())
    return frame


def lines(comparisons: pd.DataFrame, dataset: str, threat: str) -> tuple[str, ...]:
    """The comparisons of one table in words, a line a pair, under a line that says what they are."""
    mine = comparisons[(comparisons["dataset"] == dataset) & (comparisons["threat"] == threat)]
    if mine.empty:
        return ()
    tests = int(mine["p"].notna().sum())
    corrected = f", Holm-corrected over {tests} pairs" if tests > 1 else ""
    head = f"Worst case, paired by image; p of the exact McNemar test{corrected}:"
    told = mine if len(mine) <= _FEW else mine[mine["first"] == mine.groupby("model")["first"].transform("first")]
    rest = len(mine) - len(told)
    more = (f"{rest} more pairs are in comparisons.csv.",) if rest else ()
    return (head, *(_line(row) for _, row in told.iterrows()), *more)


def _comparable(a: Trial, b: Trial) -> bool:
    (dataset, model, defense, threat), other = a.system, b.system
    return (dataset, model, threat) == (other[0], other[1], other[3]) and defense != other[2]


def _row(a: Trial, b: Trial) -> dict[str, object]:
    dataset, model, first, threat = a.system
    common = a.worst.index.intersection(b.worst.index)
    one, two = a.worst["robust"].loc[common], b.worst["robust"].loc[common]
    pair = mcnemar(one == 1, two == 1)
    known = len(common) > 0 and bool(one.notna().all() and two.notna().all())
    return {
        **{"dataset": dataset, "threat": threat, "model": model, "first": first, "second": b.system[2]},
        **(_tested(pair) if known else {"n": len(common), "difference": math.nan, "p": math.nan}),
        "p_holm": math.nan,
    }


def _tested(pair: Paired) -> dict[str, object]:
    return {
        **{"n": pair.n, "difference": (pair.only_second - pair.only_first) / pair.n, "p": pair.p},
        **{"only_first": pair.only_first, "only_second": pair.only_second},
    }


def _line(row: pd.Series) -> str:
    who = f"{row['model']}: {row['second']} minus {row['first']}"
    if math.isnan(row["p"]):
        return f"{who}: not compared, because some samples have no verdict"
    return f"{who}: {100 * row['difference']:+.1f} points, {_p(row['p_holm'])} (n = {row['n']})"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}" if value < 0.1 else f"p = {value:.2f}"
