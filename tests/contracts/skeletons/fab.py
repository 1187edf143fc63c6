"""FAB: many gradients at one point, hyperplanes of the norm, the smallest norm (Croce & Hein 2019, 1907.02044)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import log_odds, towards
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

OVERSHOOT, BACK, MOST = 1.05, 0.9, 0.1


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Project onto the nearest linearised boundary, pulled towards the clean image."""

    name: ClassVar[str] = "skeleton-fab"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    aims: ClassVar[tuple[str, ...]] = ("minimum-norm",)
    steps: int = 15

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError("steps is 1 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        x, threat = state.x, state.threat
        hit = oracle.query(state.adv, grads=False).adversarial
        adv = torch.where(along(hit, x), x + BACK * (state.adv - x), state.adv)
        w, b = self._boundary(adv, state.goal, threat, oracle)
        step, clean_step = threat.geometry.hyperplane(adv, w, b) - adv, threat.geometry.hyperplane(x, w, b) - x
        here, there = threat.geometry.distance(step), threat.geometry.distance(clean_step)
        share = along((here / (here + there).clamp(min=1e-12)).clamp(max=MOST).float(), x)
        biased = (1 - share) * (adv + OVERSHOOT * step) + share * (x + OVERSHOOT * clean_step)
        return replace(state, adv=biased.clamp(0, 1))

    def _boundary(self, adv: Tensor, goal: Goal, threat: Threat, oracle: Oracle) -> tuple[Tensor, Tensor]:
        """The hyperplane {v: <w, v> = b} of the class whose linearised boundary is nearest."""
        classes = oracle.num_classes
        if goal.success == "targeted":
            rivals = [log_odds]  # the goal has its own target
        else:
            rivals = [towards(log_odds, (goal.y + ahead) % classes) for ahead in range(1, classes)]
        said = oracle.query(adv, *rivals)
        slopes = torch.stack([threat.geometry.dual(grad) for grad in said.grads]).clamp(min=1e-12)
        away = said.values.abs() / slopes
        pick, row = away.argmin(0), torch.arange(len(adv))
        w = said.grads[pick, row]
        return w, row_sum(w * adv) - said.values[pick, row]

    def length(self) -> int:
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        return Cost(2 * self.steps, (num_classes - 1) * self.steps)
