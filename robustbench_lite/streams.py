"""Whose words are whose: stdout is for results, and what a user's code prints while they are computed goes to stderr.

Such code may also close the streams, or put others in their place; what is printed afterwards is printed all the same.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class _Lent(io.TextIOBase):
    """A stream that writes to another one, and does not close it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: it is only lent."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def buffer(self) -> object:
        """Bytes go there."""
        return self._stream.buffer


@contextmanager
def lent_streams() -> Iterator[None]:
    """Inside, code that is not ours may print: stdout is stderr, and both are as before when it ends."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Lent(sys.stderr), _Lent(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def present_streams() -> None:
    """Where a stream was closed before the program began (`rbl … >&-`), what is printed there is lost, and no more."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            _to_nowhere(number)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def drop(stream: TextIO) -> None:
    """From now on what is printed there goes nowhere: nobody can be told anything there."""
    try:
        _to_nowhere(stream.fileno())
    except (OSError, ValueError):  # it is no file
        return


def _to_nowhere(number: int) -> None:
    """The file of this number becomes the system's sink."""
    sink = os.open(os.devnull, os.O_WRONLY)
    if sink != number:
        os.dup2(sink, number)
        os.close(sink)
