"""Signs that a robust accuracy is too good to be true: each is fired, clear or unchecked.

The rules here are functions of numbers. Those that need the model to be run again are given what the probe measured.
A diagnostic never changes a number; it marks the row, and an absent check is never a clean bill.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from robustbench_lite import specs
from robustbench_lite.results.curve import goal_of
from robustbench_lite.results.fates import FAILED, LEFT_OUT, NAN_SCORES, SYSTEM, Cell, System, Trial, trials
from robustbench_lite.results.metrics import WORST_CASE, denied_share, summarise
from robustbench_lite.results.thresholds import THRESHOLDS

Status = Literal["fired", "clear", "unchecked"]
COLUMNS = (*SYSTEM, "diagnostic", "status", "value", "detail", "n")
NOISE = frozenset({"noise"})
ONE_STEP = frozenset({"fgsm"})
CLIMBS = frozenset({"bim", "pgd", "mifgsm", "apgd", "apgd-t", "targeted"})
ITERATIVE = CLIMBS | {"autoattack", "fab", "fab-t", "evasion"}
#: crafted on another system; what they break is broken by transfer
ELSEWHERE = frozenset({"transfer", "substitute"})
#: a break is late in the last tenth of what the attack may spend on a sample
LATE = 0.9
_DUST = 1e-9  # of sums of shares in float64


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """What a check found: `value` is the quantity of the threshold table (NaN if unchecked), over `n` samples.

    `for_now` marks one that could not be made this time: no time or memory was left, or the model raised.
    """

    name: str
    status: Status
    value: float
    detail: str
    n: int
    for_now: bool = False


def judged(name: str, value: float, n: int, detail: str = "") -> Diagnostic:
    """Fired if the value is above the threshold of that name, else clear; unchecked for NaN."""
    if math.isnan(value):
        return unchecked(name, detail)
    status: Status = "fired" if value > THRESHOLDS[name].among(n) + _DUST else "clear"
    return Diagnostic(name=name, status=status, value=float(value), detail=detail, n=n)


def unchecked(name: str, why: str, *, for_now: bool = False) -> Diagnostic:
    """A check that could not be made, and why."""
    assert name in THRESHOLDS, name
    return Diagnostic(name=name, status="unchecked", value=math.nan, detail=why, n=0, for_now=for_now)


def invalid_examples(records: pd.DataFrame) -> Diagnostic:
    """How many examples an attack handed in that the threat forbids."""
    made = records[~records["reason"].isin([FAILED, LEFT_OUT])]
    bad = made[~made["valid"].astype(bool)]
    counts = ", ".join(f"{count} {reason or 'invalid'}" for reason, count in bad["reason"].value_counts().items())
    return judged("invalid-examples", len(bad), len(made), counts)


def nan_scores(records: pd.DataFrame) -> Diagnostic:
    """How many samples the model answered with NaN at a valid image."""
    return judged("nan-scores", int((records["reason"] == NAN_SCORES).sum()), len(records))


def denied_by_verdict(records: pd.DataFrame) -> Diagnostic:
    """Share of the initially right samples that broke in a search alone: the verdict denied it, and nothing else broke them."""
    return _denied(_only(records))


def noise_beats_gradient(records: pd.DataFrame, needs: Mapping[str, str] | None = None) -> Diagnostic:
    """Share of samples of one system and threat that noise broke and no gradient attack did.

    Args:
        records: of one system and threat.
        needs: attack text -> needs; `gradients` makes a gradient attack. Without it, the built-in names do.
    """
    return beaten("noise-beats-gradient", _only(records), needs)


def one_step_beats_iterative(records: pd.DataFrame, needs: Mapping[str, str] | None = None) -> Diagnostic:
    """Share of samples of one system and threat that a one-step attack broke and no iterative gradient attack did."""
    return beaten("one-step-beats-iterative", _only(records), needs)


def black_box_beats_gradient(records: pd.DataFrame, needs: Mapping[str, str] | None = None) -> Diagnostic:
    """Share of samples that an attack by scores or labels broke and no gradient attack did; noise is not meant."""
    return beaten("black-box-beats-gradient", _only(records), needs)


def transfer_beats_gradient(records: pd.DataFrame, needs: Mapping[str, str] | None = None) -> Diagnostic:
    """Share of samples that examples crafted on another system broke and no gradient attack on this one did."""
    return beaten("transfer-beats-gradient", _only(records), needs)


def not_converged(records: pd.DataFrame) -> Diagnostic:
    """Share of samples that only iterative gradient attacks broke, all of them late: at the end of what they may spend."""
    name, (trial,) = "not-converged", tuple(trials(records))
    climbs = _is(CLIMBS)  # of a cascade the end is another attack's, and a search for the nearest ends late by nature
    iterative = [cell for cell in trial.cells if climbs(cell.key[4]) and _fixed_eps(cell)]
    iterative = [cell for cell in iterative if not _one_step(cell.key[4])]
    if not iterative:
        return unchecked(name, "no iterative climb at fixed eps was run")
    early: set[int] = set()
    late: set[int] = set()
    for cell in trial.cells:
        rows = cell.rows[cell.rows["broken"].astype(bool) & cell.rows["valid"].astype(bool)]
        end = cell.rows["forwards"].max() * LATE if cell in iterative else math.inf
        slow = rows["break_forward"] > end
        early |= set(rows.loc[~slow, "index"])
        late |= set(rows.loc[slow, "index"])
    n = len(trial.worst)
    return judged(name, len(late - early) / n if n else 0.0, n, ", ".join(cell.key[4] for cell in iterative))


def zero_gradients(fraction: float | None, n: int = 0, detail: str = "") -> Diagnostic:
    """Share of n correctly classified samples whose gradient is exactly zero; None where it was not measured."""
    name = "zero-gradients"
    return (
        unchecked(name, detail or "gradients were not probed")
        if fraction is None
        else judged(name, fraction, n, detail)
    )


def not_monotone_in_eps(
    records: pd.DataFrame | None = None,
    *,
    curve: Sequence[tuple[float, float]] = (),
    n: int = 0,
    clean_acc: float = math.nan,
) -> Diagnostic:
    """Whether robust accuracy rises with eps by more than one sample, or differs from clean accuracy at eps 0.

    Args:
        records: of one system, at several eps of one norm.
        curve: instead, or besides, (eps, robust accuracy) of one attack, as a probe measured them on n samples.
        n, clean_acc: of that curve.
    """
    lines = [] if records is None else list(_lines(records))
    if len(curve) > 1 or any(eps == 0 for eps, _ in curve):
        lines.append(("probe", sorted(curve), n, clean_acc))
    found = [(_rise(points, count, clean), name, count) for name, points, count, clean in lines]
    if not found:
        return unchecked("not-monotone-in-eps", "needs two eps of one norm or more")
    worst, name, count = max(found, key=lambda item: item[0])
    return judged("not-monotone-in-eps", worst, count, name if worst > 0 else "")


def survives_unbounded_eps(robust_acc: float | None, class_prior: float, n: int, detail: str = "") -> Diagnostic:
    """Robust accuracy where eps covers the whole box, against the share of the most frequent class in the n samples."""
    name = "survives-unbounded-eps"
    if robust_acc is None:
        return unchecked(name, detail or "no gradient attack was run at an eps that covers the box")
    return judged(
        name, robust_acc - class_prior, n, detail or f"{robust_acc:.1%} robust, class prior {class_prior:.1%}"
    )


def outputs_are_probabilities(found: bool | None, n: int = 0) -> Diagnostic:
    """Whether all n outputs looked like probabilities; None where no outputs were seen."""
    name = "outputs-are-probabilities"
    return unchecked(name, "no outputs were seen") if found is None else judged(name, float(found), n)


def from_records(
    records: pd.DataFrame, *, needs: Mapping[str, str] | None = None
) -> dict[System, tuple[Diagnostic, ...]]:
    """The diagnostics that records alone can answer, for every system and threat in them."""
    found: dict[System, tuple[Diagnostic, ...]] = {}
    for trial in trials(records) if len(records) else ():
        dataset, model, defense, threat = trial.system
        system = (records["dataset"] == dataset) & (records["model"] == model) & (records["defense"] == defense)
        own = records[system & (records["threat"] == threat)]
        same_goal = records["threat"].map(goal_of) == goal_of(threat)
        found[trial.system] = (
            invalid_examples(own),
            nan_scores(own),
            *(beaten(name, trial, needs) for name in RIVALS),
            not_converged(own),
            _denied(trial),
            not_monotone_in_eps(records[system & same_goal & records["norm"].isin(own["norm"].unique())]),
        )
    return found


def frame(found: Mapping[System, Iterable[Diagnostic]]) -> pd.DataFrame:
    """Diagnostics by system as a table with the columns `COLUMNS`, in the order given."""
    rows = [(*key, d.name, d.status, d.value, d.detail, d.n) for key, every in found.items() for d in every]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _only(records: pd.DataFrame) -> Trial:
    (trial,) = trials(records)
    return trial


def sides(name: str, needs: Mapping[str, str] | None = None) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Of a diagnostic that sets weak attacks against strong ones: which attack texts are weak, and which strong."""
    weak = {
        "noise-beats-gradient": _is(NOISE),
        "black-box-beats-gradient": _black_box(needs),
        "transfer-beats-gradient": _is(ELSEWHERE),
        "one-step-beats-iterative": _one_step,
    }[name]
    gradient = _gradient(needs)  # a cascade need not have a stage that follows one
    return weak, (lambda text: _iterative(text) and gradient(text)) if name == "one-step-beats-iterative" else gradient


