"""Run an evaluation in child processes that are killed at random moments, until one ends; called by test_kill.py.

    python kill_driver.py FOLDER SEED KILLS

Prints how many children were killed in the middle, as JSON. Forks before torch has started any thread.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from toys import Climb, samples, two_layers

from robustbench_lite.attack import State
from robustbench_lite.oracle import Oracle
from robustbench_lite.run import run_cell
from robustbench_lite.run.evaluate import evaluate

run_cell._FLUSH_SECONDS = 0.02
PAUSE = 0.004


@dataclass(frozen=True, kw_only=True)
class Slow(Climb):
    """Climb that takes its time, so that there is something to interrupt."""

    name: ClassVar[str] = "slow"

    def step(self, state: State, oracle: Oracle) -> State:
        time.sleep(PAUSE)
        return super().step(state, oracle)


def run(folder: Path) -> None:
    system = two_layers()
    x, y, _ = samples(system, 160)
    attacks = [Slow(restarts=2), Slow(restarts=1, steps=6)]
    evaluate(
        system, x, y, attacks=attacks, threat=["Linf:0.02", "Linf:0.01"], out=folder, diagnostics=False, batch_size=32
    )


def child(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run(folder)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def main() -> None:
    folder, seed, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    chance = random.Random(seed)
    killed = 0
    while killed < wanted:
        pid = child(folder)
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break  # it was done before the signal came
        killed += 1
    pid = child(folder)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"killed": killed, "exit": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main()
