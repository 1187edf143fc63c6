"""How a long command tells what it does: a line that lives on a terminal, lines elsewhere, and a log.

On a terminal one line is drawn anew a few times a second. Without one, and with --log or --verbose, there is a line when a cell
or a training ends, and one a minute in between. --quiet leaves errors only, and the log.
"""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from robustbench_lite.cache import writing
from robustbench_lite.cli.activity import Activity
from robustbench_lite.cli.printing import complain
from robustbench_lite.cli.screen import Screen
from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.run.reporter import CellEnd

#: seconds between two lines of one activity
MINUTE = 60.0


class Bars:
    """The `Reporter` of the command line, as a context.

    Args:
        cells: how many the plan has, to number them. quiet: nothing on stderr.
        found: what a sample is called that counts; None where none does.
        log: a file that gets every line, with the time. verbose: stages, batch sizes, threads, what came from the cache.
        clock: seconds, for tests.

    Raises:
        UserError: on entering, the log cannot be written.
    """

    def __init__(
        self,
        *,
        cells: int = 0,
        quiet: bool = False,
        found: str | None = "broken",
        log: Path | None = None,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cells, self._quiet, self._counts = cells, quiet, found
        self._log_path, self._verbose, self._clock = log, verbose, clock
        live = sys.stderr.isatty() and not quiet
        self._screen = Screen(clock) if live else None
        self._lines = not quiet and (not live or verbose)
        self._log: IO[str] | None = None
        self._now = Activity(text="getting ready", began=clock())
        self._training: Activity | None = None
        self._begun, self._open, self._said = 0, False, clock()
        self._ended: set[str] = set()
        self._lock, self._over = threading.RLock(), threading.Event()

    # -- as a context ------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Bars":
        if self._log_path is not None:
            with writing(self._log_path):
                self._log_path.parent.mkdir(parents=True, exist_ok=True)
                self._log = self._log_path.open("a", encoding="utf-8", errors="backslashreplace")
            self._write(f"begins: {' '.join(map(_quoted, sys.argv[1:]))}")
        self._warn, warnings.showwarning = warnings.showwarning, self._warning
        self._handler = _Details(self._line)
        if self._verbose:
            _LOGGER.addHandler(self._handler)
            self._level = _LOGGER.level
            _LOGGER.setLevel(logging.INFO)
        if self._screen is not None:
            self._screen.start()
            self._screen.show(self._now)
        if self._lines or self._log is not None:
            threading.Thread(target=self._tell_every_minute, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        warnings.showwarning = self._warn
        if self._verbose:
            _LOGGER.removeHandler(self._handler)
            _LOGGER.setLevel(self._level)
        with self._lock:
            if error is None:
                self._close()
            if self._screen is not None:
                self._screen.stop()
            if self._log is not None:
                self._write("ends" if error is None else _stopped(error))
                self._log.close()
                self._log = None

    # -- the reporter ------------------------------------------------------------------------------------------------

    def begin(self, text: str, total: int) -> None:
        """The next cell, or (with a total of 0) something short that is not counted."""
        with self._lock:
            self._training = None
            again = text == self._now.text and self._open  # in smaller micro-batches
            if not again:
                self._close()
                self._begun += bool(total)
            number = f"{self._begun}/{self._cells}  " if total and self._cells else ""
            self._start(Activity(text=text, began=self._clock(), total=total, counts=self._counts, number=number))
            self._open = total > 0

    def advance(self, done: int, broken: int) -> None:
        """That many more samples have ended, and that many of them are broken."""
        with self._lock:
            self._now.advance(done, broken, self._clock())
            self._show(self._now)

    def progress(self, stage: str, step: int, steps: int, broken: int, left: int, share: float) -> None:
        """Where the present cell is; see `Reporter.progress`."""
        with self._lock:
            now, turns = self._now, stage != self._now.stage
            now.stage, now.step, now.steps, now.broken, now.left = stage, step, steps, broken, left
            now.at(share, self._clock(), turns=turns)
            self._show(now)

    def end(self, cell: CellEnd) -> None:
        """A cell has ended: a line, once; one that failed is told in any case."""
        with self._lock:
            self._open = False
            if cell.text in self._ended:
                return
            self._ended.add(cell.text)
            if cell.failed:
                self.note(str(cell))
            else:
                self._line(str(cell))

    def training(self, done: int, total: int, text: str) -> None:
        """A training has done so many of its steps; the text says which, and how well."""
        with self._lock:
            now = self._clock()
            if self._training is None:
                self._training = Activity(text="training", began=now, counts=None)
                self._said = now
                self._line(f"training begins: {text}" if text else "training begins")
            task = self._training
            task.text, task.total, task.ended = f"training · {text}" if text else "training", total, done
            task.at(done / max(total, 1), now)
            self._show(task)
            if done >= total:
                self._line(f"training ended after {now - task.began:.1f} s: {text}")
                self._training = None
                self._show(self._now)

    def together(self, done: int, total: int, text: str) -> None:
        """Other processes have done so many of all tasks, and are at these."""
        with self._lock:
            if not done or done >= total:
                shared = Activity(text="", began=self._clock(), total=total if done < total else 0, counts=None)
                self._start(shared)
            self._now.text = f"sharing the work · {text}" if text else "collecting"
            self._now.advance(done - self._now.ended, 0, self._clock())
            self._show(self._now)

    def note(self, text: str) -> None:
        """Something to know that stays on the screen."""
        text = printable(text)
        with self._lock:
            self._write(text)
            if self._quiet:
                return
            if self._screen is not None:
                self._screen.print(f"rbl: {text}")
            else:
                complain(text)

    # -- lines -------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Say how far the present activity is, if nothing was said of it for a minute."""
        with self._lock:
            now = self._clock()
            if now - self._said >= MINUTE:
                self._line((self._training or self._now).line(now))

    def _tell_every_minute(self) -> None:
        while not self._over.wait(1.0):
            self.tell()

    def _line(self, text: str) -> None:
        """A line of progress: to the log, and to stderr where no line lives there."""
        text = printable(text)
        with self._lock:
            self._said = self._clock()
            self._write(text)
            if not self._lines:
                return
            if self._screen is not None:
                self._screen.print(f"rbl: {text}")
            else:
                complain(text)

    def _write(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")
            self._log.flush()
        except OSError:  # a full disk must not end the run: what is computed is written elsewhere
            self._log = None

    def _start(self, activity: Activity) -> None:
        self._now, self._said = activity, self._clock()
        self._show(activity)

    def _show(self, activity: Activity) -> None:
        if self._screen is not None:
            self._screen.show(activity)

    def _close(self) -> None:
        """Tell the end of a counted activity whose end nobody tells."""
        if self._open and self._now.ended:
            now, self._open = self._now, False
            counts = f"{now.broken}/{now.total} {now.counts}" if now.counts else f"{now.ended}/{now.total}"
            self._line(f"{now.text}: {counts}, {self._clock() - now.began:.1f} s")

    def _warning(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        self.note(f"warning: {message}")


_LOGGER = logging.getLogger("robustbench_lite")


class _Details(logging.Handler):
    """What modules log of their work, as lines."""

    def __init__(self, line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line(record.getMessage())


def _stopped(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    told = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return f"stopped: {printable(told)}"


def _quoted(word: str) -> str:
    import shlex

    return printable(shlex.quote(word))
