"""Who is told how a run goes."""

from typing import Protocol


class Reporter(Protocol):
    """The command line draws bars, a library call is silent."""

    def begin(self, text: str, total: int) -> None: ...
    def advance(self, done: int, broken: int) -> None: ...
    def training(self, done: int, total: int, text: str) -> None: ...
    def together(self, done: int, total: int, text: str) -> None: ...
    def note(self, text: str) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def begin(self, text: str, total: int) -> None: ...
    def advance(self, done: int, broken: int) -> None: ...
    def training(self, done: int, total: int, text: str) -> None: ...
    def together(self, done: int, total: int, text: str) -> None: ...
    def note(self, text: str) -> None: ...


class Once:
    """Another reporter that is told every note once: several processes may find the same."""

    def __init__(self, other: Reporter) -> None:
        self._other, self._noted = other, set[str]()

    def begin(self, text: str, total: int) -> None:
        """As the other."""
        self._other.begin(text, total)

    def advance(self, done: int, broken: int) -> None:
        """As the other."""
        self._other.advance(done, broken)

    def training(self, done: int, total: int, text: str) -> None:
        """As the other."""
        self._other.training(done, total, text)

    def together(self, done: int, total: int, text: str) -> None:
        """As the other."""
        self._other.together(done, total, text)

    def note(self, text: str) -> None:
        """Tell it, if it was not told before."""
        if text not in self._noted:
            self._noted.add(text)
            self._other.note(text)
