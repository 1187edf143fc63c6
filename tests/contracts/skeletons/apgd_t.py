"""APGD-T: lanes are targets; step sizes and checkpoints belong to the rows (Croce & Hein 2020, 2003.01690)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import dlr
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Climb(State):
    before: Tensor
    grad: Tensor
    value: Tensor
    best: Tensor
    best_grad: Tensor
    best_value: Tensor
    value_then: Tensor  # the best value at the last checkpoint
    eta: Tensor
    rises: Tensor
    reduced: Tensor


@dataclass(frozen=True, kw_only=True)
class APGDT(Attack):
    """Momentum, and a step size that halves where a row stalls."""

    name: ClassVar[str] = "skeleton-apgd-t"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    steps: int = 30
    targets: int = 9

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise UserError("steps and targets are 1 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> Climb:
        adv = threat.project(x + threat.radius * threat.geometry.random_direction(x, draws), x)
        said = oracle.query(adv, dlr)
        (value,), (grad,), zero = said.values, said.grads, torch.zeros_like(draws.lane)
        return Climb.begin(
            x,
            goal,
            threat,
            draws,
            adv,
            **{"before": adv, "best": adv, "grad": grad, "best_grad": grad},
            **{"value": value, "best_value": value, "value_then": value},
            eta=torch.full_like(value, 2 * threat.radius),
            rises=zero,
            reduced=zero.bool(),
        )

    def step(self, state: Climb, oracle: Oracle) -> Climb:
        threat, x = state.threat, state.x
        ahead = threat.project(state.adv + along(state.eta, x) * threat.steepest(state.grad), x)
        share = along(torch.where(state.k == 0, 1.0, 0.75), x)
        adv = threat.project(state.adv + share * (ahead - state.adv) + (1 - share) * (state.adv - state.before), x)
        said = oracle.query(adv, dlr)
        (value,), (grad,) = said.values, said.grads
        better, rises = value > state.best_value, state.rises + (value > state.value)
        state = replace(
            state,
            **{"before": state.adv, "adv": adv, "grad": grad, "value": value, "rises": rises},
            best=torch.where(along(better, x), adv, state.best),
            best_grad=torch.where(along(better, x), grad, state.best_grad),
            best_value=torch.maximum(value, state.best_value),
        )
        return self._checkpoint(state)

    def _checkpoint(self, state: Climb) -> Climb:
        window = torch.tensor(windows(self.steps))[state.k + 1]  # (n,), 0 where this step is no checkpoint
        at = window > 0
        stalled = ~state.reduced & (state.best_value <= state.value_then)
        halve = at & ((state.rises <= 0.75 * window) | stalled)
        back = along(halve, state.x)
        return replace(
            state,
            adv=torch.where(back, state.best, state.adv),
            grad=torch.where(back, state.best_grad, state.grad),
            eta=torch.where(halve, state.eta / 2, state.eta),
            value_then=torch.where(at, state.best_value, state.value_then),
            reduced=torch.where(at, halve, state.reduced),
            rises=torch.where(at, 0, state.rises),
        )

    def length(self) -> int:
        return self.steps

    def lanes(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1)

    @property
    def target_rule(self) -> str:
        return "all"

    def cost(self, num_classes: int) -> Cost:
        return Cost(1 + self.steps, 1 + self.steps) * self.lanes(num_classes)


def windows(steps: int) -> Sequence[int]:
    """By the number of steps taken: how long the window that ends there is, or 0."""
    found, at, gap = [0] * (steps + 1), 0, max(int(0.22 * steps), 1)
    while at + gap <= steps:
        at += gap
        found[at] = gap
        gap = max(gap - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
    return found
