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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.baseline import refuse, rows_of
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.checks import chance, counted, images, is_share
from robustbench_lite.leaderboard.columns import CLEAN, FLAGGED, KEY, WORST, Key, name_of, number_of
from robustbench_lite.leaderboard.comparison import Comparison, Judgement, Kind, Limits
from robustbench_lite.leaderboard.gate_costs import Costs, dearer
from robustbench_lite.leaderboard.ranking import left_by
from robustbench_lite.results.claims import base_of
from robustbench_lite.results.statistics import clopper_pearson, holm, mcnemar
from robustbench_lite.results.thresholds import HUNDRED, THRESHOLDS

Row = Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A system in the baseline and now.

    Args:
        common: places of the images that both have seen, in the samples of each; None where that is not known, or they have
            none in common.
    """

    who: Key
    before: Row
    after: Row
    boards: tuple[Board, Board]
    common: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    @property
    def same_images(self) -> bool:
        return bool(self.before["slice"] == self.after["slice"])

    @property
    def same_system(self) -> bool:
        """Whether weights and parts are the same: only then must an attack leave no more than it did."""
        return bool(self.before["digest"]) and self.before["digest"] == self.after["digest"]

    def left(self, sample: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Which of the images in common an attack leaves, before and after; None where one side does not tell."""
        both = [_left(board, self.who, sample) for board in self.boards]
        if self.common is None or both[0] is None or both[1] is None:
            return None
        return both[0][self.common[0]], both[1][self.common[1]]


def judge(baseline: Board, now: Board, limits: Limits) -> Judgement:
    """Compare every row of the baseline with the same system now.

    Raises:
        UserError: the baseline, or the run, is such that nothing could fail; see `baseline.refuse`.
    """
    old, new = rows_of(baseline), rows_of(now)
    refuse(old, new, fewer=limits.fewer)
    notes: list[str] = [f"{name_of(key)} is not in the baseline" for key in new if key not in old]
    tests: list[Comparison] = []
    others: list[Comparison] = []
    costs = Costs.of(baseline), Costs.of(now)
    for key, before in old.items():
        others.append(_missing(key, "missing", "this run" if key in new else None))
        if key not in new:
            continue
        pair = _pair(key, before, new[key], (baseline, now), limits)
        own = list(_tests(pair))
        measured = list(_measured(key, before, now)) if limits.flags == "tested" else []
        tests += [*own, *measured]
        others += [*([] if own else [_nothing(key)]), *_attacks(pair), *_flags(pair, {test.what for test in measured})]
        others += dearer(key, before, pair.after, costs, limits, same_images=pair.same_images)
        notes += _notes(pair, limits)
    corrected = [replace(test, failed=_fails(test, limits)) for test in _corrected(tests)]
    notes += [f"{one}; that may be chance" for one in corrected if _fires(one) and not one.failed]
    return Judgement(comparisons=(*corrected, *others), rows=len(old), notes=tuple(notes))


def _pair(key: Key, before: Row, after: Row, boards: tuple[Board, Board], limits: Limits) -> _Pair:
    """Images are paired where both sides saw the same; where not, by their positions, if all of the baseline are there."""
    n = int(before["n"]), int(after["n"])
    common: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    if before["slice"] == after["slice"] and n[0] == n[1]:
        common = np.arange(n[0]), np.arange(n[1])
    elif before["slice"] != after["slice"] and boards[0].data == boards[1].data:
        first, second = (
            np.array(board.images.get(str(row["slice"]), ()), dtype=np.int64)
            for board, row in zip(boards, (before, after), strict=True)
        )
        _, places, others = np.intersect1d(first, second, return_indices=True)
        if len(places) and (len(places) == n[0] or limits.fewer):
            common = places, others
    return _Pair(who=key, before=before, after=after, boards=boards, common=common)


def _notes(pair: _Pair, limits: Limits) -> Iterator[str]:
    name = name_of(pair.who)
    if not pair.same_images:
        n = f"{pair.after['n']} images, {pair.before['n']} in the baseline"
        how = "by intervals" if pair.common is None else f"on the {len(pair.common[0])} in common"
        left_out = "queries and seconds" if limits.seconds else "queries"
        yield f"{name} was seen on other images than in the baseline ({n}): compared {how}; {left_out} are not compared"
    if pair.before["digest"] != pair.after["digest"]:
        yield f"{name} has other weights or parts than in the baseline"


