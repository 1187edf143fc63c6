"""Records on disk: content-addressed, atomic, appended as the run goes.

One folder a cell key (everything that could change a number, but not the slice), so that `first:50` finds what `first:200`
left. While a cell runs its samples arrive as part files; once it is complete they are one file, sorted by sample: the same
bytes however often the run was killed on the way.

A file is believed where its schema, its digest, its key and its verdicts are what was written; any other counts as not
computed.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustbench_lite.attack import Learned
from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.hashing import hash_bytes
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.run.parquet import read_table, write_table
from robustbench_lite.run.verdict import FAILED, INVALID, REASONS

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
SCHEMA = pa.schema(
    [
        *((name, _TEXT) for name in ("dataset", "model", "defense", "threat", "attack")),
        ("adaptive", _FLAG),
        *((name, _WHOLE) for name in ("index", "label", "clean_prediction", "prediction")),
        ("broken", _FLAG),
        ("valid", _FLAG),
        ("reason", _TEXT),
        *((name, _REAL) for name in ("linf", "l2", "l1", "l0", "margin")),
        *((name, _WHOLE) for name in ("forwards", "backwards")),
        ("norm", _TEXT),
        ("eps", _REAL),
        ("target", _WHOLE),
        *((name, _FLAG) for name in ("target_hit", "rejected")),
        *((name, _REAL) for name in ("score", "clean_score")),
        ("draws", _WHOLE),
        ("break_rate", _REAL),
        ("broken_8bit", _FLAG),
        *((name, _WHOLE) for name in ("seed", "lane", "break_forward")),
        *((name, _TEXT) for name in ("stage", "stages")),
        ("key", _TEXT),
        ("shape", _TEXT),
        ("source_prediction", _WHOLE),
        ("source_broken", _FLAG),
        ("witness", _TEXT),
        ("denied", _WHOLE),
    ]
)
COLUMNS = tuple(SCHEMA.names)
_WHOLE_FILE, _NOTES, _LEARNED = "rows.parquet", "setup.json", "learned.safetensors"
_STAGES = "stages.safetensors"
#: what no row may lack
_VERDICT = ("index", "label", "clean_prediction", "prediction", "broken", "valid", "reason", "broken_8bit", "rejected")
#: what a cell is called; the same numbers may stand under another name (a model file that was moved)
NAMES = ("dataset", "model", "defense", "threat", "attack", "adaptive")


class Records:
    """The rows of a run, by cell key; on disk under `folder`, or in memory without one.

    Args:
        folder: DIR/records, made on the first write. fresh: forget what is there when a cell is first asked for.
    """

    def __init__(self, folder: Path | None, *, fresh: bool = False) -> None:
        self._folder, self._fresh = folder, fresh
        self._memory: dict[str, pd.DataFrame] = {}
        self._notes: dict[str, dict[str, float]] = {}
        self._forgotten: set[str] = set()

    def rows(self, key: str) -> pd.DataFrame:
        """What is known of the cell, sorted by index; files that are not as they were written count as not computed."""
        return self._whole(key, [_read(path, key) for path in self._files(key)])

    def forget(self, key: str) -> None:
        """Delete what is known of the cell: it was computed for something else."""
        self._memory.pop(key, None)
        self._notes.pop(key, None)
        for path in [*self._files(key), *self._beside(key)]:
            path.unlink(missing_ok=True)

    def trust(self, key: str) -> None:
        """What is on disk of the cell was computed for this run, even where earlier ones are forgotten."""
        self._forgotten.add(key)

    def append(self, key: str, rows: pd.DataFrame) -> None:
        """Add rows of the cell; on disk once this returns, and held until the cell is finished."""
        held = self._memory.get(key)
        self._memory[key] = rows if held is None else pd.concat([held, rows], ignore_index=True)
        if self._folder is None:
            return
        first = int(rows["index"].min())
        name = f"part-{first:08d}-{len(rows):06d}-{_digest(rows)}.parquet"
        self._write(self._folder / key / name, rows)

    def finish(self, key: str) -> pd.DataFrame:
        """Make one sorted file of the parts; the rows of the cell."""
        if self._folder is None:
            return self.rows(key)
        whole, files = self._folder / key / _WHOLE_FILE, self._files(key)
        found = [_read(path, key) for path in files]
        while files != (files := self._files(key)):  # another process has joined its parts meanwhile
            found = [_read(path, key) for path in files]
        rows = self._whole(key, found)
        if len(rows) and not (files == [whole] and len(found[0]) == len(rows)):
            self._write(whole, rows)
            for path in files:  # those that were read, and none that another process has written since
                if path != whole:
                    path.unlink(missing_ok=True)
        self._memory.pop(key, None)
        return rows

    def restore(self, key: str, rows: pd.DataFrame) -> None:
        """Write the rows of a finished cell again where somebody has deleted them during the run."""
        if self._folder is not None and len(rows) and not self._files(key):
            self._write(self._folder / key / _WHOLE_FILE, rows)

    def keep(self, key: str, learned: Sequence[Learned]) -> None:
        """Keep what the stages of an attack have learned, in one file that is there whole or not at all."""
        if self._folder is None:
            return
        tensors = {
            f"{place}.{name}": tensor.detach().cpu().contiguous().clone()
            for place, one in enumerate(learned)
            for name, tensor in one.tensors.items()
        }
        told = {"key": key, "figures": [dict(one.figures) for one in learned], "digest": hash_tensors(tensors)}
        with writing(self._folder.parent):
            atomic_write(self._folder / key / _LEARNED, save(tensors, metadata={"learned": json.dumps(told)}))

    def learned(self, key: str) -> list[Learned]:
        """What an earlier run has kept; nothing if it cannot be read, or what it cost is not known."""
        if self._folder is None or not self.noted(key):
            return []
        try:
            with safe_open(self._folder / key / _LEARNED, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = json.loads(file.metadata()["learned"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return []
        if told.get("digest") != hash_tensors(tensors) or told.get("key", key) != key:
            return []
        return [_of_stage(place, tensors, figures) for place, figures in enumerate(told["figures"])]

    def note(self, key: str, facts: Mapping[str, float]) -> None:
        """Keep what a cell cost besides its rows."""
        self._notes[key] = dict(facts)
        if self._folder is not None:
            with writing(self._folder.parent):
                atomic_write(self._folder / key / _NOTES, json.dumps(self._notes[key]).encode())

    def noted(self, key: str) -> dict[str, float]:
        """What was noted of the cell, by this run or an earlier one; nothing if it cannot be read."""
        if key not in self._notes and self._folder is not None:
            try:
                told = json.loads((self._folder / key / _NOTES).read_text(encoding="utf-8"))
                self._notes[key] = {str(name): float(value) for name, value in told.items()}
            except (OSError, ValueError, TypeError, AttributeError, RecursionError):
                return {}
        return self._notes.get(key, {})

    def stages_file(self, key: str) -> Path | None:
        """Where a cascade keeps which stages have ended while it runs; None in memory."""
        return None if self._folder is None else self._folder / key / _STAGES

    def _whole(self, key: str, read: list[pd.DataFrame]) -> pd.DataFrame:
        """What was read, and what this process has computed besides: a file may have been deleted since."""
        rows, held = _joined(read), self._memory.get(key)
        if held is None:
            return rows
        lost = held[~held["index"].isin(rows["index"])]
        return _joined([rows, lost]) if len(lost) else rows

    def _files(self, key: str) -> list[Path]:
        if self._folder is None:
            return []
        found = (path for path in (self._folder / key).glob("*.parquet") if path.is_file())
        files = sorted(found, key=lambda path: (path.name != _WHOLE_FILE, path.name))
        if not self._fresh or key in self._forgotten:
            return files
        self._forgotten.add(key)
        for path in [*files, *self._beside(key)]:
            path.unlink(missing_ok=True)
        return []

    def _beside(self, key: str) -> list[Path]:
        """What a cell leaves besides its rows."""
        return [] if self._folder is None else [self._folder / key / name for name in (_NOTES, _LEARNED, _STAGES)]

    def _write(self, path: Path, rows: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(rows[list(COLUMNS)], schema=SCHEMA, preserve_index=False)
        assert self._folder is not None
        with writing(self._folder.parent):
            write_table(path, table.replace_schema_metadata())


def _of_stage(place: int, tensors: Mapping[str, Tensor], figures: Mapping[str, float]) -> Learned:
    """What the stage at this place has learned, out of what all have."""
    head = f"{place}."
    own = {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
    return Learned(tensors=own, figures=figures)


def _read(path: Path, key: str) -> pd.DataFrame:
    """The rows of a file; none if it cannot be read, or is not as it was written for the cell with this key."""
    table = read_table(path)
    if table is not None and table.schema.equals(SCHEMA):
        with suppress(ValueError, pa.ArrowException):
            if _are_verdicts(rows := table.to_pandas(), key):
                return rows
    return _none()


def _are_verdicts(rows: pd.DataFrame, key: str) -> bool:
    """Whether every row is a verdict of this cell on another sample."""
    whole = bool(rows[list(_VERDICT)].notna().to_numpy().all()) and rows["index"].is_unique
    known = whole and bool((rows["key"] == key).all()) and bool(rows["reason"].isin(REASONS).all())
    return known and bool(_agree(rows).all())


def _agree(rows: pd.DataFrame) -> pd.Series:
    """Whether the columns of each row say the same: of an edited row a digest can be made, but no other verdict."""
    valid, broken, reason = rows["valid"], rows["broken"], rows["reason"]
    plain = valid & (reason == "") & (rows["target"] == -1) & (rows["draws"] == 1)
    lengths = rows[["linf", "l2", "l1", "l0"]]
    return (
        ((valid != reason.isin(INVALID)) | (reason == REASONS[FAILED]))
        & (broken == (rows["break_rate"] > 0.5))
        & (valid | ~broken)
        & (broken | ~rows["broken_8bit"])
        & (~plain | (broken == ((rows["prediction"] != rows["label"]) & ~rows["rejected"])))
        & (~valid | (lengths >= 0).all(axis=1))
        & (rows[["label", "index", "forwards", "backwards"]] >= 0).all(axis=1)
    )


def _none() -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in COLUMNS})


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows, each sample once, sorted by index."""
    filled = [rows for rows in parts if len(rows)]
    if not filled:
        return _none()
    rows = pd.concat(filled, ignore_index=True)
    return rows.drop_duplicates("index", keep="last").sort_values("index", kind="stable").reset_index(drop=True)


def _digest(rows: pd.DataFrame) -> str:
    indices = rows["index"].to_numpy().astype("int64").tobytes()
    return hash_bytes(indices, 4)
