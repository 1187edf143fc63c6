"""Other processes that compute cells ahead.

Tiny networks leave all cores but one idle: more threads would wait for each other. So some processes of one thread each
share the plan's cells and leave what they find among the records; the run itself then goes through the plan as ever, and
computes what is still missing. No number can depend on them, and a failure in one of them is told when the run comes to it.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from robustbench_lite.errors import UserError
from robustbench_lite.guard import no_early_end
from robustbench_lite.hashing.values import same_plugins
from robustbench_lite.run.cell_ends import ended
from robustbench_lite.run.clean_accuracy import clean_accuracy, warning
from robustbench_lite.run.exact import steady_threads
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import CellEnd, Reporter, Silent
from robustbench_lite.run.setting import Open, Setting
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.systems import Built
from robustbench_lite.run.trial import clock_of, trial
from robustbench_lite.specs import system_name
from robustbench_lite.streams import lent_streams
from robustbench_lite.training.layout import tiny

#: processes that are started unasked at most, and the fewest tasks that are worth their start of some seconds
MOST, FEWEST = 8, 12
_PATIENCE = 10.0
#: ends a process at once, whatever stands in its place while a user's code runs
_LEAVE = os._exit


@dataclass(frozen=True, kw_only=True)
class Task:
    """A system, and the attack that is run on it; None only builds the system, and checks its clean accuracy."""

    model: str
    defense: str
    attack: str | None = None

    def __str__(self) -> str:
        what = "training" if self.attack is None else f"{self.attack} on"
        return f"{what} {system_name(self.model, self.defense)}"


def tasks_of(plan: Plan, finished: Collection[tuple[str, str, str, str]] = ()) -> list[Task]:
    """What is left to do: the systems first, then their attacks, which a plan is apt to name from quick to slow.

    Args:
        finished: (model, defense, threat, attack) of cells that are there.
    """
    systems = [(model, defense) for model in plan.models for defense in plan.chains]
    threats = [f"{threat}{plan.sees_through}" for threat in plan.threats]
    runs = [
        Task(model=model, defense=defense, attack=attack)
        for model, defense in systems
        for attack in plan.attacks[::-1]
        if any((model, defense, threat, attack) not in finished for threat in threats)
    ]
    left = {(task.model, task.defense) for task in runs}
    return [Task(model=model, defense=defense) for model, defense in systems if (model, defense) in left] + runs


def usual_jobs(setting: Setting, todo: Sequence[Task]) -> int:
    """How many processes a run takes unasked: one a core where a network is tiny and there is enough to do, else 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    worth = tiny(setting.data, setting.device) and len(todo) >= FEWEST
    return min(cores, MOST) if worth else 1


def compute_ahead(setting: Setting, output: Any, jobs: int | None, reporter: Reporter, *, fresh: bool = False) -> None:
    """Have the plan's cells computed by other processes; returns when all are, or have failed.

    Args:
        output: the run's folder; told which cells are there now, and what they cost.
        jobs: how many processes; None: as many as are of use. With 1 the run does it all itself.
        fresh: what the folder holds already is computed again.

    Raises:
        UserError: a system cannot be built, or attacked, as the plan has it.
    """
    todo = tasks_of(setting.plan, output.finished(len(setting.indices)))
    jobs = usual_jobs(setting, todo) if jobs is None else min(jobs, len(todo))
    if jobs < 2:
        return
    total, done, left = len(todo), 0, todo[::-1]
    with _staff(setting.plan, output.folder, fresh, jobs) as staff:
        busy: dict[Connection, str] = {}
        idle = list(staff)
        while left or busy:
            while left and idle:
                task, one = left.pop(), idle.pop()
                one.send(task)
                busy[one] = str(task)
            reporter.together(done, total, "; ".join(busy.values()))
            for one in [ready for ready in wait(list(busy)) if isinstance(ready, Connection)]:
                try:
                    kind, told = one.recv()
                except (EOFError, OSError):
                    reporter.note(f"a process that computed {busy.pop(one)} died; the run itself tries it again")
                    continue
                if kind == "cell":
                    output.computed(told)
                elif kind == "ended":
                    reporter.end(told)
                elif kind == "note":
                    reporter.note(told)
                elif kind == "refused":
                    raise UserError(told)
                elif kind == "done":
                    del busy[one]
                    idle.append(one)
                    done += 1
            if not busy and not idle:
                return
    reporter.together(total, total, "")


