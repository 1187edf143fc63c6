"""A CSV that says which class each image file is."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

from robustbench_lite.data import class_folders
from robustbench_lite.data.checks import MOST_CLASSES
from robustbench_lite.data.class_folders import Numbered
from robustbench_lite.data.expected import Expected
from robustbench_lite.data.places import shown
from robustbench_lite.errors import UserError

#: what the columns may be called, the first one first
FILES = ("file", "filename", "file_name", "image", "path", "img")
LABELS = ("label", "index", "class", "wnid", "synset", "class_index", "class_name", "target", "category")
#: columns that tell training images from others
SPLITS = ("split", "subset", "partition", "is_train", "is_training", "is_test")
_SEPARATORS = (",", ";", "\t", "|", " ")
#: how much of a cell a message shows, and how many files that are missing
_SHOWN, _NAMED = 40, 3


@dataclass(frozen=True, kw_only=True)
class Table:
    """The files that a table names, and the class of each as it is written there."""

    path: Path
    files: tuple[Path, ...]
    written: tuple[str, ...]


def read_table(place: Path, name: str) -> Table:
    """A CSV in `place`: a column of files (`file`, `filename`, …) and one of classes (`label`, `index`, `wnid`, …).

    Separated by commas, semicolons, tabs or blanks, with or without a byte order mark; without a header where there are two
    columns and one of them names files.

    Raises:
        UserError: no such table or columns, a file that is not there, or that is named twice.
    """
    path = place / name
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path} has no rows")
    header, body = rows[0], rows[1:]
    columns = _named(header)
    if columns is None:
        columns, body = _unnamed(rows, place), rows
    if columns is None:
        raise UserError(
            f"{path} has the columns {_listed(header)}; it needs a file ({', '.join(FILES[:3])}, …) and a label"
            f" ({', '.join(LABELS[:4])}, …)"
        )
    if not body:
        raise UserError(f"{path} has no rows")
    of_file, of_label = columns
    short = next((row for row in body if len(row) <= max(columns)), None)
    if short is not None:
        raise UserError(
            f"{path} has the label '' in the row {_listed(short)}; accepted: a file and a label in each row"
        )
    if body is not rows:
        _check_one_labelling(header, body, path)
        _check_one_split(header, body, path)
    files = _found([row[of_file].strip() for row in body], place, path)
    return Table(path=path, files=files, written=tuple(row[of_label].strip() for row in body))


def number_table(table: Table, *, classes: int | None, expected: Expected, trained: Sequence[str] | None) -> Numbered:
    """The label of each class that the table names: a whole number is one already, other texts are names of classes.

    Args:
        trained: the classes that another table names, which training images come from; None without one.

    Raises:
        UserError: labels of no class.
    """
    written = list(dict.fromkeys(table.written))
    values = {text: value for text in written if (value := _whole(text)) is not None}
    if len(values) == len(written):
        return _whole_numbers(values, table, classes, expected, trained)
    odd = next(text for text in written if text not in values)
    if values or not odd or _is_number(odd):
        accepted = "whole numbers from 0" if classes is None else f"0 to {classes - 1}"
        raise UserError(
            f"{table.path} has the label {_short(odd)!r}; accepted: {accepted}, or a class name in every row"
        )
    if classes is not None and len(written) > classes:
        raise UserError(f"{table.path} has the label {_short(odd)!r}; accepted: 0 to {classes - 1}, or {classes} names")
    every = sorted({*written, *(trained or ())})
    return class_folders.number(
        every, classes=classes, expected=expected, trained=trained is not None, what=str(table.path), source="labels"
    )


def _whole_numbers(
    values: dict[str, int], table: Table, classes: int | None, expected: Expected, trained: Sequence[str] | None
) -> Numbered:
    top = max(values.values())
    if top >= MOST_CLASSES:
        raise UserError(f"{table.path} has the label {top}; accepted: below {MOST_CLASSES:,}")
    if classes is not None and top >= classes:
        odd = next(text for text, value in values.items() if value == top)
        raise UserError(f"{table.path} has the label {odd!r}; accepted: 0 to {classes - 1}")
    others = [value for text in trained or () if (value := _whole(text)) is not None]
    reached = max(2, max([top, *others]) + 1)
    head = expected.head if classes is None else None
    count = classes or (head[1] if head is not None and head[1] >= reached else reached)
    return Numbered(labels=values, classes=count, class_names=None, how="", told=head is not None and count != reached)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(text: str) -> int | None:
    """`3`, and `3.0` as pandas writes it; None where it is no whole number from 0."""
    digits = text.removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None


def _rows(path: Path) -> list[list[str]]:
    """The cells of every line that is not empty."""
    text = _text(path)
    head = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((mark for mark in _SEPARATORS if mark in head.strip()), ",")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"cannot read the labels {path} ({error})") from error
    return [row for row in rows if any(cell.strip() for cell in row)]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a name that no file can have is no such file
        why = (
            str(error.strerror) if isinstance(error, (PermissionError, IsADirectoryError)) else "there is no such file"
        )
        raise UserError(f"cannot read the labels {shown(path)}: {why}") from error
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read the labels {path}: it is not UTF-8 ({error.reason}); save it as UTF-8") from error


def _named(header: Sequence[str]) -> tuple[int, int] | None:
    """Which columns hold files and labels, by their names; None where the first line is no header."""
    names = [cell.strip().lower() for cell in header]
    columns = [next((names.index(key) for key in keys if key in names), None) for keys in (FILES, LABELS)]
    return None if columns[0] is None or columns[1] is None else (columns[0], columns[1])


def _check_one_labelling(header: Sequence[str], body: Sequence[Sequence[str]], path: Path) -> None:
    """Refuse columns that could all be the label but group the images in different ways, such as a running number."""
    names = [cell.strip().lower() for cell in header]
    found = [(names.index(key), key) for key in LABELS if key in names]
    full = [row for row in body if len(row) == len(header)]
    for place, key in found[1:]:
        pairs = {(row[found[0][0]].strip(), row[place].strip()) for row in full}
        sides = [{pair[side] for pair in pairs} for side in (0, 1)]
        if not len(pairs) == len(sides[0]) == len(sides[1]):
            raise UserError(
                f"{path} has the columns {found[0][1]} and {key}, which say different things of the class; keep one of them"
            )


def _check_one_split(header: Sequence[str], body: Sequence[Sequence[str]], path: Path) -> None:
    """Refuse a table that says which images are for training: it would be attacked on those, too."""
    names = [cell.strip().lower() for cell in header]
    for place in (place for place, name in enumerate(names) if name in SPLITS):
        found = list(dict.fromkeys(row[place].strip() for row in body if len(row) > place))
        if len(found) > 1:
            raise UserError(
                f"{path} has images of several splits: {header[place].strip()} is {_listed(found[:3])}"
                f"{', …' if len(found) > 3 else ''}; keep the rows of one"
            )


def _unnamed(rows: Sequence[Sequence[str]], place: Path) -> tuple[int, int] | None:
    """The same of a table without a header: two columns, and what the first line has in one of them is a file."""
    if any(len(row) != 2 for row in rows):
        return None
    here = [_file(cell.strip(), place) is not None for cell in rows[0]]
    return None if here[0] == here[1] else (here.index(True), here.index(False))


def _found(written: Sequence[str], place: Path, table: Path) -> tuple[Path, ...]:
    files = [_file(text, place) for text in written]
    missing = [text for text, file in zip(written, files, strict=True) if file is None]
    if missing:
        raise UserError(f"{table} {_missing(missing, place)}")
    found = [file for file in files if file is not None]
    twice = next((file for file, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{table} names {twice.name} twice; accepted: one row an image")
    return tuple(found)


def _file(text: str, place: Path) -> Path | None:
    """The file in `place` that a cell names; None where it is not there, or is elsewhere."""
    if not text or "\0" in text:
        return None
    for name in (text, PureWindowsPath(text).as_posix()):
        try:
            inside = Path(name).relative_to(place) if Path(name).is_absolute() else Path(name)
            if ".." not in inside.parts and (place / inside).is_file():
                return place / inside
        except (OSError, ValueError):  # too long a name, or an absolute path to elsewhere
            continue
    return None


def _missing(missing: Sequence[str], place: Path) -> str:
    shown = ", ".join(_short(text) for text in missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    try:
        guess = get_close_matches(missing[0], [file.name for file in place.iterdir()], n=1)
    except OSError:
        guess = []
    also = f"; did you mean {guess[0]}?" if guess else ""
    count = f"names {shown}, which is" if len(missing) == 1 else f"names {len(missing):,} files ({shown}), which are"
    return f"{count} not in {place}{also}"


def _listed(cells: Sequence[str]) -> str:
    return ", ".join(_short(cell) for cell in cells[:10])


def _short(cell: str) -> str:
    return " ".join(cell.split())[:_SHOWN]
