"""The gate: is what a run says worse than what a leaderboard says, beyond chance?

Three things can go wrong between two commits: a system became less robust (or less accurate), an attack became weaker, so
that the same systems look more robust, and something became dearer. The first two are tested: paired by image where both
sides tell of the same images, else by whether two exact intervals overlap. A check that counts images is a measurement, so that
it is tested as well: it alarms where it is above its limit by more than chance. All tests of one gate share its error: `alpha`
is the chance that any of them cries without reason (Holm).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.checks import SHARES, chance, counted, images
from robustbench_lite.leaderboard.columns import CLEAN, KEY, WORST, Key, key_of, name_of, number_of
from robustbench_lite.leaderboard.ranking import left_by
from robustbench_lite.results.claims import base_of
from robustbench_lite.results.statistics import clopper_pearson, holm, mcnemar
from robustbench_lite.results.thresholds import THRESHOLDS

Kind = Literal["less robust", "less accurate", "weaker attack", "missing", "flag", "queries", "time"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the gate lets pass.

    Args:
        alpha: chance of a false alarm, over the whole gate. tolerance: share by which an accuracy may change, 0 to 1.
        queries, seconds: factors by which the cost of a sample may grow; None: not compared.
        flags: a check that counts images alarms where it is above its limit beyond chance, or whenever it fires anew.
    """

    alpha: float = 0.05
    tolerance: float = 0.0
    queries: float | None = 1.5
    seconds: float | None = None
    flags: Literal["tested", "any"] = "tested"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that is worse than it was.

    Args:
        who: the row. what: the column. before, after: its figures; of a check that counts images, its limit and what it counts.
        p: of a test, corrected over the gate; else NaN. how: what it rests on, in words.
    """

    kind: Kind
    who: Key
    what: str
    before: float
    after: float
    p: float
    how: str

    def __str__(self) -> str:
        name = name_of(self.who)
        if self.kind in ("less robust", "less accurate", "weaker attack"):
            change = f"{100 * self.before:.1f} % -> {100 * self.after:.1f} %"
            return f"{self.kind}: {name}: {self.what} {change} ({self.how})"
        if self.kind in ("queries", "time"):
            whose = "" if self.what == self.kind else f"{self.what} "
            return f"{self.kind}: {name}: {whose}{self.before:g} -> {self.after:g} a sample ({self.how})"
        return f"{self.kind}: {name}: {self.how}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gate says: alarms, how many comparisons it made, and what it could not compare, in words."""

    alarms: tuple[Alarm, ...]
    tests: int
    rows: int
    notes: tuple[str, ...]


def judge(baseline: Board, now: Board, limits: Limits) -> Judgement:
    """Compare every row of the baseline with the same system now."""
    old = {key_of(row): row for row in baseline.rows.to_dict("records")}
    new = {key_of(row): row for row in now.rows.to_dict("records")}
    alarms: list[Alarm] = []
    notes: list[str] = [f"{name_of(key)} is not in the baseline" for key in new if key not in old]
    tests: list[Alarm] = []
    costs = _Costs.of(baseline), _Costs.of(now)
    for key, before in old.items():
        if key not in new:
            alarms.append(_plain("missing", key, "it is in the baseline and not in this run"))
            continue
        after = new[key]
        tests += _tests(key, before, after, baseline, now)
        measured = list(_measured(key, before, now)) if limits.flags == "tested" else []
        tests += measured
        gone = [one for one in baseline.attacks if not _absent(before[one]) and _absent(after.get(one, ""))]
        alarms += [_plain("missing", key, f"{attack} ran in the baseline and not in this run") for attack in gone]
        alarms += _flags(key, before, after, {test.what for test in measured})
        alarms += _dearer(key, before, after, costs, limits)
        if before["slice"] != after["slice"]:
            notes.append(f"{name_of(key)} was seen on other images than in the baseline: compared by intervals")
        if before["digest"] != after["digest"]:
            notes.append(f"{name_of(key)} has other weights or parts than in the baseline")
    corrected = list(_corrected(tests))
    failed = [test for test in corrected if _fails(test, limits)]
    notes += [f"{one}; that may be chance" for one in corrected if _fires(one) and not _fails(one, limits)]
    return Judgement(alarms=(*failed, *alarms), tests=len(tests), rows=len(old), notes=tuple(notes))


