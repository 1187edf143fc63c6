"""Records on disk: content-addressed, atomic, appended as the run goes.

One folder a cell key (everything that could change a number, but not the slice), so that `first:50` finds what `first:200`
left. While a cell runs its samples arrive as part files; once it is complete they are one file, sorted by sample: the same
bytes however often the run was killed on the way.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustbench_lite.attack import Learned
from robustbench_lite.cache import atomic_write, weights_digest, writing

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
#: what a cell is called; the same numbers may stand under another name (a model file that was moved)
NAMES = ("dataset", "model", "defense", "threat", "attack", "adaptive")


def cell_key(facts: Mapping[str, Any]) -> str:
    """32 letters over everything that could change a number of this cell."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
        """What is known of the cell, sorted by index; part files that cannot be read count as not computed."""
        frames = [self._memory[key]] if key in self._memory else []
        return _joined([*frames, *map(_read, self._files(key))])

    def trust(self, key: str) -> None:
        """What is on disk of the cell was computed for this run, even where earlier ones are forgotten."""
        self._forgotten.add(key)

    def append(self, key: str, rows: pd.DataFrame) -> None:
        """Add rows of the cell; on disk once this returns."""
        if self._folder is None:
            held = self._memory.get(key)
            self._memory[key] = rows if held is None else pd.concat([held, rows], ignore_index=True)
            return
        first = int(rows["index"].min())
        name = f"part-{first:08d}-{len(rows):06d}-{_digest(rows)}.parquet"
        self._write(self._folder / key / name, rows)

    def finish(self, key: str) -> pd.DataFrame:
        """Make one sorted file of the parts; the rows of the cell."""
        if self._folder is None:
            return self.rows(key)
        files, whole = self._files(key), self._folder / key / _WHOLE_FILE
        rows = _joined([_read(path) for path in files])
        if not all(path.exists() for path in files):  # another process has joined them meanwhile
            return self.finish(key)
        if files and files != [whole]:
            self._write(whole, rows)
            for path in files:  # those that were read, and none that another process has written since
                if path != whole:
                    path.unlink(missing_ok=True)
        return rows

    def keep(self, key: str, learned: Sequence[Learned]) -> None:
        """Keep what the stages of an attack have learned, in one file that is there whole or not at all."""
        if self._folder is None:
            return
        tensors = {
            f"{place}.{name}": tensor.detach().cpu().contiguous().clone()
            for place, one in enumerate(learned)
            for name, tensor in one.tensors.items()
        }
        told = {"figures": [dict(one.figures) for one in learned], "digest": weights_digest(tensors)}
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
        if told.get("digest") != weights_digest(tensors):
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
                self._notes[key] = json.loads((self._folder / key / _NOTES).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return {}
        return self._notes.get(key, {})

    def _files(self, key: str) -> list[Path]:
        if self._folder is None:
            return []
        files = sorted((self._folder / key).glob("*.parquet"), key=lambda path: (path.name != _WHOLE_FILE, path.name))
        if not self._fresh or key in self._forgotten:
            return files
        self._forgotten.add(key)
        for path in [*files, self._folder / key / _NOTES, self._folder / key / _LEARNED]:
            path.unlink(missing_ok=True)
        return []

    def _write(self, path: Path, rows: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(rows[list(COLUMNS)], schema=SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata(None)
        assert self._folder is not None
        with writing(self._folder.parent):
            atomic_write(path, lambda temporary: pq.write_table(table, temporary))


def _of_stage(place: int, tensors: Mapping[str, Tensor], figures: Mapping[str, float]) -> Learned:
    """What the stage at this place has learned, out of what all have."""
    head = f"{place}."
    own = {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
    return Learned(tensors=own, figures=figures)


def _read(path: Path) -> pd.DataFrame:
    """The rows of a file; none if it cannot be read."""
    try:
        return pq.read_table(path, schema=SCHEMA).to_pandas()
    except (OSError, pa.ArrowException):
        return pd.DataFrame({name: [] for name in COLUMNS})


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows, each sample once, sorted by index."""
    filled = [rows for rows in parts if len(rows)]
    if not filled:
        return pd.DataFrame({name: [] for name in COLUMNS})
    rows = pd.concat(filled, ignore_index=True)
    return rows.drop_duplicates("index", keep="last").sort_values("index", kind="stable").reset_index(drop=True)


def _digest(rows: pd.DataFrame) -> str:
    indices = rows["index"].to_numpy().astype("int64").tobytes()
    return hashlib.blake2b(indices, digest_size=4).hexdigest()
