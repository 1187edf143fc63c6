"""HopSkipJump: labels alone, many probes a row, searches of each row's own length (Chen et al. 2020, 1904.02144)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.norms import norm
from robustbench_lite.oracle import Answer, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

TRIES, HALVINGS, CUTS = 10, 10, 25


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """Walk along the boundary by a gradient that is estimated from answers."""

    name: ClassVar[str] = "skeleton-hopskipjump"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf")
    aims: ClassVar[tuple[str, ...]] = ("minimum-norm",)
    steps: int = 6
    probes: int = 30

    def __post_init__(self) -> None:
        if self.steps < 1 or self.probes < 2:
            raise UserError("steps is 1 or more, probes 2 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        adv, found = x, torch.zeros(len(x), dtype=torch.bool)
        for attempt in range(TRIES):
            if bool(found.all()):
                break  # nobody asks: what is not counted is not shown either
            noise = draws.uniform(x.shape[1:], "start", draw=attempt)
            hit = oracle.query(noise, asking=~found).adversarial
            adv, found = torch.where(along(hit, x), noise, adv), found | hit
        state = State.begin(x, goal, threat, draws, adv)
        return self._to_boundary(replace(state, done=~found), oracle)

    def step(self, state: State, oracle: Oracle) -> State:
        x, threat, live = state.x, state.threat, ~state.done
        distance = threat.distance(state.adv, x)
        width = torch.where(state.k == 0, 0.1, distance / math.prod(x.shape[1:])).float()
        count = (self.probes * (state.k + 1).sqrt()).long() * live
        direction = threat.steepest(self._normal(state, width, count, oracle))
        length = (distance / (state.k + 1).sqrt()).float()
        adv, found = state.adv, state.done
        for _ in range(HALVINGS):
            if bool(found.all()):
                break
            ahead = (state.adv + along(length, x) * direction).clamp(0, 1)
            hit = oracle.query(ahead, asking=~found).adversarial
            adv, found = torch.where(along(hit, x), ahead, adv), found | hit
            length = torch.where(found, length, length / 2)
        return self._to_boundary(replace(state, adv=adv), oracle)

    def _normal(self, state: State, width: Tensor, count: Tensor, oracle: Oracle) -> Tensor:
        """The direction in which the answers turn, from `count` (n,) probes a row at distance `width` (n,)."""
        shape, euclid, width = state.x.shape[1:], norm("L2"), along(width, state.x)

        def probe(number: int) -> Tensor:
            normal = state.draws.normal(shape, "probe", state.k, draw=number)
            return (state.adv + width * normal / along(euclid.distance(normal).float(), normal)).clamp(0, 1)

        def fold(sums: tuple[Tensor, Tensor, Tensor], number: int, said: Answer) -> tuple[Tensor, Tensor, Tensor]:
            asked = (number < count).float()
            sign = (said.adversarial.float() * 2 - 1) * asked
            unit = along(asked, state.x) * (probe(number) - state.adv) / width
            return sums[0] + sign, sums[1] + unit, sums[2] + along(sign, unit) * unit

        zero = torch.zeros_like(state.x)
        signs, units, signed = oracle.many(probe, count, fold, (torch.zeros(len(zero)), zero, zero))
        mean = signs / count.clamp(min=1)
        return torch.where(along(mean.abs() == 1, zero), along(mean, zero) * units, signed - along(mean, zero) * units)

    def _to_boundary(self, state: State, oracle: Oracle) -> State:
        """Bisect between the clean image and the point; each row as often as it needs, and not above a bound."""
        far = state.adv
        high = state.threat.distance(far, state.x)
        low, close = torch.zeros_like(high), math.prod(far.shape[1:]) ** (-2.0 if state.threat.norm == "Linf" else -1.5)
        for _ in range(CUTS):
            middle = (low + high) / 2
            asking = ~state.done & (high - low > close * high)
            if not bool(asking.any()):
                break
            hit = oracle.query(state.threat.project(far, state.x, middle), asking=asking).adversarial
            high, low = torch.where(asking & hit, middle, high), torch.where(asking & ~hit, middle, low)
        return replace(state, adv=state.threat.project(far, state.x, high))

    def length(self) -> int:
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        probes = sum(int(self.probes * math.sqrt(step + 1)) for step in range(self.steps))
        return Cost(TRIES + CUTS + probes + self.steps * (HALVINGS + CUTS))
