"""EOT-PGD: every gradient is a mean over draws, and the attack does not know (Athalye et al. 2018, 1802.00420)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from robustbench_lite.attack import EOT, Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle, Transform
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class EOTPGD(Attack):
    """PGD on the mean over the system's own randomness, or over transformations."""

    name: ClassVar[str] = "skeleton-eot-pgd"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    steps: int = 10
    draws: int = 4
    transform: ClassVar[Transform | None] = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1:
            raise UserError("steps and draws are 1 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, threat.random_point(x, draws))

    def step(self, state: State, oracle: Oracle) -> State:
        (grad,) = oracle.query(state.adv, margin).grads
        move = 2.5 / self.steps * state.threat.radius * state.threat.steepest(grad, state.adv)
        return replace(state, adv=state.threat.project(state.adv + move, state.x))

    @property
    def eot(self) -> EOT:
        return EOT(draws=self.draws, transform=self.transform)

    def length(self) -> int:
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps) * self.draws
