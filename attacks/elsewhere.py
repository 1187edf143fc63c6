"""Examples that are made on one system and shown to another: what `substitute` and `transfer` share."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import ALL_NORMS, EOT, Attack, Cost, Goal, State, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: images that the other model is shown at once, always so many, so that an example has the same bits in any company
BLOCK = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Attack):
    """One step: craft on another system, submit the point. The system under attack is never asked.

    It knows the norms of the inner attack. Targets that the inner attack wants are chosen by the other system's clean
    answers; those of a targeted threat are given.

    Args:
        attack: the inner attack, any that one system can be attacked with.
    """

    norms: ClassVar[tuple[str, ...]] = ALL_NORMS
    submits_last: ClassVar[bool] = True
    attack: Attack = field(default_factory=lambda: resolve_attack("mifgsm"))

    def __post_init__(self) -> None:
        inner = self.attack
        if len(inner.stages()) > 1 or inner.submits_last:
            raise UserError(f"{self.name}: attack={inner}; accepted: an attack of one stage that climbs by itself")
        object.__setattr__(self, "norms", tuple(inner.norms))

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse what the inner attack refuses."""
        super().check(threat, num_classes)
        self.attack.check(threat, num_classes)
        if self.attack.learns(threat):
            raise UserError(
                f"{self.name}: attack={self.attack} learns from data of its own; accepted: one that does not"
            )

    def climbed(self) -> System:
        """The system that the inner attack is shown."""
        raise NotImplementedError

    @property
    def averaged(self) -> EOT | None:
        """What the inner attack's gradients are averaged over, besides what it wants itself."""
        return None

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """The only one."""
        block, goal = BLOCK.get(state.x.device.type, BLOCK["cpu"]), state.goal
        adv = craft(
            self.attack, self.climbed(), state.x, goal, state.threat, state.draws, block=block, eot=self.averaged
        )
        return replace(state, adv=adv, done=torch.ones_like(state.done))

    def length(self) -> int:
        """One step."""
        return 1

    def cost(self, num_classes: int) -> Cost:
        """Nothing: only the verdict shows the point to the system."""
        return Cost(0)
