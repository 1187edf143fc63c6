"""Run an evaluation in child processes that are killed at random moments, until one ends; called by test_kill.py.

    python kill_driver.py FOLDER SEED KILLS [WORK]

WORK is `attacks` (two attacks under two threats), `cascade`, or `random`: a cascade on a system that answers at random. What a
stage of a cascade is asked to do is written down in FOLDER.log, a line a start: "STAGE ROWS".

Prints how many children were killed in the middle, as JSON. Forks before torch has started any thread.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from toys import Climb, samples, two_layers

from robustbench_lite.attack import Attack, Goal, Needs, State
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.run import output, run_cell
from robustbench_lite.run.engine import _Engine
from robustbench_lite.run.evaluate import evaluate
from robustbench_lite.threat import Threat

LOADED = output  # once, rather than in every child
run_cell._FLUSH_SECONDS = 0.02
PAUSE = 0.004


@dataclass(frozen=True, kw_only=True)
class Slow(Climb):
    """Climb that takes its time, so that there is something to interrupt."""

    name: ClassVar[str] = "slow"

    def step(self, state: State, oracle: Oracle) -> State:
        time.sleep(PAUSE)
        return super().step(state, oracle)


@dataclass(frozen=True, kw_only=True)
class Stage(Slow):
    """One of a cascade."""

    name: ClassVar[str] = "stage"
    number: int = 0

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return super().start(x, goal, threat, draws.fold(self.number), oracle)

    def __str__(self) -> str:
        return f"stage-{self.number}"


def write_down_starts(log: Path) -> None:
    """Have the engine say which stage begins with how many rows; a key depends on an attack's code, and not on this."""
    begin = _Engine._start

    def start(self: _Engine, taken: list[int]) -> Any:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{getattr(self.job.attack, 'number', 0)} {len(taken)}\n")
        return begin(self, taken)

    _Engine._start = start  # type: ignore[method-assign]


@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Three stages, the later ones stronger."""

    name: ClassVar[str] = "stages"
    needs: ClassVar[Needs] = Needs.GRADIENTS

    def stages(self) -> Sequence[Attack]:
        steps = ((2, 1), (4, 1), (12, 2))
        return [Stage(number=at, steps=k, restarts=n) for at, (k, n) in enumerate(steps)]

    def under(self, threat: Threat, num_classes: int) -> Attack:
        return self

    def __str__(self) -> str:
        return self.name


def run(folder: Path, work: str) -> None:
    write_down_starts(Path(f"{folder}.log"))
    system = two_layers()
    x, y, _ = samples(system, 160)
    if work == "attacks":
        attacks: list[Attack] = [Slow(restarts=2), Slow(restarts=1, steps=6)]
        threat = ["Linf:0.02", "Linf:0.01"]
    else:
        attacks, threat = [Cascade()], ["Linf:0.03"]
    options: dict[str, Any] = {"diagnostics": False, "batch_size": 32}
    if work == "random":
        system, options = system.with_noise(0.05), {**options, "eot": 2, "verdict_draws": 20}
    evaluate(system, x, y, attacks=attacks, threat=threat, out=folder, **options)


def child(folder: Path, work: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run(folder, work)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def _wait_for_stages(pid: int, log: Path, starts: int) -> None:
    """Until so many stages more have begun, or the child has ended."""

    def lines() -> int:
        return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0

    wanted = lines() + starts
    while lines() < wanted and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)


def main() -> None:
    folder, seed, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work = sys.argv[4] if len(sys.argv) > 4 else "attacks"
    torch.set_num_threads(1)
    chance = random.Random(seed)
    killed = 0
    while killed < wanted:
        pid = child(folder, work)
        if work == "attacks":
            time.sleep(chance.uniform(0.05, 0.6))
        else:
            _wait_for_stages(pid, Path(f"{folder}.log"), chance.randint(1, 6))
            time.sleep(chance.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break  # it was done before the signal came
        killed += 1
    pid = child(folder, work)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"killed": killed, "exit": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main()
