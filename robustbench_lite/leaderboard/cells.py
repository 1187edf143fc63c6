"""What may stand in a cell of a leaderboard: a word, a share, a count; nothing that reads as a number and is none."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.columns import KEY, ROWS, TEXTS, key_of, name_of
from robustbench_lite.leaderboard.fault import Fault
from robustbench_lite.leaderboard.files import Files
from robustbench_lite.leaderboard.samples import fits

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
#: the largest count that is believed, and how much of a cell is shown
_MOST, _SHOWN = 10**15, 40


@dataclass(frozen=True, kw_only=True)
class _Number:
    """What a cell that holds a number may be."""

    accepted: str
    low: float = 0
    high: float = math.inf
    whole: bool = False
    empty: bool = True

    def holds(self, cell: str) -> bool:
        if cell == "":
            return self.empty
        value = float(cell) if is_number(cell) else math.nan
        return self.low <= value <= self.high and not (self.whole and value != int(value))


_SHARE = _Number(accepted="a share from 0 to 1, or nothing", high=1)
_COUNT = _Number(accepted="a whole number from 1", low=1, high=_MOST, whole=True, empty=False)
_WHOLE = _Number(accepted="a whole number, or nothing", high=_MOST, whole=True)
_AMOUNT = _Number(accepted="a number from 0, or nothing")
#: all other numbers are shares
_NUMBERS = {
    **dict.fromkeys(("n", "seeds", "draws"), _COUNT),
    **dict.fromkeys(("rank", "parameters", "negatives", "positives", "destroyable"), _WHOLE),
    **dict.fromkeys(("queries", "seconds", "seconds_per_sample", "cost"), _AMOUNT),
}


def is_number(cell: str) -> bool:
    """Whether a cell holds a finite number, of either sign."""
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def faults_of_cells(files: Files) -> Iterator[Fault]:
    """The cells that hold what their column cannot."""
    for what in files.tables:
        for place, row in enumerate(files.table(what).to_dict("records")):
            for column, cell in row.items():
                accepted = _accepted(str(column), cell, row, what)
                if accepted:
                    who, text = line_of(what, place, row), f"{_cut(cell)}; accepted: {accepted}"
                    yield Fault(who=who, file=what, columns=(str(column),), text=text)


def faults_of_keys(files: Files) -> Iterator[Fault]:
    """No rows at all, rows that stand twice, and lines beside NAME.csv that are about none of its rows."""
    keys = [key_of(row) for row in files.table(ROWS).to_dict("records")]
    if not keys:
        yield Fault(text="it has no rows")
        return
    for key in dict.fromkeys(key for number, key in enumerate(keys) if key in keys[:number]):
        yield Fault(who=name_of(key), columns=KEY, text="a system stands in it twice under one threat")
    for what in (what for what in files.tables if what != ROWS):
        lines = files.table(what).to_dict("records")
        told = [key_of(row) for row in lines] if what == "timings" else []
        for key in dict.fromkeys(key for number, key in enumerate(told) if key in told[:number]):
            yield Fault(who=name_of(key), file=what, columns=KEY, text="it has more than one line")
        for key in dict.fromkeys(key_of(row) for row in lines):
            if key not in keys:
                yield Fault(who=name_of(key), file=what, columns=KEY, text="it has lines here and no row")


def line_of(what: str, place: int, row: Mapping[Any, str]) -> str:
    """A line of a table in words: the row; of a file beside NAME.csv the line's number too, and what it is about."""
    name = name_of(key_of(row))
    if what == ROWS:
        return name
    attack = f", {printable(row['attack'])}" if "attack" in row else ""
    return f"line {place + 2} ({name}{attack})"


def _accepted(column: str, cell: str, row: Mapping[Any, str], what: str) -> str:
    """What the cell may be, where it is something else; else nothing."""
    if column in KEY:
        return "" if cell.strip() else "a name"
    if column == "left":
        known = _COUNT.holds(row["n"])  # else n itself is told of
        return "" if not known or fits(cell, int(float(row["n"]))) else f"the text of {row['n']} samples"
    if column == "adaptive" and what != ROWS:
        return "" if cell in ("true", "false") else "true or false"
    if column in TEXTS and column != "adaptive":
        return ""
    kind = _NUMBERS.get(column, _SHARE)
    return "" if kind.holds(cell) else kind.accepted


def _cut(cell: str) -> str:
    shown = printable(cell)
    return repr(shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…")
