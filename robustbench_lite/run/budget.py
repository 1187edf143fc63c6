"""What the checks of a run may cost."""

import math
import time
from collections.abc import Callable

from robustbench_lite.results.diagnostics import Diagnostic, unchecked

#: seconds that checks may take in any case
LEAST = 10.0


def _nobody(name: str, place: int) -> None:
    """Who is told nothing."""


class Budget:
    """So many seconds for checks that are made one after the other, the most telling and the cheapest first.

    A check that has begun comes to its end; those that come after the last second are unchecked.

    Args:
        seconds: from now on. clock: in seconds, for tests. tell: called with the name of each check as it begins, and its
            place.
    """

    def __init__(
        self,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str, int], None] = _nobody,
    ) -> None:
        self._seconds, self._clock, self._tell = seconds, clock, tell
        self._end, self._place = clock() + seconds, 0

    def check(self, name: str, make: Callable[[], Diagnostic]) -> Diagnostic:
        """What the check of that name finds, if there is time left."""
        if self._clock() >= self._end:
            return unchecked(name, f"no time left (budget {self._seconds:.0f} s)", for_now=True)
        self._tell(name, self._place)
        self._place += 1
        return make()
