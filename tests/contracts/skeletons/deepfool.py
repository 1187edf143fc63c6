"""DeepFool: rows that are done, and many gradients at one point (Moosavi-Dezfooli et al. 2016, 1511.04599)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import log_odds, towards
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Steps(State):
    total: Tensor  # the sum of all steps; the point is x + 1.02 * total


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Step onto the nearest linearised boundary until the answer changes."""

    name: ClassVar[str] = "skeleton-deepfool"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf")
    aims: ClassVar[tuple[str, ...]] = ("minimum-norm",)
    steps: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError("steps is 1 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> Steps:
        return Steps.begin(x, goal, threat, draws, x, total=torch.zeros_like(x))

    def step(self, state: Steps, oracle: Oracle) -> Steps:
        goal, norm, classes = state.goal, state.threat.geometry, oracle.num_classes
        rivals = [towards(log_odds, (goal.y + ahead) % classes) for ahead in range(1, classes)]
        said = oracle.query(state.adv, *([log_odds] if goal.success == "targeted" else rivals))
        slopes = torch.stack([norm.dual(grad) for grad in said.grads]).clamp(min=1e-12)
        pick, row = (said.values.abs() / slopes).argmin(0), torch.arange(len(state.x))
        grad, length = said.grads[pick, row], (said.values.abs() / slopes)[pick, row] + 1e-4
        total = state.total + along(length.float(), grad) * norm.steepest(grad)
        done, adv = said.adversarial, (state.x + 1.02 * total).clamp(0, 1)
        return replace(state, total=total, done=done, adv=torch.where(along(done, adv), state.adv, adv))

    def length(self) -> int:
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps * (num_classes - 1))
