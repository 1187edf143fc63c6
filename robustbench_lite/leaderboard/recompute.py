"""What NAME.samples.csv says of each row, held against what the row says: everything that can be computed again is."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import (
    CLEAN,
    NOT_ADAPTIVE,
    UNFINISHED,
    WORST,
    Key,
    key_of,
    marks,
    name_of,
    number_of,
)
from robustbench_lite.leaderboard.fault import Fault
from robustbench_lite.leaderboard.ranking import ranked
from robustbench_lite.leaderboard.samples import unpacked
from robustbench_lite.results.claims import base_of
from robustbench_lite.results.statistics import clopper_pearson

#: figures are kept to six digits, queries to one
_CLOSE, _QUERIES = 2e-6, 0.05
Left = NDArray[np.bool_]
Found = Iterator[tuple[tuple[str, ...], str]]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of NAME.samples.csv: what an attack leaves."""

    attack: str
    adaptive: bool
    left: Left
    queries: float


def faults_of_rows(board: Board) -> Iterator[Fault]:
    """The figures of the rows, and of the files beside, that are not those of the samples; then the ranks and their order."""
    lines = _lines(board)
    rows = {key_of(row): row for row in board.rows.to_dict("records")}
    found = False
    for key, row in rows.items():
        for columns, text in _of_row(row, lines.get(key, []), board.attacks):
            found = True
            yield Fault(who=name_of(key), columns=columns, text=text)
    yield from _of_detection(board, lines)
    if not found:
        yield from _of_ranks(board)


def _lines(board: Board) -> dict[Key, list[_Line]]:
    found: dict[Key, list[_Line]] = {}
    for row in board.samples.to_dict("records"):
        left = unpacked(str(row["left"]), int(float(row["n"])))
        one = _Line(
            attack=row["attack"], adaptive=str(row["adaptive"]) == "true", left=left, queries=number_of(row["queries"])
        )
        found.setdefault(key_of(row), []).append(one)
    return found


def _of_row(row: Mapping[Any, Any], lines: Sequence[_Line], attacks: Sequence[str]) -> Found:
    clean, worst = ([one for one in lines if one.attack == name] for name in (CLEAN, WORST))
    own = [one for one in lines if one.attack not in (CLEAN, WORST)]
    yield from _of_marks(row)
    if len(clean) != 1 or len(worst) > 1 or (not worst and not math.isnan(row["worst_case"])):
        if not math.isnan(row["worst_case"]) or not math.isnan(row["clean"]):
            yield ("clean", "worst_case"), "it has figures, and not one line of each in its samples"
        return
    n = int(row["n"])
    if any(len(one.left) != n for one in lines):
        yield (
            ("n",),
            f"{n}, and there are samples of {' and '.join(sorted({str(len(one.left)) for one in lines}))} images",
        )
        return
    yield from _of_share(row, "clean", clean[0].left, ("clean_low", "clean_high"))
    whole = yield from _of_attacks(row, own, attacks)
    if worst:
        yield from _of_share(row, "worst_case", worst[0].left, ("worst_low", "worst_high"))
        yield from _of_worst_line(clean[0], worst[0], own, whole=whole)
        yield from _of_adversaries(row, worst[0], own, whole=whole)
    elif not math.isnan(row["worst_case"]):
        yield ("worst_case",), "it has no line in the samples"
    yield from _of_best_known(row)
    yield from _of_queries(row, own, whole=whole)


def _of_share(row: Mapping[Any, Any], column: str, left: Left, bounds: tuple[str, str]) -> Found:
    """A share, and its exact interval."""
    yield from _differs(row, column, float(left.mean()), "its samples give")
    for name, value in zip(bounds, clopper_pearson(int(left.sum()), len(left)), strict=True):
        yield from _differs(row, name, value, "the exact interval has")


def _differs(row: Mapping[Any, Any], column: str, value: float, who: str) -> Found:
    there = number_of(row[column])
    if not (abs(there - value) <= _CLOSE or (math.isnan(there) and math.isnan(value))):
        told = "nothing" if math.isnan(value) else f"{value:.6g}"
        yield (column,), f"{_shown(there)}, and {who} {told}"


def _of_attacks(
    row: Mapping[Any, Any], own: Sequence[_Line], attacks: Sequence[str]
) -> Generator[tuple[tuple[str, ...], str], None, bool]:
    """The columns of the attacks; whether every attack that has a figure has its lines, too."""
    whole = True
    for attack in attacks:
        forms = [one.left for one in own if base_of(one.attack) == attack]
        there = number_of(row[attack])
        if forms and not math.isnan(there):
            yield from _differs(row, attack, float(np.logical_and.reduce(forms).mean()), "its samples give")
        elif forms and UNFINISHED not in str(row["mark"]):
            yield (attack,), "nothing, and there are samples of it"
        elif not math.isnan(there):
            whole = False  # an attack that leaves some images out is about fewer of them
    for attack in {base_of(one.attack) for one in own} - set(attacks):
        yield (attack,), f"the samples tell of {printable(attack)}, which is no column"
    return whole