def _denied(trial: Trial) -> Diagnostic:
    name, right = "denied-by-verdict", int((trial.worst["right"] == 1).sum())
    share = denied_share(trial.cells, trial.worst)
    why = "no search at fixed eps on a system that answers alike" if math.isnan(share) else ""
    return judged(name, share, right, why)


#: weak attacks against strong ones: what each side is called
RIVALS = {
    "noise-beats-gradient": ("noise", "gradient"),
    "black-box-beats-gradient": ("black-box", "gradient"),
    "transfer-beats-gradient": ("transfer", "gradient"),
    "one-step-beats-iterative": ("one-step", "iterative gradient"),
}


def beaten(name: str, trial: Trial, needs: Mapping[str, str] | None = None) -> Diagnostic:
    """One of `RIVALS`: the share of samples that the weak attacks of a trial broke and the strong ones did not."""
    found = [_broken(trial, kind) for kind in sides(name, needs)]
    for side, word in zip(found, RIVALS[name], strict=True):
        if side is None:
            return unchecked(name, f"no {word} attack at fixed eps was run")
    (by_weak, weak_names), (by_strong, strong_names) = (side for side in found if side is not None)
    common = by_weak.dropna().index.intersection(by_strong.dropna().index)
    if common.empty:
        return unchecked(name, "no sample has a verdict from both kinds of attack")
    share = len(_alone(by_weak, by_strong)) / len(common)
    return judged(name, share, len(common), f"{weak_names} against {strong_names}")


