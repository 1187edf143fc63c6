"""Live progress on stderr: a line for the present cell, a line for a training; silent where nobody watches."""

import sys
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

from robustbench_lite.cli.printing import complain, console

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text


class Bars:
    """The `Reporter` of the command line, as a context; the bars vanish at its end.

    Without a terminal on stderr there are no bars, only notes; `quiet` silences the notes too, and warnings.

    Args:
        cells: how many the plan has, to number them. found: what a sample is called that counts; None where none does.
    """

    def __init__(self, *, cells: int = 0, quiet: bool = False, found: str | None = "broken") -> None:
        self._cells, self._quiet, self._found = cells, quiet, found
        self._live = sys.stderr.isatty() and not quiet
        self._bars: Progress | None = None
        self._now: TaskID | None = None
        self._training: TaskID | None = None
        self._begun = 0
        self._ended = self._broken = 0

    def __enter__(self) -> "Bars":
        self._warn, warnings.showwarning = warnings.showwarning, self._warning
        if self._live:
            self._bars = _progress()
            self._bars.start()
            self._now = self._bars.add_task("getting ready", total=None, state="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        warnings.showwarning = self._warn
        if self._bars is not None:
            self._bars.stop()

    def begin(self, text: str, total: int) -> None:
        """The next cell, or (with a total of 0) something short that is not counted."""
        self._end_training()
        self._ended = self._broken = 0
        self._begun += bool(total)
        number = f"{self._begun}/{self._cells}  " if total and self._cells else ""
        self._replace(f"{number}{text}", total or None)

    def advance(self, done: int, broken: int) -> None:
        """That many more samples have ended, and that many of them are broken."""
        self._ended, self._broken = self._ended + done, self._broken + broken
        if self._bars is None or self._now is None or not self._ended:
            return
        share = 100 * self._broken / self._ended
        self._bars.update(self._now, advance=done, state=f"{share:.1f} % {self._found}" if self._found else "")

    def training(self, done: int, total: int, text: str) -> None:
        """A training has done so many of its steps; the text says how well."""
        if self._bars is None:
            return
        if self._training is None:
            self._drop()
            self._training = self._bars.add_task("training", total=total, state="", counted=False)
        about = f"training · {text}" if text else "training"
        self._bars.update(self._training, completed=done, total=total, description=about)
        if done >= total:
            self._end_training()

    def together(self, done: int, total: int, text: str) -> None:
        """Other processes have done so many of all tasks, and are at these."""
        if self._bars is None or self._now is None:
            return
        if not done or done >= total:
            self._replace("sharing the work", total if done < total else None)
        self._bars.update(self._now, completed=done, description=text or "collecting")

    def note(self, text: str) -> None:
        """Something to know that stays on the screen."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(f"rbl: {text}", markup=False, soft_wrap=True)
        else:
            complain(text)

    def _replace(self, text: str, total: int | None) -> None:
        self._drop()
        if self._bars is not None:
            self._now = self._bars.add_task(text, total=total, state="")

    def _drop(self) -> None:
        if self._bars is not None and self._now is not None:
            self._bars.remove_task(self._now)
            self._now = None

    def _end_training(self) -> None:
        if self._bars is not None and self._training is not None:
            self._bars.remove_task(self._training)
            self._training = None
            self._replace("getting ready", None)

    def _warning(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        self.note(f"warning: {message}")


def _progress() -> "Progress":
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: "Task") -> "Text":
            counted = task.total is not None and task.fields.get("counted", True)
            return Text(f"{task.completed:.0f}/{task.total:.0f}" if counted else "", justify="right")

    class Clock(ProgressColumn):
        """Time gone, and about how much is left."""

        def render(self, task: "Task") -> "Text":
            left = "" if task.total is None else f" +{_minutes(task.time_remaining)}"
            return Text(f"{_minutes(task.elapsed)}{left}", style="dim")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=12),
        Amount(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True)),
        Clock(table_column=Column(no_wrap=True)),
        console=console(stderr=True),
        transient=True,
        expand=True,
        refresh_per_second=5,
    )


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}:" if whole >= 3600 else f"{whole // 60}:"
    return f"{hours}{whole % 60:02d}"