def _of_worst_line(clean: _Line, worst: _Line, own: Sequence[_Line], *, whole: bool) -> Found:
    """An image that the worst case leaves is right untouched, and left by every attack."""
    every = np.logical_and.reduce([clean.left, *(one.left for one in own)])
    odd = [one.attack for one in own if (one.left & ~clean.left).any()]
    for attack in odd:
        yield ("left",), f"{printable(attack)} leaves an image that is misclassified untouched"
    if (worst.left & ~every).any() or (whole and own and not np.array_equal(worst.left, every)):
        yield ("worst_case",), "the samples of the worst case are not what all attacks leave together"
    if whole and own and worst.adaptive != any(one.adaptive for one in own):
        yield ("adaptive",), "the samples of the worst case do not say whether an attack knew the defense"


def _of_adversaries(row: Mapping[Any, Any], worst: _Line, own: Sequence[_Line], *, whole: bool) -> Found:
    """What attackers leave who do not know the defense, and who do: the worst case where all are of one kind."""
    kinds = {
        "claimed": [one.left for one in own if not one.adaptive],
        "adaptive": [one.left for one in own if one.adaptive],
    }
    both = all(kinds.values())
    for column, forms in kinds.items():
        there, share = number_of(row[column]), float(worst.left.mean())
        if both and whole:
            yield from _differs(row, column, float(np.logical_and.reduce(forms).mean()), "its samples give")
        elif not math.isnan(there) and not both:
            yield from _differs(row, column, share, "the worst case is")
        elif not math.isnan(there) and there < share - _CLOSE:
            yield (column,), f"{_shown(there)}, below the worst case"
        elif math.isnan(there) and forms:
            yield (column,), "nothing, and there are samples of such attacks"


def _of_best_known(row: Mapping[Any, Any]) -> Found:
    best, share, source = number_of(row["best_known"]), number_of(row["worst_case"]), str(row["best_known_source"])
    if math.isnan(share) != math.isnan(best) and not source:
        yield ("best_known",), f"{_shown(best)}, and the worst case is {_shown(share)}"
    elif best > share + _CLOSE:
        yield ("best_known",), f"{_shown(best)}, above the worst case, {_shown(share)}"
    elif (source == "here") != (abs(best - share) <= _CLOSE):
        yield (
            ("best_known", "best_known_source"),
            f"{_shown(best)} from {printable(source) or 'nobody'!r} is not told right",
        )


def _of_queries(row: Mapping[Any, Any], own: Sequence[_Line], *, whole: bool) -> Found:
    asked = [one.queries for one in own]
    there, slack = number_of(row["queries"]), _QUERIES * (len(own) + 1) + 1e-6
    if any(math.isnan(one) for one in asked) or math.isnan(there):
        return
    if there < sum(asked) - slack or (whole and own and there > sum(asked) + slack):
        yield ("queries",), f"{there:g}, and its attacks have asked {sum(asked):g}"


def _of_marks(row: Mapping[Any, Any]) -> Found:
    """The mark follows from the flags, but for the defense that nobody attacked who knows it: its adaptive figure is missing."""
    unfinished = math.isnan(number_of(row["worst_case"]))
    alone = NOT_ADAPTIVE in str(row["mark"]).split("; ")
    should = marks(str(row["flags"]), unfinished=unfinished, not_adaptive=alone)
    if str(row["mark"]) != should:
        yield ("mark", "flags"), f"the mark is {str(row['mark'])!r}, and what the flags say is {should!r}"
    elif not unfinished and alone != math.isnan(number_of(row["adaptive"])):
        yield (
            ("mark", "adaptive"),
            f"the mark is {should!r}, and the adaptive figure {_shown(number_of(row['adaptive']))}",
        )


def _of_detection(board: Board, lines: Mapping[Key, Sequence[_Line]]) -> Iterator[Fault]:
    """Robust accuracy in NAME.detection.csv, which the samples know as well."""
    for place, row in enumerate(board.beside["detection"].to_dict("records") if "detection" in board.beside else ()):
        for one in lines.get(key_of(row), []):
            if (one.attack, str(one.adaptive).lower()) == (row["attack"], row["adaptive"]):
                for columns, text in _differs(row, "robust_acc", float(one.left.mean()), "the samples give"):
                    who = f"line {place + 2} ({name_of(key_of(row))}, {printable(row['attack'])})"
                    yield Fault(who=who, file="detection", columns=columns, text=text)


def _of_ranks(board: Board) -> Iterator[Fault]:
    again = ranked(board.rows, board.samples)
    should = {key_of(row): row["rank"] for row in again.to_dict("records")}
    wrong = False
    for row in board.rows.to_dict("records"):
        rank = should[key_of(row)]
        if rank != row["rank"]:
            wrong = True
            text = f"{row['rank'] or 'nothing'}, and the samples give {rank or 'none'}"
            yield Fault(who=name_of(key_of(row)), columns=("rank",), text=text)
    if not wrong and list(should) != [key_of(row) for row in board.rows.to_dict("records")]:
        yield Fault(columns=("rank",), text="the rows are not in the order that their samples give")


def _shown(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value:.6g}"
