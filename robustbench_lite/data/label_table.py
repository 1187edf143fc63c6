"""A CSV that says which class each image file is."""

import csv
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Table:
    """The files that a table names, and the class of each."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    num_classes: int


def read_table(place: Path, name: str, classes: int | None) -> Table:
    """A CSV in `place` with the columns `file` and `label` (or `index`).

    Raises:
        UserError: no such table or columns, a label that is no class, a file that is not there.
    """
    table = place / name
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the labels {table} ({error})") from error
    if not rows:
        raise UserError(f"{table} has no rows")
    column = next((key for key in ("label", "index") if key in rows[0]), None)
    if column is None or "file" not in rows[0]:
        raise UserError(f"{table} has the columns {', '.join(map(str, rows[0]))}; it needs file and label (or index)")
    labels = tuple(_label(row[column], table, classes) for row in rows)
    files = tuple(place / (row["file"] or "") for row in rows)
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{table} names {missing.name}, which is not in {place}")
    return Table(files=files, labels=labels, num_classes=classes or max(2, max(labels) + 1))


def _label(text: str | None, table: Path, classes: int | None) -> int:
    text = (text or "").strip()
    if not (text.isascii() and text.isdecimal()) or (classes is not None and int(text) >= classes):
        accepted = "whole numbers from 0" if classes is None else f"0 to {classes - 1}"
        raise UserError(f"{table} has the label {text!r}; accepted: {accepted}")
    return int(text)
