"""The files of a run's folder, read back.

Anything may have become of them since they were written: a file that is not what was written counts as not there, and the run
is told as far as the others go.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustbench_lite.errors import UserError, cut, missing
from robustbench_lite.escaping import printable_frame, read_csv
from robustbench_lite.results import diagnostics, physical, reconstruction
from robustbench_lite.run.open_cells import OpenCell, open_cells, rows_of_open_cells
from robustbench_lite.run.records import COLUMNS, NAMES, Records
from robustbench_lite.run.tries import without_eot

#: columns of the timings, and those of them that are numbers
_TEXTS = ("dataset", "model", "defense", "threat", "attack", "needs", "key", "failed", "stages")
_NUMBERS = ("expected", "seconds", "setup_seconds", "setup_queries", "batch_size", "floor")
_STATUSES = ("fired", "clear", "unchecked")
#: the texts of the tables that are CSV; `adaptive` is true or false
_WHO = frozenset({"dataset", "model", "defense", "threat", "attack", "key", "lab", "diagnostic", "detail", "status"})
_FLAGS = frozenset({"adaptive"})


def lost(path: Path, tells: str) -> UserError:
    """The error for a file of a run that cannot be done without."""
    return UserError(f"{cut(str(path))!r} is missing or damaged, and tells {tells}; run the same evaluation again")


def read_run(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Records, timings and diagnostics of a finished or broken-off run, from the folder alone.

    Where a system has records and some of its cells have not ended, these have rows for all images: those that have ended
    with their verdict, the others without one.

    Raises:
        UserError: the folder holds no run.
    """
    try:
        there = folder.exists()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise missing("folder", folder)
    timings, chosen = read_timings(folder), _indices(folder)
    if chosen is None and len(timings):
        raise lost(folder / "slice.json", "which images were evaluated")
    if chosen is None:
        raise UserError(f"{cut(str(folder))!r} holds no run; give the folder that rbl evaluate --out wrote")
    if not len(timings):
        raise UserError(f"the run in {cut(str(folder))!r} has no results yet; start it again to go on")
    store, frames = Records(folder / "records"), [pd.DataFrame({name: [] for name in COLUMNS})]
    for row in timings.to_dict("records"):
        rows = store.rows(row["key"])
        names = {name: row[name] for name in NAMES if name in row}
        frames.append(rows[rows["index"].isin(chosen)].assign(**names))
    filled = [frame for frame in frames if len(frame)]
    records = pd.concat(filled, ignore_index=True) if filled else frames[0]
    others = rows_of_open_cells(records, open_cells(folder, read_environment(folder), timings), store.rows)
    if len(others):
        records = pd.concat([records, others], ignore_index=True)
    return records, timings, read_diagnostics(folder)


