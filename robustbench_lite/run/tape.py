"""What attacks asked and what they left, kept to be asked about again."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import overheard
from robustbench_lite.rows import concat
from robustbench_lite.run.answers import Answers
from robustbench_lite.run.subject import Subject
from robustbench_lite.system import Outputs, System

S = TypeVar("S")
#: images of a query that are noted, and queries of a search
ROWS, PER_SEARCH = 4, 4


@dataclass(kw_only=True)
class Tape:
    """A listener (see `oracle.overheard`) that notes some queries of the attacks on one system, and the answers to them.

    Of every search the queries number 1, 2, 4, 8, … are noted, the last of them are kept, and of each a few images.

    Args:
        subject: whose answers are noted; those of other systems that examples are crafted on are not.
    """

    subject: Subject
    noted: list[tuple[Tensor, Tensor, Answers]] = field(default_factory=list)
    _now: deque[tuple[Tensor, Tensor, Answers]] = field(default_factory=lambda: deque(maxlen=PER_SEARCH))
    _count: int = 0

    def __call__(self, system: System, adaptive: bool, goal: Goal, x: Tensor, outputs: Outputs) -> None:
        """Note the query, if it is one to be noted."""
        fast = self.subject.fast
        known = system.model in (fast.model, self.subject.system.model) and system.purifiers == fast.purifiers
        if not known or (adaptive and system.differentiable_as is not None):  # other scores on purpose
            return
        self._count += 1
        if self._count & (self._count - 1) == 0:
            told = Answers.of(outputs)[:ROWS].to("cpu")
            self._now.append((x[:ROWS].clone(), goal.y[:ROWS].clone(), told))

    def turn(self) -> None:
        """A search has ended."""
        self.noted += self._now
        self._now.clear()
        self._count = 0

    def some(self, count: int) -> tuple[Tensor, Tensor, Answers] | None:
        """About so many of the images, from all searches: images, labels and what was answered; None without any."""
        self.turn()
        usable = [one for one in self.noted if bool(one[0].isfinite().all())]
        step = max(1, len(usable) * ROWS // count)
        chosen = usable[::step][: max(1, count // ROWS)]
        if not chosen:
            return None
        if any(told.reject is None for _, _, told in chosen):  # an adversary who does not know of the detector
            chosen = [(x, y, replace(told, reject=None)) for x, y, told in chosen]
        images, labels, told = zip(*chosen, strict=True)
        return torch.cat(images), torch.cat(labels), concat(told)


def heard_while(searches: Iterator[S], tape: Tape) -> Iterator[S]:
    """The same, with the tape running while each is made."""
    while True:
        with overheard(tape):
            try:
                one = next(searches)
            except StopIteration:
                return
        tape.turn()
        yield one


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What the attacks left of some images.

    Args:
        x, y: (a, c, h, w) and labels. target: (a,), -1 without one. margin: (a,) float64, what the verdict said at the time.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    margin: Tensor

    @classmethod
    def of(
        cls, subject: Subject, left: Sequence[tuple[pd.DataFrame, Mapping[int, np.ndarray]]], count: int
    ) -> "Attacked | None":
        """So many of the kept examples, those of samples that held out first; None where none was kept.

        Args:
            left: of each attack the records, and examples by index.
        """
        rows = [row | {"adv": kept[row["index"]]} for frame, kept in left for row in _judged(frame, kept)]
        rows.sort(key=lambda row: (bool(row["broken"]), row["index"]))
        rows = rows[:: max(1, len(rows) // count)][:count]
        if not rows:
            return None
        numbers = {name: torch.tensor([int(row[name]) for row in rows]) for name in ("label", "target")}
        return cls(
            x=torch.from_numpy(np.stack([row["adv"] for row in rows])).to(subject.device),
            y=numbers["label"].to(subject.device),
            target=numbers["target"],
            margin=torch.tensor([float(row["margin"]) for row in rows], dtype=torch.float64),
        )


def _judged(frame: pd.DataFrame, kept: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    """The records of kept examples that an ordinary verdict was given of."""
    if not len(frame):
        return []
    usual = (frame["reason"].fillna("") == "") & frame["valid"].astype(bool) & frame["index"].isin(list(kept))
    return [{str(name): value for name, value in row.items()} for row in frame[usual].to_dict("records")]
