"""A substitute attack: labels buy a copy, and only the copy is attacked (Papernot et al. 2017, 1602.02697)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from contracts.skeletons.eot_pgd import EOTPGD
from torch import Tensor, nn

from robustbench_lite.attack import Attack, Cost, Goal, Needs, Setup, State, craft
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.testing.bench import Affine
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Substitute(Attack):
    """Train a linear copy on the system's labels, grow the data where the copy is sensitive, attack the copy."""

    name: ClassVar[str] = "skeleton-substitute"
    needs: ClassVar[Needs] = Needs.LABELS
    submits_last: ClassVar[bool] = True
    rounds: int = 3
    step_size: float = 0.1
    inner: Attack = field(default_factory=lambda: EOTPGD(steps=5, draws=1))

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.step_size <= 1:
            raise UserError("rounds is 1 or more, step_size in (0, 1]")

    def prepare(self, setup: Setup) -> "Trained":
        x, labels = setup.x, self._labels(setup, setup.x)
        copy = fitted(x, labels, setup.num_classes)
        for _ in range(self.rounds):
            new = (x + self.step_size * copy.weight[labels.clamp(min=0)].view_as(x).sign()).clamp(0, 1).detach()
            x, labels = torch.cat((x, new)), torch.cat((labels, self._labels(setup, new)))
            copy = fitted(x, labels, setup.num_classes)
        return Trained(recipe=self, copy=copy)

    def _labels(self, setup: Setup, x: Tensor) -> Tensor:
        labels = setup.ask(x).labels
        assert labels is not None
        return labels

    def length(self) -> int:
        return 1

    def cost(self, num_classes: int) -> Cost:
        return Cost(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained(Attack):
    """The attack that has its copy."""

    name: ClassVar[str] = Substitute.name
    needs: ClassVar[Needs] = Substitute.needs
    submits_last: ClassVar[bool] = True
    recipe: Substitute
    copy: nn.Module

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        adv = craft(self.recipe.inner, self.copy, x, goal, threat, draws, num_classes=oracle.num_classes)
        return State.begin(x, goal, threat, draws, adv)

    def step(self, state: State, oracle: Oracle) -> State:
        return replace(state, done=torch.ones_like(state.done))

    def length(self) -> int:
        return self.recipe.length()

    def cost(self, num_classes: int) -> Cost:
        return self.recipe.cost(num_classes)

    def __str__(self) -> str:
        return str(self.recipe)


def fitted(x: Tensor, labels: Tensor, num_classes: int, steps: int = 100) -> Affine:
    """Logistic regression from zero, so that nothing is drawn; rejected images (label -1) teach nothing."""
    model, known = Affine(torch.zeros(num_classes, x[0].numel()), torch.zeros(num_classes)), labels >= 0
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x[known]), labels[known]).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)
