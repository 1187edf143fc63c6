"""What the gate compares, what it lets pass, and what it says."""

import math
from dataclasses import dataclass
from typing import Literal

from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.columns import Key, name_of

Kind = Literal["less robust", "less accurate", "weaker attack", "missing", "flag", "queries", "time", "speed"]
#: kinds whose figures are shares
SHARES = ("less robust", "less accurate", "weaker attack")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the gate lets pass.

    Args:
        alpha: chance of a false alarm, over the whole gate. tolerance: share by which an accuracy may change, 0 to 1.
        queries, seconds, cost: factors by which the queries and seconds of a sample may grow, and the cost of an evaluation in
            units of a bare forward and gradient; None: not compared.
        flags: a check that counts images alarms where it is above its limit beyond chance, or whenever it fires anew.
        fewer: a run may have fewer images than the baseline.
    """

    alpha: float = 0.05
    tolerance: float = 0.0
    queries: float | None = 1.5
    seconds: float | None = None
    cost: float | None = None
    flags: Literal["tested", "any"] = "tested"
    fewer: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One thing that the gate looked at.

    Args:
        kind: what it would be called if it failed. who: the row. what: the column, or `kind` itself.
        before, after: its figures; of a check that counts images, its limit and what it counts.
        p: of a test, corrected over the gate; else NaN.
        how: what it rests on, in words. failed: whether it is worse than it was.
    """

    kind: Kind
    who: Key
    what: str
    before: float = math.nan
    after: float = math.nan
    p: float = math.nan
    how: str
    failed: bool = False

    def __str__(self) -> str:
        name, what = name_of(self.who), printable(self.what)
        if self.kind in SHARES:
            change = f"{100 * self.before:.1f} % -> {100 * self.after:.1f} %"
            return f"{self.kind}: {name}: {what} {change} ({self.how})"
        if self.kind in ("queries", "time", "speed"):
            whose = "" if self.what == self.kind else f"{what} "
            unit = "bare forwards and gradients" if self.kind == "speed" else "a sample"
            return f"{self.kind}: {name}: {whose}{self.before:g} -> {self.after:g} {unit} ({self.how})"
        return f"{self.kind}: {name}: {self.how}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gate says: everything it looked at, over how many rows, and what it has to add, in words."""

    comparisons: tuple[Comparison, ...]
    rows: int
    notes: tuple[str, ...]

    @property
    def alarms(self) -> tuple[Comparison, ...]:
        """What is worse than it was."""
        return tuple(one for one in self.comparisons if one.failed)

    @property
    def tests(self) -> int:
        """How many statistical tests it made."""
        return sum(not math.isnan(one.p) for one in self.comparisons)
