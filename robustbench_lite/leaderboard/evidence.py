"""The column `evidence`: what a line of a leaderboard said when it was written, so that a later edit is noticed.

It is a check digit, not a signature: it finds slips and careless edits, and whoever edits a cell can compute it again.

    1f0c9a72e4b85d36:aZ3kQx...    16 hexadecimal digits over all cells, and two letters for each

The digest says that something is different; the letters say in which column. They stand in the order of the columns' names,
those of the lines in the files beside NAME.csv last.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_lite.hashing import raw
from robustbench_lite.leaderboard.columns import EVIDENCE, TEXTS

_DIGITS, _LETTERS = 16, 2


def seal(cells: Mapping[Any, Any], lines: Mapping[str, Sequence[str]] | None = None) -> str:
    """The evidence of a line.

    Args:
        cells: column -> text; `evidence` itself is left out. lines: of a row of NAME.csv, file -> the evidence of its lines
            there, in whatever order.
    """
    parts = _parts(cells, lines or {})
    return f"{_digest(parts).hex()[:_DIGITS]}:{''.join(map(_mark, parts))}"


def edited(evidence: str, cells: Mapping[Any, Any], lines: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The columns (or files beside) that are not what they were when the evidence was written; none where all are.

    `evidence` is among them where that cell itself was edited, or where a column was added or taken away.
    """
    now = seal(cells, lines)
    if evidence == now:
        return []
    (digest, _, marks), (present, _, own) = evidence.partition(":"), now.partition(":")
    if digest == present or len(marks) != len(own):
        return [EVIDENCE]
    names = [name for name, _ in _parts(cells, lines or {})]
    places = range(0, len(own), _LETTERS)
    differ = [
        name for name, at in zip(names, places, strict=True) if marks[at : at + _LETTERS] != own[at : at + _LETTERS]
    ]
    return differ or [EVIDENCE]


def canonical(column: str, text: str) -> str:
    """What a cell means: of a number its value, however it is written."""
    if column not in TEXTS:
        try:
            return repr(float(text))
        except ValueError:
            pass
    return text


def _parts(cells: Mapping[Any, Any], lines: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    own = {str(name): canonical(str(name), str(cell)) for name, cell in cells.items() if name != EVIDENCE}
    return [*sorted(own.items()), *((what, "\n".join(sorted(told))) for what, told in sorted(lines.items()))]


def _digest(value: object) -> bytes:
    return raw(json.dumps(value).encode(), 16)


def _mark(part: tuple[str, str]) -> str:
    return urlsafe_b64encode(_digest(part)).decode()[:_LETTERS]
