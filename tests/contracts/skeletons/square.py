"""Square attack (Linf): scores alone, windows drawn row by row (Andriushchenko et al. 2020, 1912.00049)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: p halves at these shares of the queries
HALVINGS = torch.tensor([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10000


@dataclass(frozen=True, kw_only=True)
class Found(State):
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Paint random squares with +-eps and keep what raises the margin."""

    name: ClassVar[str] = "skeleton-square"
    needs: ClassVar[Needs] = Needs.SCORES
    norms: ClassVar[tuple[str, ...]] = ("Linf",)
    queries: int = 100
    p: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p <= 1:
            raise UserError("queries is 1 or more, p in (0, 1]")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> Found:
        stripes = draws.signs((x.shape[1], 1, x.shape[3]), "stripes")
        adv = threat.project(x + threat.radius * stripes, x)
        return Found.begin(x, goal, threat, draws, adv, value=oracle.query(adv, margin).values[0])

    def step(self, state: Found, oracle: Oracle) -> Found:
        x, threat, draws, k = state.x, state.threat, state.draws, state.k
        height, width = x.shape[2:]
        passed = (k[:, None] >= HALVINGS * self.queries).sum(1)
        side = (self.p / 2**passed * height * width).sqrt().round().long().clamp(1, min(height, width))
        top = draws.integers(height - side + 1, (), "top", k).squeeze()
        left = draws.integers(width - side + 1, (), "left", k).squeeze()
        window = _span(top, side, height)[:, None, :, None] & _span(left, side, width)[:, None, None, :]
        colour = threat.radius * draws.signs((x.shape[1], 1, 1), "colour", k)
        adv = torch.where(window, threat.project(x + colour, x), state.adv)
        said = oracle.query(adv, margin)
        better = (said.values[0] > state.value) | said.adversarial
        value = torch.where(better, said.values[0], state.value)
        return replace(state, adv=torch.where(along(better, x), adv, state.adv), value=value)

    def length(self) -> int:
        return self.queries - 1 or 1

    def cost(self, num_classes: int) -> Cost:
        return Cost(1 + self.length())


def _span(begin: Tensor, side: Tensor, size: int) -> Tensor:
    place = torch.arange(size)
    return (place >= begin[:, None]) & (place < (begin + side)[:, None])