def read_timings(folder: Path) -> pd.DataFrame:
    """timings.parquet, a row a cell; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        frame = printable_frame(pd.read_parquet(folder.absolute() / "timings.parquet"))
        texts = frame[list(_TEXTS)]
        if (
            texts.map(lambda value: isinstance(value, str)).all(axis=None)
            and not texts["stages"].map(_odd_stages).any()
        ):
            numbers = {name: pd.to_numeric(frame[name]) for name in _NUMBERS}
            return frame.assign(**numbers) if all(column.notna().all() for column in numbers.values()) else frame[:0]
    return pd.DataFrame()


def read_diagnostics(folder: Path) -> pd.DataFrame:
    """diagnostics.csv, a row a check; empty where there is none."""
    frame = _table(folder / "diagnostics.csv", diagnostics.COLUMNS, ("value",))
    return frame if len(frame) and frame["status"].isin(_STATUSES).all() else pd.DataFrame()


def read_physical(folder: Path) -> pd.DataFrame:
    """physical.csv, what a camera shows; empty where there is none."""
    return _table(folder / "physical.csv", physical.COLUMNS, ("destruction", "destruction_low", "destruction_high"))


def read_sweep(folder: Path) -> pd.DataFrame:
    """sweep.csv, the same over distances and angles; empty where there is none."""
    return _table(folder / "sweep.csv", physical.SWEEP, ("rate", "low", "high"))


def read_reconstruction(folder: Path) -> pd.DataFrame:
    """reconstruction.csv, what comes back of examples; empty where there is none."""
    return _table(folder / "reconstruction.csv", reconstruction.COLUMNS, reconstruction.NUMBERS)


def read_environment(folder: Path) -> dict[str, Any]:
    """environment.json; empty where there is none."""
    told = _json(folder / "environment.json")
    if not isinstance(told, dict):
        return {}
    systems = told.get("systems")
    known = systems.items() if isinstance(systems, dict) else ()
    return {**told, "systems": {name: facts for name, facts in known if _is_system(facts)}} if systems else told


def read_examples(path: Path) -> dict[int, np.ndarray]:
    """The kept adversarial images (c, h, w) of a cell, by index; none where they cannot be read."""
    # zip, zlib and numpy's header parser each fail in their own way on damaged bytes
    with contextlib.suppress(Exception), np.load(path) as held:
        index, images = held["index"], held["adv"]
        if index.ndim == 1 and images.ndim == 4 and index.dtype.kind == "i" and images.dtype.kind == "f":
            return dict(zip(index.tolist(), images, strict=True))
    return {}


def unfinished(folder: Path, records: pd.DataFrame, timings: pd.DataFrame) -> tuple[str, ...]:
    """Every cell of the run's plan that has no record, or not all of them: what it is, and how far it has come.

    Args:
        records, timings: of `read_run`.
    """
    names = ["model", "defense", "threat", "attack"]
    found = []
    for row in timings.to_dict("records"):
        count = int((records["key"] == row["key"]).sum())
        if count < row["expected"] and not row["failed"]:
            found.append(_unfinished(OpenCell(**{name: row[name] for name in names}), count, int(row["expected"])))
    chosen, store = _indices(folder) or [], Records(folder / "records")
    partial = _partial(folder, set(timings["key"]))
    for cell in open_cells(folder, read_environment(folder), timings):
        count = int(store.rows(cell.key)["index"].isin(chosen).sum()) if cell.key else _count(partial, cell)
        found.append(_unfinished(cell, count, len(chosen)))
    return tuple(found)


def _unfinished(cell: OpenCell, count: int, total: int) -> str:
    how_far = "no records" if not count else f"{count} of {total} images"
    return f"unfinished: {cell}: {how_far}"


def _partial(folder: Path, known: set[str]) -> dict[tuple[str, str, str, str, bool], int]:
    """How many images each cell has that is among the records and has no clock yet."""
    found: dict[tuple[str, str, str, str, bool], int] = {}
    store = Records(folder / "records")
    places = [path for path in (folder / "records").glob("*") if path.is_dir() and path.name not in known]
    for place in places:
        rows = store.rows(place.name)
        for cell, own in rows.groupby(["model", "defense", "threat", "attack", "adaptive"]):
            name = (str(cell[0]), str(cell[1]), str(cell[2]), without_eot(str(cell[3])), bool(cell[4]))
            found[name] = max(found.get(name, 0), len(own))
    return found


def _count(partial: Mapping[tuple[str, str, str, str, bool], int], cell: OpenCell) -> int:
    name = (cell.model, cell.defense, cell.threat, without_eot(cell.attack))
    ways = (False, True) if cell.adaptive is None else (cell.adaptive,)
    return max(partial.get((*name, adaptive), 0) for adaptive in ways)


def _indices(folder: Path) -> list[int] | None:
    """Positions of the run's images in the test split."""
    told = _json(folder / "slice.json")
    chosen = told.get("indices") if isinstance(told, dict) else None
    if not isinstance(chosen, list) or not all(type(index) is int and 0 <= index < 2**63 for index in chosen):
        return None
    return chosen


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _table(path: Path, columns: Sequence[str], may_lack: Sequence[str]) -> pd.DataFrame:
    """A CSV with these columns, all numbers but for names and flags, `may_lack` some; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        texts = dict.fromkeys(_WHO & set(columns), str)
        frame = read_csv(path, na_values={name: [""] for name in may_lack}, dtype=texts)
        numbers = {name: pd.to_numeric(frame[name]) for name in columns if name not in _WHO | _FLAGS}
        if all(frame[name].dtype == bool for name in _FLAGS & set(columns)) and all(
            column.notna().all() for name, column in numbers.items() if name not in may_lack
        ):
            return frame[list(columns)].assign(**numbers)
    return pd.DataFrame()


def _odd_stages(text: str) -> bool:
    """Whether the seconds of a cascade's stages are not what was written: `{"0 apgd": 1.5}`, or nothing."""
    if not text:
        return False
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return not isinstance(told, dict) or not all(type(seconds) in (int, float) for seconds in told.values())


def _is_system(facts: object) -> bool:
    """Whether this is what a run tells of a system."""
    ways = facts.get("adaptive attacks", {}) if isinstance(facts, dict) else None
    return isinstance(ways, dict) and all(isinstance(way, str) for way in ways.values())
