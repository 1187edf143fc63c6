"""A leaderboard as files: NAME.csv, NAME.samples.csv, NAME.timings.csv and NAME.md."""

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.columns import (
    AFTER,
    BEFORE,
    BESIDE,
    CHECKS,
    KEY,
    SAMPLES,
    TIMINGS,
    Key,
    attacks_of,
    key_of,
)
from robustbench_lite.leaderboard.ranking import ranked

_TEXTS = ("mark", "model", "defense", "training", "architecture", "dataset", "threat", "best_known_source", "flags")
_WORDS = (*_TEXTS, "digest", "slice", "plan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Ranked rows, and what stands beside them; see `columns`.

    Args:
        rows: one a system and threat. samples: which images each attack leaves; may be empty.
        timings: clocks; may be empty. beside: figures of detectors and of a camera, by their name in `columns.BESIDE`.
        checks: what the checks of the run found; empty where the board is of files.
    """

    rows: pd.DataFrame
    samples: pd.DataFrame
    timings: pd.DataFrame
    beside: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    checks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CHECKS)))

    @property
    def attacks(self) -> list[str]:
        """The columns that are attacks."""
        return attacks_of(list(self.rows.columns))

    @classmethod
    def of(
        cls, rows: pd.DataFrame, samples: pd.DataFrame, timings: pd.DataFrame, beside: Mapping[str, pd.DataFrame]
    ) -> "Board":
        """Rank the rows, and put everything into the order of the ranks.

        Raises:
            UserError: a system stands twice under one threat.
        """
        twice = rows.duplicated(list(KEY))
        if twice.any():
            row = rows[twice].iloc[0]
            raise UserError(
                f"{row['model']} with {row['defense']} stands twice under {row['threat']}; give each system once"
            )
        order = ranked(rows, samples)
        columns = [*BEFORE, *attacks_of(list(order.columns)), *AFTER]
        place = {key_of(row): number for number, row in enumerate(order.to_dict("records"))}
        also = {name: _sorted(frame, place) for name, frame in beside.items() if len(frame)}
        return cls(rows=order[columns], samples=_sorted(samples, place), timings=_sorted(timings, place), beside=also)

    @classmethod
    def read(cls, path: Path) -> "Board":
        """Read NAME.csv, and the files beside it that are there.

        Raises:
            UserError: it cannot be read, or is no leaderboard.
        """
        rows = _read(path)
        missing = [name for name in (*BEFORE, *AFTER) if name not in rows.columns]
        if missing:
            raise UserError(f"{str(path)!r} is no leaderboard: it has no column {missing[0]!r}")
        rows = rows.astype(dict.fromkeys(_WORDS, str))
        for name in (*attacks_of(list(rows.columns)), "clean", "worst_case", "best_known", "claimed", "adaptive"):
            rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
        also = {name: frame for name, columns in BESIDE.items() if len(frame := _beside(path, name, columns))}
        samples, timings = _beside(path, "samples", SAMPLES), _beside(path, "timings", TIMINGS)
        return cls(rows=rows, samples=samples, timings=timings, beside=also)

    def write(self, path: Path, page: str) -> tuple[Path, ...]:
        """Write NAME.csv and what belongs to it; `page` is NAME.md. Returns what was written.

        Raises:
            UserError: the folder cannot be written, or the name does not end in .csv.
        """
        files = {path: _csv(self.rows), named(path, "samples"): _csv(self.samples), path.with_suffix(".md"): page}
        if len(self.timings):
            files[named(path, "timings")] = _csv(self.timings)
        files |= {named(path, name): _csv(frame) for name, frame in self.beside.items()}
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for place, text in files.items():
                atomic_write(place, text.encode())
        return tuple(files)

    def text(self) -> str:
        """The rows as they stand in NAME.csv."""
        return _csv(self.rows)

    def merged(self, others: "Iterable[Board]") -> "Board":
        """The rows of all, ranked together; of a system that stands in several, those of the last.

        Raises:
            UserError: a system was seen on other images in the one than in the other.
        """
        board = self
        for other in others:
            board = board._with(other)
        return board

    def _with(self, other: "Board") -> "Board":
        new = {key_of(row) for row in other.rows.to_dict("records")}
        frames = [_joined(*pair, new) for pair in zip(self._frames, other._frames, strict=True)]
        for (dataset, threat), own in frames[0].groupby(["dataset", "threat"], sort=False):
            if own["slice"].nunique() > 1:
                raise UserError(
                    f"{dataset} under {threat} was evaluated on different images in these leaderboards, so they have no "
                    "common rank; use the same samples"
                )
        empty = pd.DataFrame(columns=list(KEY))
        beside = {name: _joined(self.beside.get(name, empty), other.beside.get(name, empty), new) for name in BESIDE}
        return Board.of(frames[0], frames[1], frames[2], beside)

    @property
    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        return self.rows, self.samples, self.timings

    def only(self, keys: Collection[Key]) -> "Board":
        """The rows of these systems."""
        rows = self.rows[[key_of(row) in keys for row in self.rows.to_dict("records")]]
        return replace(self, rows=rows.reset_index(drop=True))


def belongs_to_another(path: Path) -> bool:
    """Whether a file is not a leaderboard but lies beside one: NAME.samples.csv and the like, of a NAME.csv that is there."""
    stem, _, what = path.stem.rpartition(".")
    return what in ("samples", "timings", *BESIDE) and path.with_name(f"{stem}.csv").exists()


def _joined(old: pd.DataFrame, more: pd.DataFrame, new: Collection[Key]) -> pd.DataFrame:
    """Both, without the old lines of systems that are new."""
    if not len(old):
        return more
    keep = [key_of(row) not in new for row in old.to_dict("records")]
    return pd.concat([old[keep], more], ignore_index=True)


def _sorted(frame: pd.DataFrame, place: dict[Key, int]) -> pd.DataFrame:
    if not len(frame):
        return frame
    order = [place[key_of(row)] for row in frame.to_dict("records")]
    return frame.assign(_place=order).sort_values("_place", kind="stable").drop(columns="_place").reset_index(drop=True)


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


def named(path: Path, what: str) -> Path:
    """NAME.WHAT.csv, which lies beside NAME.csv."""
    return path.with_name(f"{path.stem}.{what}.csv")


def _read(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8")
        return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={}, dtype=str)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the leaderboard {str(path)!r}: {error}") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{str(path)!r} is no leaderboard: {error}") from None


def _beside(path: Path, what: str, columns: tuple[str, ...]) -> pd.DataFrame:
    beside = named(path, what)
    if not beside.exists():
        return pd.DataFrame(columns=list(columns))
    frame = _read(beside)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"{str(beside)!r} has no column {missing[0]!r}; build the leaderboard again")
    return frame
