"""A leaderboard: its rows in the order of their ranks, and what stands beside them; read from files and written to them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard import files
from robustbench_lite.leaderboard.cells import faults_of_cells, faults_of_keys
from robustbench_lite.leaderboard.columns import (
    AFTER,
    BEFORE,
    BESIDE,
    CHECKS,
    KEY,
    ROWS,
    Key,
    attacks_of,
    key_of,
)
from robustbench_lite.leaderboard.edits import faults_of_evidence
from robustbench_lite.leaderboard.files import Files
from robustbench_lite.leaderboard.ranking import ranked

#: columns of whole numbers, and of figures that are computed with
_WHOLE = ("rank", "parameters", "n", "seeds")
_FIGURES = ("clean", "worst_case", "best_known", "claimed", "adaptive")


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Ranked rows, and what stands beside them; see `columns`.

    Args:
        rows: one a system and threat. samples: which images each attack leaves; may be empty.
        timings: clocks; may be empty. beside: figures of detectors and of a camera, by their name in `columns.BESIDE`.
        checks: what the checks of the run found; empty where the board is of files. images: digest of a slice (column `slice`) ->
            the positions of its images, as far as they are known. data: digest of the dataset of a run.
    """

    rows: pd.DataFrame
    samples: pd.DataFrame
    timings: pd.DataFrame
    beside: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    checks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CHECKS)))
    images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    data: str = ""

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
                f"{printable(row['model'])} with {printable(row['defense'])} stands twice under {printable(row['threat'])};"
                " give each system once"
            )
        order = ranked(rows, samples)
        columns = [*BEFORE, *attacks_of(list(order.columns)), *AFTER]
        place = {key_of(row): number for number, row in enumerate(order.to_dict("records"))}
        also = {name: _sorted(frame, place) for name, frame in beside.items() if len(frame)}
        return cls(rows=order[columns], samples=_sorted(samples, place), timings=_sorted(timings, place), beside=also)

    @classmethod
    def read(cls, path: Path, *, edited: bool = False) -> "Board":
        """Read NAME.csv, and the files beside it that are there.

        Args:
            edited: also one that was edited since it was built, or has no evidence.

        Raises:
            UserError: one cannot be read, is no leaderboard, holds a cell that means nothing, or was edited since it was built.
        """
        found = files.read(path)
        faults = [*faults_of_cells(found)] or [*faults_of_keys(found)]
        faults = faults or ([] if edited else [*faults_of_evidence(found)])
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            told = f"{faults[0].told(path.stem)}{more}; rbl leaderboard validate {path} says what is wrong"
            raise UserError(f"{str(path)!r} cannot be trusted: {told}")
        return cls.of_files(found)

    @classmethod
    def of_files(cls, found: Files) -> "Board":
        """The leaderboard of files whose cells are sound."""
        rows = found.table(ROWS)
        for name in _WHOLE:
            rows[name] = [int(float(cell)) if cell else "" for cell in rows[name]]
        for name in (*attacks_of(list(rows.columns)), *_FIGURES):
            rows[name] = pd.to_numeric(rows[name]).astype(float)
        also = {what: table for what in BESIDE if len(table := found.table(what))}
        return cls(rows=rows, samples=found.table("samples"), timings=found.table("timings"), beside=also)

    def to_files(self) -> Files:
        """Its files, with the evidence of what they say."""
        tables = {ROWS: self.rows, "samples": self.samples, **self.beside}
        if len(self.timings):
            tables["timings"] = self.timings
        return files.of_frames(tables).with_evidence()

    def write(self, path: Path, page: str) -> tuple[Path, ...]:
        """Write NAME.csv and what belongs to it; `page` is NAME.md. Returns what was written.

        Raises:
            UserError: the folder cannot be written.
        """
        texts = self.to_files().texts(path)
        order = (path, files.place_of(path, "samples"), path.with_suffix(".md"), *texts)
        return files.write({place: texts.get(place, page) for place in order})

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
