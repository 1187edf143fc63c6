"""Who is told how a run goes."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class CellEnd:
    """How a cell ended.

    Args:
        text: attack, model, defense and threat. total: samples that it was to have. ended: those with a verdict.
        broken: of them. robust: robust accuracy in [0, 1], None where there is none (the smallest norm is sought, a
            failure). worst: the same over all attacks on the system so far, None after the first.
        seconds: spent now; None where nothing was computed, only read. failed: why it failed, if it did.
    """

    text: str
    total: int
    ended: int
    broken: int
    robust: float | None = None
    worst: float | None = None
    seconds: float | None = None
    failed: str = ""

    def __str__(self) -> str:
        counts = f"{self.broken}/{self.total} broken"
        if self.failed:
            return f"{self.text}: failed after {self.ended} of {self.total} samples: {self.failed}"
        parts = [] if self.robust is None else [f"robust accuracy {100 * self.robust:.1f} %"]
        parts += [counts, "from the records" if self.seconds is None else f"{self.seconds:.1f} s"]
        parts += [] if self.worst is None else [f"worst case so far {100 * self.worst:.1f} %"]
        return f"{self.text}: {', '.join(parts)}"


class Reporter(Protocol):
    """The command line draws bars and writes lines, a library call is silent. No number may depend on it.

    Another reporter derives from `Silent`, so that it need not have every method.
    """

    def begin(self, text: str, total: int) -> None:
        """The next cell of so many samples, or (with a total of 0) something that is not counted in samples."""

    def advance(self, done: int, broken: int) -> None:
        """That many more samples of the cell have ended, and that many of them are broken."""

    def progress(self, stage: str, step: int, steps: int, broken: int, left: int, share: float) -> None:
        """How far the present cell is; called a few times a second at most.

        Args:
            stage: of a cascade, the attack that runs; of the checks, the one that runs; else empty.
            step, steps: of the rows under way, on average, and how many a row makes; 0 of 0 where nothing is counted.
            broken: samples so far. left: samples that are still attacked.
            share: of the work, in [0, 1]; what is left is an upper bound, since a sample that breaks leaves.
        """

    def end(self, cell: CellEnd) -> None:
        """A cell has ended."""

    def training(self, done: int, total: int, text: str) -> None:
        """A training has done so many of its steps; the text says which, and how well."""

    def together(self, done: int, total: int, text: str) -> None:
        """Other processes have done so many of all tasks, and are at these."""

    def note(self, text: str) -> None:
        """A sentence that everybody should read."""


class Silent:
    """A reporter that says nothing."""

    def begin(self, text: str, total: int) -> None: ...
    def advance(self, done: int, broken: int) -> None: ...
    def progress(self, stage: str, step: int, steps: int, broken: int, left: int, share: float) -> None: ...
    def end(self, cell: CellEnd) -> None: ...
    def training(self, done: int, total: int, text: str) -> None: ...
    def together(self, done: int, total: int, text: str) -> None: ...
    def note(self, text: str) -> None: ...
