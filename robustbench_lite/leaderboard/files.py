"""The files of a leaderboard as texts: NAME.csv and the CSVs beside it, read as they stand, and written with their evidence."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.errors import UserError, unread
from robustbench_lite.escaping import from_cell, to_cell
from robustbench_lite.leaderboard.columns import (
    AFTER,
    BEFORE,
    BESIDE,
    EVIDENCE,
    KEY,
    ROWS,
    SAMPLES,
    SEALED,
    TEXTS,
    TIMINGS,
    key_of,
)
from robustbench_lite.leaderboard.evidence import seal

#: the columns that a file must have, by what it is; a clock of before costs were measured has no `cost`
_NEEDED = {ROWS: (*BEFORE, *AFTER), "samples": SAMPLES, "timings": tuple(n for n in TIMINGS if n != "cost"), **BESIDE}
_OPTIONAL = {"timings": ("cost",)}
#: what is taken for a leaderboard since it lies beside one
_BESIDE = (".toml", ".md", ".json", ".html")


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """The tables of a leaderboard, every cell a text.

    Args:
        tables: NAME.csv under `ROWS`, NAME.WHAT.csv under WHAT, as far as they are there; those of `SEALED` may have a column
            `evidence`.
    """

    tables: Mapping[str, pd.DataFrame]

    @property
    def sealed(self) -> bool:
        """Whether every table that carries evidence has it."""
        return all(EVIDENCE in self.tables[what].columns for what in SEALED if what in self.tables)

    def table(self, what: str) -> pd.DataFrame:
        """A table without its evidence; an empty one where there is no such file."""
        if what not in self.tables:
            return pd.DataFrame(columns=list(_NEEDED[what]))
        return self.tables[what].drop(columns=EVIDENCE, errors="ignore")

    def lines(self, key: tuple[str, ...]) -> dict[str, list[str]]:
        """The evidence of the lines beside NAME.csv that are about a row, by file; none where there is no such file."""
        found: dict[str, list[str]] = {what: [] for what in SEALED if what != ROWS}
        for what in found:
            if EVIDENCE in (table := self.tables.get(what, pd.DataFrame())):
                own = (table[list(KEY)] == list(key)).all(axis=1)
                found[what] = table.loc[own, EVIDENCE].tolist()
        return found

    def with_evidence(self) -> "Files":
        """The same with the evidence of every line and row as they are now."""
        tables = dict(self.tables)
        for what in SEALED:
            if what != ROWS and what in tables:
                tables[what] = sealed(self.table(what))
        beside = replace(self, tables=tables)
        rows = self.table(ROWS)
        lines = [beside.lines(key_of(row)) for row in rows.to_dict("records")]
        return replace(self, tables=tables | {ROWS: sealed(rows, lines)})

    def texts(self, path: Path) -> dict[Path, str]:
        """The content of each file, of a leaderboard called so."""
        return {place_of(path, what): as_csv(table) for what, table in self.tables.items()}


def sealed(table: pd.DataFrame, lines: Sequence[Mapping[str, Sequence[str]]] | None = None) -> pd.DataFrame:
    """A table of texts with the evidence of each line; see `evidence.seal`."""
    rows = table.to_dict("records")
    told: Sequence[Mapping[str, Sequence[str]]] = lines or [{} for _ in rows]
    return table.assign(**{EVIDENCE: [seal(row, own) for row, own in zip(rows, told, strict=True)]})


def read(path: Path) -> Files:
    """Read NAME.csv, and the files beside it that are there.

    Raises:
        UserError: one cannot be read, or is no such table.
    """
    rows = _table(path, ROWS)
    beside = {what: place_of(path, what) for what in _NEEDED if what != ROWS}
    return Files(tables={ROWS: rows, **{what: _table(own, what) for what, own in beside.items() if own.exists()}})


def of_frames(frames: Mapping[str, pd.DataFrame]) -> Files:
    """Tables as they were computed, as the texts that their files have."""
    return Files(tables={what: parsed(as_csv(frame)) for what, frame in frames.items()})


def write(texts: Mapping[Path, str]) -> tuple[Path, ...]:
    """Write files, each whole or not at all; returns their paths.

    Raises:
        UserError: a folder cannot be written.
    """
    for place, text in texts.items():
        if place.is_dir():
            raise UserError(f"cannot write to {str(place)!r}: it is a folder; name a file")
        with writing(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, text.encode())
    return tuple(texts)


def place_of(path: Path, what: str) -> Path:
    """Where a table of NAME.csv lies: NAME.WHAT.csv beside it."""
    return path if what == ROWS else path.with_name(f"{path.stem}.{what}.csv")


def belongs_to_another(path: Path) -> bool:
    """Whether a file is not a leaderboard but lies beside one: NAME.samples.csv and the like, of a NAME.csv that is there."""
    stem, _, what = path.stem.rpartition(".")
    return what in _NEEDED and what != ROWS and path.with_name(f"{stem}.csv").exists()


def as_csv(frame: pd.DataFrame, float_format: str | None = None) -> str:
    """A table as the text of its file; names are escaped, see `escaping`."""
    shown = {name: frame[name].map(_escaped) if name in TEXTS else frame[name] for name in frame.columns}
    out = pd.DataFrame(shown, columns=frame.columns).set_axis([to_cell(str(name)) for name in frame.columns], axis=1)
    return str(out.to_csv(index=False, lineterminator="\n", float_format=float_format))


def parsed(text: str) -> pd.DataFrame:
    """The table that `as_csv` was given, every cell a text.

    Raises:
        ValueError: it is no CSV.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[], dtype=str, index_col=False)
        except pd.errors.ParserWarning as warning:
            raise ValueError(str(warning)) from None
    short = frame.isna().any(axis=1)
    if short.any():
        raise ValueError(f"row {int(short.argmax()) + 1} has fewer cells than there are columns")
    frame.columns = pd.Index([from_cell(str(name)) for name in frame.columns])
    for name in frame.columns:
        if name in TEXTS:
            frame[name] = frame[name].map(from_cell)
    return frame