def _corrected(tests: Sequence[Comparison]) -> Iterator[Comparison]:
    """Each with a p that is corrected for all of them."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        yield replace(test, p=p, how=f"{test.how}, p = {p:.2g} over {len(tests)} tests")


def _fails(test: Comparison, limits: Limits) -> bool:
    small = test.kind != "flag" and abs(test.after - test.before) <= limits.tolerance + 1e-9
    return test.p < limits.alpha and not small


def _fires(test: Comparison) -> bool:
    return test.kind == "flag" and test.after > test.before


def _tests(pair: _Pair) -> Iterator[Comparison]:
    """Clean and robust accuracy may not fall, and no attack may leave more of the same system than it did."""
    yield from _test("less accurate", pair, "clean", CLEAN, -1)
    yield from _test("less robust", pair, "worst_case", WORST, -1)
    if not pair.same_system:
        return  # another system may well be more robust
    yield from _test("weaker attack", pair, "worst_case", WORST, 1)
    for attack in pair.boards[0].attacks:
        if not _absent(pair.before[attack]) and not _absent(pair.after.get(attack, "")):
            yield from _test("weaker attack", pair, attack, attack, 1)


def _test(kind: Kind, pair: _Pair, column: str, sample: str, sign: int) -> Iterator[Comparison]:
    """One-sided: `sign` -1 asks whether the figure fell, 1 whether it rose."""
    first, second = float(pair.before[column]), float(pair.after[column])
    if math.isnan(first) or math.isnan(second):
        return
    left = pair.left(sample)
    if left is not None:
        one, two = left
        paired = mcnemar(two, one) if sign > 0 else mcnemar(one, two)
        p = paired.p if paired.only_first > paired.only_second else 1.0
        how = f"{paired.only_first} images against {paired.only_second}"
        if not pair.same_images:
            first, second, how = float(one.mean()), float(two.mean()), f"{how} of {len(one)} in common"
    else:
        n = int(pair.before["n"]), int(pair.after["n"])
        p, how = _apart(first, n[0], second, n[1], sign), "exact intervals"
    yield Comparison(kind=kind, who=pair.who, what=column, before=first, after=second, p=p, how=how)


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


def _measured(key: Key, before: Mapping[Any, Any], now: Board) -> Iterator[Comparison]:
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
            most = limit.limit * max(n, HUNDRED) if is_share(name) else limit.limit
            p = chance(name, value, n)
            yield Comparison(kind="flag", who=key, what=name, before=most, after=found, p=p, how=how)


def _attacks(pair: _Pair) -> Iterator[Comparison]:
    """Whether every attack of the baseline ran."""
    for attack in pair.boards[0].attacks:
        if not _absent(pair.before[attack]):
            there = not _absent(pair.after.get(attack, ""))
            yield _missing(pair.who, attack, "this run" if there else None)


def _missing(key: Key, what: str, where: str | None) -> Comparison:
    """A row, or one of its attacks, that is there or is not."""
    if what == "missing":
        how = "it is in the baseline and in this run" if where else "it is in the baseline and not in this run"
    else:
        how = f"{printable(what)} ran in the baseline and {'' if where else 'not '}in this run"
    return Comparison(kind="missing", who=key, what=what, how=how, failed=where is None)


def _nothing(key: Key) -> Comparison:
    """A row that is on both sides, and has no figure to be compared."""
    how = "nothing of it could be compared"
    return Comparison(kind="missing", who=key, what="missing", how=how, failed=True)


def _flags(pair: _Pair, tested: Collection[str]) -> Iterator[Comparison]:
    """Checks that fire and did not, but for those that are tested; and marks that are new."""
    old, marked = set(str(pair.before["flags"]).split(";")), str(pair.before["mark"]).split("; ")
    flags = [one for one in str(pair.after["flags"]).split(";") if one and one not in old and one not in tested]
    marks = [one for one in str(pair.after["mark"]).split("; ") if one and one != FLAGGED and one not in marked]
    for flag in flags:
        yield _flag(pair.who, flag, f"the check {printable(flag)} fires, and did not before")
    for mark in marks:
        yield _flag(pair.who, mark, f"it is marked {printable(mark)!r}, and was not before")
    if not flags and not marks:
        yield Comparison(kind="flag", who=pair.who, what="flag", how="no check fires that did not before")


def _flag(key: Key, what: str, how: str) -> Comparison:
    return Comparison(kind="flag", who=key, what=what, how=how, failed=True)


def _left(board: Board, key: Key, attack: str) -> NDArray[np.bool_] | None:
    """Which samples an attack leaves; of its plain and its adaptive form, those that both leave."""
    samples = board.samples
    if not len(samples):
        return None
    own = samples[(samples[list(KEY)] == list(key)).all(axis=1)]
    forms = own[own["attack"].map(base_of) == base_of(attack)]
    found = [left_by(forms.iloc[[place]], str(forms["attack"].iloc[place]))[key] for place in range(len(forms))]
    return np.logical_and.reduce(found) if found else None


def _absent(value: object) -> bool:
    return math.isnan(number_of(value))
