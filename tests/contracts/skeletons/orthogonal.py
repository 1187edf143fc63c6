"""Orthogonal PGD on a detector: two gradients at one point (Bryniarski et al. 2021, 2106.15023)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat


def unsuspicious(outputs: Outputs, goal: Goal) -> Tensor:
    """How far below the detector's threshold; nothing to climb without a detector."""
    return torch.zeros_like(outputs.scores[:, 0]) if outputs.reject is None else -outputs.reject


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Attack):
    """Fool the classifier, then the detector, each along the other's level set."""

    name: ClassVar[str] = "skeleton-orthogonal"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    steps: int = 40
    step_size: float = 0.1
    slack: float = 0.01
    project: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step_size <= 2 or not 0 <= self.slack < 100:
            raise UserError("steps is 1 or more, step_size in (0, 2], slack from 0")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        threat, said = state.threat, oracle.query(state.adv, margin, unsuspicious)
        fool, hide = said.grads
        fooled = along(said.values[0] > self.slack, fool)
        if self.project:
            fool, hide = across(fool, hide), across(hide, fool)
        move = self.step_size * threat.radius * threat.steepest(torch.where(fooled, hide, fool), state.adv)
        return replace(state, adv=threat.project(state.adv + move, state.x))

    def length(self) -> int:
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, 2 * self.steps)


def across(one: Tensor, other: Tensor) -> Tensor:
    """The part of `one` that is orthogonal to `other`."""
    share = row_sum(one * other) / row_sum(other.square()).clamp(min=1e-20)
    return one - along(share, one).float() * other
