"""How far a cell is: the work that its stages have done, and the most that is left.

Work is counted in queries (a gradient as two). What is left is an upper bound: a sample that breaks leaves. No number depends
on anything here.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustbench_lite.attack import Attack

#: seconds between two reports
EVERY = 0.25
#: a gradient costs about as much as so many forward passes
BACKWARD = 2

#: stage, step, steps, broken, left, share: `Reporter.progress`
Report = Callable[[str, int, int, int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a search is.

    Args:
        step: of the rows under way, on average. steps: that a row makes at most. left: samples that have not ended.
        done: steps made by all rows. todo: the most that are left to all rows and restarts.
    """

    step: int
    steps: int
    left: int
    done: int
    todo: int


class CellProgress:
    """Told by the engine after each turn, tells a reporter a few times a second, and says when to write what is known.

    Args:
        report: the reporter's `progress`. keep: called before each turn with the seconds that it may take, to write what
            would have to wait too long.

    Others keep up to date: `broken`, the samples that are broken so far, and `waiting`, those that wait for a later stage.
    """

    def __init__(
        self,
        report: Report | None = None,
        keep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._keep, self._clock = report, keep, clock
        self._last_turn, self._last_report = (
            clock(),
            -float("inf"),
        )  # the first turn is reported: from there the pace is measured
        self._names: list[str] = []
        self._bounds: list[float] = []
        self._units: list[float] = []
        self._stage = self.waiting = self.broken = 0
        self._before = 0.0

    def open(self, stages: Sequence[Attack], num_classes: int) -> None:
        """The stages that are about to run, in order."""
        self._names = [str(stage) if len(stages) > 1 else "" for stage in stages]
        rows = [max(1, stage.lanes(num_classes) * stage.length()) for stage in stages]
        self._bounds = [_queries(stage, num_classes, otherwise) for stage, otherwise in zip(stages, rows, strict=True)]
        self._units = [bound / steps for bound, steps in zip(self._bounds, rows, strict=True)]

    def begin(self, stage: int, *, waiting: int) -> None:
        """The stage of this place begins; so many samples have passed it before."""
        self._stage, self.waiting = stage, waiting

    def end(self, done: int) -> None:
        """The present stage has ended, after so many steps of rows."""
        self._before += self._units[self._stage] * done

    def turn(self, standing: Callable[[], Standing]) -> None:
        """The engine is about to go on; `standing` is asked only where it is reported."""
        now = self._clock()
        if self._keep is not None:
            self._keep(now - self._last_turn)
        self._last_turn = now
        if self._report is None or now - self._last_report < EVERY:
            return
        self._last_report = now
        at = standing()
        done, left = self._before + self._units[self._stage] * at.done, self._units[self._stage] * at.todo
        later = sum(self._bounds[self._stage + 1 :]) * (at.left + self.waiting)
        share = done / max(done + left + later, 1.0)
        self._report(self._names[self._stage], at.step, at.steps, self.broken, at.left, share)


def _queries(attack: Attack, num_classes: int, otherwise: int) -> float:
    """The most that a sample costs; of an attack that does not say, as many as it makes steps."""
    try:
        cost = attack.cost(num_classes)
    except NotImplementedError:
        return float(otherwise)
    return float(max(cost.forwards + BACKWARD * cost.backwards, 1))