def _corrected(tests: Sequence[Alarm]) -> Iterator[Alarm]:
    """Each with a p that is corrected for all of them."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        yield replace(test, p=p, how=f"{test.how}, p = {p:.2g} over {len(tests)} tests")


def _fails(test: Alarm, limits: Limits) -> bool:
    small = test.kind != "flag" and abs(test.after - test.before) <= limits.tolerance + 1e-9
    return test.p < limits.alpha and not small


def _fires(test: Alarm) -> bool:
    return test.kind == "flag" and test.after > test.before


def _tests(
    key: Key, before: Mapping[Any, Any], after: Mapping[Any, Any], baseline: Board, now: Board
) -> Iterator[Alarm]:
    """Clean and robust accuracy may not fall, and no attack may leave more of the same system than it did."""
    same = before["slice"] == after["slice"]
    yield from _test("less accurate", key, "clean", CLEAN, -1, before, after, baseline, now, same)
    yield from _test("less robust", key, "worst_case", WORST, -1, before, after, baseline, now, same)
    if before["digest"] != after["digest"] or not before["digest"]:
        return  # another system may well be more robust
    yield from _test("weaker attack", key, "worst_case", WORST, 1, before, after, baseline, now, same)
    for attack in baseline.attacks:
        if not _absent(before[attack]) and not _absent(after.get(attack, "")):
            yield from _test("weaker attack", key, attack, attack, 1, before, after, baseline, now, same)


def _test(
    kind: Kind, key: Key, column: str, sample: str, sign: int, before: Mapping[Any, Any], after: Mapping[Any, Any],
    baseline: Board, now: Board, same: bool,
) -> Iterator[Alarm]:  # fmt: skip
    """One-sided: `sign` -1 asks whether the figure fell, 1 whether it rose."""
    first, second = float(before[column]), float(after[column])
    if math.isnan(first) or math.isnan(second):
        return
    one, two = (_left(board, key, sample) if same else None for board in (baseline, now))
    if one is not None and two is not None and len(one) == len(two):
        pair = mcnemar(two, one) if sign > 0 else mcnemar(one, two)
        toward = pair.only_first > pair.only_second
        p, how = (pair.p if toward else 1.0), f"{pair.only_first} images against {pair.only_second}"
    else:
        n = int(before["n"]), int(after["n"])
        p, how = _apart(first, n[0], second, n[1], sign), "exact intervals"
    yield Alarm(kind=kind, who=key, what=column, before=first, after=second, p=p, how=how)


def _apart(first: float, n: int, second: float, m: int, sign: int) -> float:
    """The error at which the exact intervals of two shares just part, in the direction asked for; 1 where they never do."""
    if (second - first) * sign <= 0:
        return 1.0
    low, high = 1e-12, 1.0 - 1e-9
    for _ in range(60):
        middle = math.sqrt(low * high)
        one, two = (clopper_pearson(round(share * k), k, 1 - middle) for share, k in ((first, n), (second, m)))
        parted = two[0] > one[1] if sign > 0 else two[1] < one[0]
        low, high = (low, middle) if parted else (middle, high)
    return high


def _measured(key: Key, before: Mapping[Any, Any], now: Board) -> Iterator[Alarm]:
    """A test for each check that counts images and did not fire before: is what it counts above its limit by more than chance?

    `before` of these is the limit, `after` what was counted, in images.
    """
    old = set(str(before["flags"]).split(";"))
    own = now.checks[(now.checks[list(KEY)] == list(key)).all(axis=1)]
    for row in own[own["status"] != "unchecked"].to_dict("records"):
        name, value, n = str(row["diagnostic"]), float(row["value"]), int(row["n"])
        if counted(name) and name not in old and math.isfinite(value):
            found, limit = images(name, value, n), THRESHOLDS[name]
            how = f"the check {name} counts {found:g} of {n}, limit {limit.limit_text}, and did not fire before"
            most = limit.limit * n if name in SHARES else limit.limit
            p = chance(name, value, n)
            yield Alarm(kind="flag", who=key, what=name, before=most, after=found, p=p, how=how)


def _flags(key: Key, before: Mapping[Any, Any], after: Mapping[Any, Any], tested: Collection[str]) -> Iterator[Alarm]:
    """Checks that fire and did not, but for those that are tested; and marks that are new."""
    old = set(str(before["flags"]).split(";"))
    for flag in str(after["flags"]).split(";"):
        if flag and flag not in old and flag not in tested:
            yield _plain("flag", key, f"the check {flag} fires, and did not before")
    for mark in str(after["mark"]).split("; "):
        if mark and mark != "flagged" and mark not in str(before["mark"]):
            yield _plain("flag", key, f"it is marked {mark!r}, and was not before")


@dataclass(frozen=True, kw_only=True)
class _Costs:
    """Of a leaderboard's rows: queries a sample by attack, and seconds a sample."""

    queries: Mapping[tuple[Key, str], float]
    seconds: Mapping[Key, float]

    @classmethod
    def of(cls, board: Board) -> "_Costs":
        asked = {
            (key_of(row), str(row["attack"])): number_of(row["queries"]) for row in board.samples.to_dict("records")
        }
        seconds = {key_of(row): float(row["seconds_per_sample"]) for row in board.timings.to_dict("records")}
        return cls(queries={one: value for one, value in asked.items() if math.isfinite(value)}, seconds=seconds)