def alone(name: str, trial: Trial, needs: Mapping[str, str] | None = None) -> pd.Index:
    """The samples that `beaten` counts."""
    by_weak, by_strong = (_broken(trial, kind) for kind in sides(name, needs))
    return pd.Index([]) if by_weak is None or by_strong is None else _alone(by_weak[0], by_strong[0])


def _alone(by_weak: pd.Series, by_strong: pd.Series) -> pd.Index:
    common = by_weak.dropna().index.intersection(by_strong.dropna().index)
    return common[((by_weak[common] == 1) & (by_strong[common] == 0)).to_numpy()]


def _broken(trial: Trial, kind: Callable[[str], bool]) -> tuple[pd.Series, str] | None:
    """1 where an attack of that kind broke a sample, 0 where none did, NaN without verdict; and their names."""
    cells = [cell for cell in trial.cells if kind(cell.key[4]) and _fixed_eps(cell)]
    if not cells:
        return None
    # A sample that was left out says nothing about the attack: it is neither broken by it nor spared.
    table = pd.concat([1 - cell.counted["robust"] for cell in cells], axis=1)
    known = table.notna().all(axis=1) | (table == 1).any(axis=1)
    return table.max(axis=1).where(known), ", ".join(cell.key[4] for cell in cells)


def _fixed_eps(cell: Cell) -> bool:
    return bool(cell.rows["eps"].notna().all())


def _is(names: frozenset[str]) -> Callable[[str], bool]:
    return lambda attack: specs.head(attack) in names


def _gradient(needs: Mapping[str, str] | None) -> Callable[[str], bool]:
    if not needs:
        return _is(ONE_STEP | ITERATIVE)
    return lambda attack: needs.get(attack) == "gradients"


def _black_box(needs: Mapping[str, str] | None) -> Callable[[str], bool]:
    other = _is(NOISE | ELSEWHERE)
    if not needs:
        return _is(frozenset({"square", "nes", "simba", "hopskipjump", "boundary"}))
    return lambda attack: needs.get(attack) in ("scores", "labels") and not other(attack)


def _one_step(attack: str) -> bool:
    name = specs.head(attack)
    return name in ONE_STEP or (name in ITERATIVE and specs.parse(attack).options.get("steps") == "1")


def _iterative(attack: str) -> bool:
    return _is(ITERATIVE)(attack) and not _one_step(attack)


def _lines(records: pd.DataFrame) -> Iterable[tuple[str, list[tuple[float, float]], int, float]]:
    """(attack, points, n, clean accuracy) of every attack that ran at several eps, or at eps 0."""
    radii = records["eps"].dropna().unique()
    if len(radii) < 2 and 0 not in radii:
        return
    summary = summarise(records)
    rows = summary[(summary["attack"] != WORST_CASE) & summary["eps"].notna() & summary["robust_acc"].notna()]
    for attack, own in rows.groupby("attack", sort=False):
        points = sorted(zip(own["eps"].astype(float), own["robust_acc"].astype(float), strict=True))
        if len(points) > 1 or points[0][0] == 0:
            yield str(attack), points, int(own["n"].min()), float(own["clean_acc"].iloc[0])


def _rise(points: Sequence[tuple[float, float]], n: int, clean_acc: float) -> float:
    """The largest rise with eps in samples; infinite where eps 0 does not give the clean accuracy."""
    start = [accuracy for eps, accuracy in points if eps == 0]
    if start and abs(start[0] - clean_acc) > _DUST:
        return math.inf
    accuracies = np.array([accuracy for _, accuracy in points])
    return float((accuracies - np.minimum.accumulate(accuracies)).max() * n)