def _escaped(value: object) -> object:
    return to_cell(value) if isinstance(value, str) else value


def _table(path: Path, what: str) -> pd.DataFrame:
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder; give the leaderboard's file NAME.csv")
    if path.suffix.lower() in _BESIDE:
        csv = path.with_suffix(".csv")
        hint = f"; give {str(csv)!r}" if csv.exists() else ", NAME.csv"
        raise UserError(f"{str(path)!r} is no leaderboard, which is a CSV{hint}")
    try:
        table = parsed(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise unread("leaderboard", path, error) from None
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{str(path)!r} is no leaderboard: {_why(error)}") from None
    missing = [name for name in _NEEDED[what] if name not in table.columns]
    if missing and what == ROWS:
        raise UserError(f"{str(path)!r} is no leaderboard: it has no column {missing[0]!r}{_hint(path, table)}")
    if missing:
        raise UserError(f"{str(path)!r} has no column {missing[0]!r}; build the leaderboard again")
    return table.assign(**{name: "" for name in _OPTIONAL.get(what, ()) if name not in table.columns})


def _why(error: Exception) -> str:
    """What is wrong with a file, in the words of who tried to read it: one line, cut."""
    if isinstance(error, pd.errors.EmptyDataError):
        return "the file is empty"
    if "loss of data" in str(error):  # pandas' words for it tell of its own options
        return "a row has more cells than there are columns"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    said = said.removeprefix("Error tokenizing data. C error: ")
    return said.splitlines()[0][:200] if said.strip() else type(error).__name__


def _hint(path: Path, table: pd.DataFrame) -> str:
    """What the file seems to be."""
    stem, dot, what = path.stem.rpartition(".")
    if dot and what in _NEEDED:
        return f"; it lies beside {stem}.csv: give that"
    return "; it is a table of generators, which are not ranked" if {"generator", "kind"} <= set(table.columns) else ""
