"""C&W L2: a search in a search, each row at its own place in both (Carlini & Wagner 2017, 1608.04644)."""

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
from robustbench_lite.rows import along, where
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Descent(State):
    w: Tensor
    first: Tensor  # Adam's moments
    second: Tensor
    inner: Tensor
    outer: Tensor
    weight: Tensor  # c, with its bracket
    low: Tensor
    high: Tensor
    hit: Tensor  # whether this c has broken the row
    loss_then: Tensor  # at the last tenth of the inner search


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """Adam on the distance plus c times the missing margin; bisect c; give up a c whose loss stands still."""

    name: ClassVar[str] = "skeleton-cw"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar[tuple[str, ...]] = ("minimum-norm",)
    outer: int = 6
    inner: int = 80
    rate: float = 0.02
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.outer < 1 or self.inner < 10 or not 0 < self.rate < 10 or not 0 < self.weight < 1e10:
            raise UserError("outer is 1 or more, inner 10 or more, rate and weight are positive")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> Descent:
        w, zero = unsquashed(x), torch.zeros(len(x))
        infinite, none = zero + torch.inf, torch.zeros_like(draws.lane)
        return Descent.begin(
            x,
            goal,
            threat,
            draws,
            squashed(w),
            **{"w": w, "first": torch.zeros_like(w), "second": torch.zeros_like(w)},
            **{"inner": none, "outer": none, "hit": none.bool()},
            **{"weight": zero + self.weight, "low": zero, "high": infinite, "loss_then": infinite},
        )

    def step(self, state: Descent, oracle: Oracle) -> Descent:
        said = oracle.query(state.adv, margin)
        delta = state.adv - squashed(unsquashed(state.x))
        missing = -said.values[0]
        loss = row_sum(delta.square()).float() + state.weight * missing.clamp(min=0)
        push = along(state.weight * (missing > 0), state.x) * said.grads[0]
        state = self._adam(replace(state, hit=state.hit | said.adversarial), 2 * delta - push)
        tenth = state.inner % (self.inner // 10) == 0
        over = (state.inner >= self.inner) | (tenth & (loss > 0.9999 * state.loss_then))
        state = replace(state, loss_then=torch.where(tenth, loss, state.loss_then))
        return where(over, self._next_weight(state), state)

    def _adam(self, state: Descent, grad: Tensor) -> Descent:
        slope = grad * (1 - state.w.tanh().square()) / 2
        first, second = 0.9 * state.first + 0.1 * slope, 0.999 * state.second + 0.001 * slope.square()
        inner = state.inner + 1
        debias, debias2 = along(1 - 0.9**inner, grad), along(1 - 0.999**inner, grad)
        w = state.w - self.rate * (first / debias) / ((second / debias2).sqrt() + 1e-8)
        return replace(state, w=w, adv=squashed(w), first=first, second=second, inner=inner)

    def _next_weight(self, state: Descent) -> Descent:
        low, high = torch.where(state.hit, state.low, state.weight), torch.where(state.hit, state.weight, state.high)
        weight = torch.where(high < 1e9, (low + high) / 2, 10 * state.weight)
        w, outer = unsquashed(state.x), state.outer + 1
        return replace(
            state,
            **{"w": w, "adv": squashed(w), "first": torch.zeros_like(w), "second": torch.zeros_like(w)},
            **{"inner": torch.zeros_like(outer), "outer": outer, "done": outer >= self.outer},
            **{"weight": weight, "low": low, "high": high, "hit": torch.zeros_like(state.hit)},
            loss_then=torch.full_like(state.loss_then, torch.inf),
        )

    def length(self) -> int:
        return self.outer * self.inner

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.length(), self.length())


def squashed(w: Tensor) -> Tensor:
    return ((w.tanh() + 1) / 2).clamp(0, 1)


def unsquashed(x: Tensor) -> Tensor:
    return ((2 * x - 1) * (1 - 1e-6)).atanh()