@contextmanager
def _staff(plan: Plan, folder: Path, fresh: bool, count: int) -> Iterator[Sequence[Connection]]:
    """Processes that wait for tasks; they end with the block, and with this process."""
    spawn = multiprocessing.get_context("spawn")
    pairs, people = [spawn.Pipe() for _ in range(count)], []
    try:
        with _deaf():
            for _, far in pairs:
                person = spawn.Process(target=_work, args=(plan, folder, fresh, far), daemon=True)
                person.start()
                far.close()
                people.append(person)
        yield [near for near, _ in pairs]
    finally:
        for near, _ in pairs:
            near.close()
        for person in people:
            with suppress(ProcessLookupError):
                person.terminate()
        for person in people:
            person.join(_PATIENCE)
            if person.is_alive():
                person.kill()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C, which a terminal sends to all: this one tells them to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(plan: Plan, folder: Path, fresh: bool, boss: Connection) -> None:
    """What such a process does until nobody talks to it any more."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        _serve(plan, folder, fresh, boss)
    finally:
        _LEAVE(0)  # at once: a second signal has nothing to interrupt


def _serve(plan: Plan, folder: Path, fresh: bool, boss: Connection) -> None:
    from robustbench_lite.run.output import Output

    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def tell(kind: str, told: object) -> None:
        boss.send((kind, told))

    def warned(message: Warning | str, *_: Any, **__: Any) -> None:
        tell("note", f"warning: {message}")

    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError), warnings.catch_warnings():
        warnings.showwarning = warned
        setting = Setting.of(plan)
        output = Output(folder, plan, fresh=fresh)
        count = output.threads or setting.threads  # the run has chosen them before it shares its work
        with (
            no_early_end(),
            lent_streams(),
            same_plugins(),
            setting.opened(None, Silent()) as opened,
            steady_threads(count),
        ):
            desk = _Desk(opened=opened, output=output, note=partial(tell, "note"))
            while True:
                task: Task = boss.recv()
                try:
                    for clock, ended in desk.done(task):
                        tell("cell", clock)
                        tell("ended", ended)
                except UserError as error:
                    tell("refused", str(error))
                except (Exception, SystemExit):  # the run itself comes to it, and says what is wrong
                    tell("done", None)
                else:
                    tell("done", None)


class _Desk:
    """One process's work, with the system at hand that it worked on last."""

    def __init__(self, *, opened: Open, output: Any, note: Callable[[str], None]) -> None:
        self._opened, self._output, self._note = opened, output, note
        self._at: tuple[str, str] | None = None
        self._built: Built | None = None
        self._subject: Subject | None = None

    def done(self, task: Task) -> Iterator[tuple[dict[str, Any], CellEnd]]:
        """Do it; the clock of every cell as it ends, and what is told of it. One that failed is left to the run itself."""
        built = self._system(task)
        if self._subject is None:
            self._subject = self._opened.subject(built)
        subject, setting = self._subject, self._opened.setting
        if task.attack is None:
            if setting.plan.diagnostics and (text := warning(subject, clean_accuracy(subject))):
                self._note(text)
            return
        attacks = {task.attack: self._opened.attacks(subject)[task.attack]}
        for text, threat in setting.threats.items():
            seen = f"{text}{setting.plan.sees_through}"
            out = self._output
            for cell, ran in trial(
                setting, subject, attacks, threat, seen, out.records, out.held, Silent(), out.examples
            ):
                out.examples(cell.key, ran.examples)
                if not ran.failed:
                    yield clock_of(cell, ran), ended(cell, ran)

    def _system(self, task: Task) -> Built:
        if self._built is None or self._at != (task.model, task.defense):
            self._built = self._subject = None
            self._built, self._at = self._opened.build(task.model, task.defense), (task.model, task.defense)
        return self._built


def _stop(number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C: what is known is written."""
    raise KeyboardInterrupt


def _leave_with_parent() -> None:
    """End at once when the run is gone, however it went; records are whole at any moment."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _LEAVE(1)
