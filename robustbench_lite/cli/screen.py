"""The line that a terminal shows while a command works: what it does, how far it is, how long it will take."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.cli.activity import Activity, minutes
from robustbench_lite.cli.printing import console

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

REFRESHES = 5


class Screen:
    """One line on stderr that is drawn anew a few times a second, and vanishes at the end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._progress = _progress(clock)
        self._task: TaskID | None = None
        self._of: tuple[Activity, bool] | None = None

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def show(self, activity: Activity) -> None:
        """What goes on now."""
        counted = bool(activity.total or activity.steps)
        if self._task is None or self._of is None or self._of[0] is not activity or self._of[1] is not counted:
            self._drop()
            self._task = self._progress.add_task("", total=1.0 if counted else None, activity=activity)
            self._of = activity, counted
        text = f"{activity.number}{activity.text}"
        self._progress.update(self._task, completed=activity.share or 0.0, description=text)

    def print(self, text: str) -> None:
        """A line that stays, above the one that is drawn anew."""
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def _drop(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def _progress(clock: Callable[[], float]) -> "Progress":
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Where(ProgressColumn):
        """Stage and step, and what broke."""

        def render(self, task: "Task") -> "Text":
            activity: Activity = task.fields["activity"]
            return Text("  ".join(part for part in (activity.briefly, activity.counted) if part), justify="right")

    class Clock(ProgressColumn):
        """Time gone, and about how much is left."""

        def render(self, task: "Task") -> "Text":
            activity, now = task.fields["activity"], clock()
            left = "" if task.total is None else f" +{minutes(activity.seconds_left(now))}"
            return Text(f"{minutes(now - activity.began)}{left}", style="dim")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=12),
        Where(table_column=Column(no_wrap=True)),
        Clock(table_column=Column(no_wrap=True)),
        console=console(stderr=True),
        transient=True,
        expand=True,
        refresh_per_second=REFRESHES,
    )
