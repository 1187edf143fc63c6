"""Cells of a leaderboard that were edited since it was written, as far as its evidence tells."""

from collections.abc import Iterator

from robustbench_lite.leaderboard.cells import line_of
from robustbench_lite.leaderboard.columns import EVIDENCE, ROWS, SEALED, key_of
from robustbench_lite.leaderboard.evidence import edited
from robustbench_lite.leaderboard.fault import Fault
from robustbench_lite.leaderboard.files import Files

UNSEALED = "it has no column 'evidence', so that edits cannot be noticed; add it: rbl leaderboard seal"
_TEXT = "not what was written when the leaderboard was built; its evidence does not fit"
_LINES = "lines were added, taken away or changed since the leaderboard was built; the row's evidence does not fit them"


def faults_of_evidence(files: Files) -> Iterator[Fault]:
    """The lines whose evidence does not fit, the files beside NAME.csv first, each with the columns that differ."""
    if not files.sealed:
        yield Fault(text=UNSEALED)
        return
    beside = [what for what in SEALED if what != ROWS and what in files.tables]
    spoilt, gone = set(), dict[str, Fault]()
    for what in beside:
        for fault in _of_table(files, what):
            spoilt.add(what)
            yield fault
    for fault in _of_table(files, ROWS):
        own = tuple(name for name in fault.columns if name not in SEALED)
        if own or not fault.columns:
            yield Fault(who=fault.who, columns=own, text=fault.text)
        for what in (what for what in fault.columns if what in SEALED):
            if what not in files.tables:
                gone.setdefault(what, missing(what))
            elif what not in spoilt:  # else its lines are told of already
                yield Fault(who=fault.who, file=what, text=_LINES)
    yield from gone.values()


def missing(what: str) -> Fault:
    """A file beside NAME.csv that is not there, and has lines of its rows."""
    return Fault(file=what, text="the file is missing; put it back, or build the leaderboard again")


def _of_table(files: Files, what: str) -> Iterator[Fault]:
    for place, row in enumerate(files.tables[what].to_dict("records")):
        lines = files.lines(key_of(row)) if what == ROWS else None
        columns = edited(row[EVIDENCE], row, lines)
        if columns:
            yield Fault(who=line_of(what, place, row), file=what, columns=tuple(columns), text=_TEXT)
