"""`rbl` with two more attacks: one that breaks in the middle, and one that takes its time."""

import os
import sys
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.cli import main
from robustbench_lite.oracle import Oracle
from robustbench_lite.plugins import register
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Breaks(Attack):
    """Raises at its second step."""

    name: ClassVar[str] = "breaks"
    needs: ClassVar[Needs] = Needs.LABELS

    def length(self) -> int:
        return 3

    def cost(self, num_classes: int) -> Cost:
        return Cost(3)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        if int(state.k.max()) > 0:
            raise RuntimeError("no luck")
        oracle.query(state.adv)
        return state


@dataclass(frozen=True, kw_only=True)
class Slow(Breaks):
    """Noise that takes RBL_TEST_NAP seconds a step."""

    name: ClassVar[str] = "slow"

    def length(self) -> int:
        return 200

    def cost(self, num_classes: int) -> Cost:
        return Cost(200)

    def step(self, state: State, oracle: Oracle) -> State:
        time.sleep(float(os.environ.get("RBL_TEST_NAP", "0")))
        adv = state.threat.random_point(state.x, state.draws)
        oracle.query(adv)
        return replace(state, adv=adv)


PLUGINS = {"breaks": Breaks, "slow": Slow}

if __name__ == "__main__":
    for name, attack in PLUGINS.items():
        register("attack", name, attack)
    sys.exit(main())
