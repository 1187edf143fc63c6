"""Which stages of a cascade have ended for the samples that they did not break, kept on disk until the cell ends.

A stage of a strong attack can take an hour, and leaves no row of a sample that it does not break. A run that was killed goes on
with the next stage, and ends in the same rows: what a stage does to a sample depends on the sample alone.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.rows import Rows
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.stages import joined, new_bill
from robustbench_lite.run.verdict import Verdict

_DOUBT = "doubt."


class FinishedStages:
    """What is known of the samples of a cell that are under way in a cascade, by their positions in the slice.

    Args:
        path: the file; None keeps nothing on disk. key: the cell's. indices: (n,) of the slice, in the split.
        answers: (n,) int64, what the system says of the clean images: where it says something else than it did when the file
            was written, the file is of another system.

    Attributes:
        next: (n,) int64, the place of the search that comes next; 0 where none has ended.
        bill: (n, stages, 2) int64, what each stage has cost; see `stages.new_bill`.
        doubts: breaks that the last word might deny, of samples that are under way; None where there are none.
        seconds: that the stages have taken, by place and name; those of earlier runs that were killed too.
        seconds_before: what is of earlier runs, all together.
    """

    def __init__(self, path: Path | None, key: str, indices: np.ndarray, answers: Tensor) -> None:
        self._path, self._key, self._indices, self._answers = path, key, indices, answers
        self._written, self._changed = time.monotonic(), False
        self._passed, self._held = list[Tensor](), list[Outcome]()
        self.next = torch.zeros(len(indices), dtype=torch.int64)
        self.bill = new_bill(0, len(indices))
        self.doubts: Outcome | None = None
        self.seconds: dict[str, float] = {}
        self.seconds_before = 0.0

    def open(self, stages: int, device: torch.device) -> None:
        """Begin with what an earlier run has kept; with nothing if it cannot be read, or is not what it wrote."""
        self.bill = new_bill(stages, len(self._indices))
        if self._path is None or (found := _read(self._path, self._key)) is None:
            return
        tensors, facts = found
        place = {int(index): at for at, index in enumerate(self._indices)}
        here = [(place[index], row) for row, index in enumerate(tensors["index"].tolist()) if index in place]
        if not here or tensors["bill"].shape[1] != stages:
            return
        positions, rows = (torch.tensor(column) for column in zip(*here, strict=True))
        if not torch.equal(tensors["answers"][rows], self._answers[positions]):
            return
        self.next[positions], self.bill[positions] = tensors["next"][rows], tensors["bill"][rows]
        self.seconds.update(facts["seconds"])
        self.seconds_before = sum(self.seconds.values())
        self.doubts = _doubts(tensors, place, device)

    def add(self, outcome: Outcome, ends: Tensor, search: int) -> None:
        """The search of that place has ended for these samples; those that it `ends` (n,) bool have no other before them."""
        stay = (~ends).nonzero().squeeze(1)
        self._passed.append(outcome.sample.cpu())
        self._held.append(outcome[(outcome.verdict.broken & ~ends).nonzero().squeeze(1)])
        self.next[outcome.sample[stay].cpu()] = search + 1
        self._changed = self._changed or len(stay) > 0

    def end_search(self) -> None:
        """The present search has ended; what it found is what the next one begins with."""
        self.doubts = self._doubts_now()
        self._passed, self._held = [], []

    def _doubts_now(self) -> Outcome | None:
        """The doubtful breaks as they are in the middle of a search: those of samples that it has not passed stand."""
        if self.doubts is None or not self._passed:
            return joined(self._held) if self._passed else self.doubts
        old = self.doubts
        stands = ~torch.isin(old.sample.cpu(), torch.cat(self._passed)).to(old.sample.device)
        return joined([old[stands.nonzero().squeeze(1)], *self._held])

    def write_after(self, seconds: float) -> None:
        """Write what is new, if the last time is so long ago."""
        if self._changed and time.monotonic() - self._written >= seconds:
            self.write()

    def write(self, *, clocked: bool = False) -> None:
        """Write what is known.

        Args:
            clocked: the seconds so far are told elsewhere (a cell that failed has a row among the timings).

        Raises:
            UserError: the folder cannot be written.
        """
        self._written = time.monotonic()
        rows = (self.next > 0).nonzero().squeeze(1)
        if self._path is None or not (self._changed or (clocked and len(rows))):
            return
        self._changed = False
        tensors = {
            "index": torch.from_numpy(self._indices[rows.numpy()].astype(np.int64)),
            "answers": self._answers[rows],
            "next": self.next[rows],
            "bill": self.bill[rows],
        }
        if (doubts := self._doubts_now()) is not None:
            at = self._indices[doubts.sample.cpu().numpy()].astype(np.int64)
            named = replace(doubts, sample=torch.from_numpy(at))
            tensors |= {f"{_DOUBT}{name}": value for name, value in _flat(named)}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        facts = {"key": self._key, "seconds": {} if clocked else self.seconds}
        told = json.dumps({**facts, "digest": _digest(tensors, facts)})
        with writing(self._path.parent):
            atomic_write(self._path, save(tensors, metadata={"stages": told}))

    def forget(self) -> None:
        """The cell has ended: its rows tell what they need to."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the file, if they are those that were written for this cell."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(file.metadata()["stages"])
        digest = facts.pop("digest")
        return (tensors, facts) if digest == _digest(tensors, facts) and facts["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    return hash_json({"tensors": hash_tensors(tensors), **facts})


def _flat(rows: Rows, head: str = "") -> list[tuple[str, Tensor]]:
    """The tensors of rows, and of rows inside them, by name: `verdict.broken`."""
    found: list[tuple[str, Tensor]] = []
    for name, value in rows._sliceable().items():
        found += [(f"{head}{name}", value)] if isinstance(value, Tensor) else _flat(value, f"{head}{name}.")
    return found


def _doubts(tensors: Mapping[str, Tensor], place: Mapping[int, int], device: torch.device) -> Outcome | None:
    """The doubtful breaks of the samples of this slice, in the order of their positions."""
    own = {name.removeprefix(_DOUBT): value for name, value in tensors.items() if name.startswith(_DOUBT)}
    if not own:
        return None
    inner = {name.removeprefix("verdict."): own.pop(name) for name in list(own) if name.startswith("verdict.")}
    found = Outcome(verdict=Verdict(**inner), **own)
    here = torch.tensor([row for row, index in enumerate(found.sample.tolist()) if index in place], dtype=torch.int64)
    found = found[here]
    positions = torch.tensor([place[index] for index in found.sample.tolist()], dtype=torch.int64)
    return joined([replace(found, sample=positions).to(device)])
