"""Waiting for what another process does: as long as it takes, and never so that a busy machine fails a test."""

import time
from collections.abc import Callable

#: after so many seconds something hangs, on any machine
PATIENCE = 1200.0


class HangsError(Exception):
    """What was waited for did not happen."""


def until(happened: Callable[[], object], what: str = "it") -> None:
    """Wait until something has happened.

    Raises:
        HangsError: it did not, in twenty minutes.
    """
    begun = time.monotonic()
    while not happened():
        if time.monotonic() - begun > PATIENCE:
            raise HangsError(f"{what} did not happen in {PATIENCE:.0f} seconds")
        time.sleep(0.05)