def _dearer(
    key: Key, before: Mapping[Any, Any], after: Mapping[Any, Any], costs: tuple[_Costs, _Costs], limits: Limits
) -> Iterator[Alarm]:
    """Queries of each attack, since a cheap one would hide behind a dear one, else of all together; and seconds."""
    old, new = costs
    attacks = [attack for who, attack in old.queries if who == key and (key, attack) in new.queries]
    pairs = [(attack, old.queries[key, attack], new.queries[key, attack]) for attack in attacks]
    grown = list(_grown("queries", key, pairs, limits.queries))
    whole = [("queries", float(before["queries"]), float(after["queries"]))]
    yield from grown or _grown("queries", key, whole, limits.queries)
    clock = [("time", old.seconds.get(key, math.nan), new.seconds.get(key, math.nan))]
    yield from _grown("time", key, clock, limits.seconds)


def _grown(kind: Kind, key: Key, pairs: Sequence[tuple[str, float, float]], factor: float | None) -> Iterator[Alarm]:
    for what, first, second in pairs:
        if factor is not None and second > factor * first:
            how = f"grew {second / first:.2f} times, {factor:g} allowed" if first > 0 else "was nothing before"
            yield Alarm(kind=kind, who=key, what=what, before=first, after=second, p=math.nan, how=how)


def _left(board: Board, key: Key, attack: str) -> NDArray[np.bool_] | None:
    """Which samples an attack leaves; of its plain and its adaptive form, those that both leave."""
    samples = board.samples
    if not len(samples):
        return None
    own = samples[(samples[list(KEY)] == list(key)).all(axis=1)]
    forms = own[own["attack"].map(base_of) == base_of(attack)]
    found = [left_by(forms.iloc[[place]], str(forms["attack"].iloc[place]))[key] for place in range(len(forms))]
    return np.logical_and.reduce(found) if found else None


def _plain(kind: Kind, key: Key, how: str) -> Alarm:
    return Alarm(kind=kind, who=key, what=kind, before=math.nan, after=math.nan, p=math.nan, how=how)


def _absent(value: object) -> bool:
    return math.isnan(number_of(value))
