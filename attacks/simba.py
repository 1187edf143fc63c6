"""SimBA: one coordinate at a time, seeing scores alone."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import named
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

Basis = Literal["dct", "pixel"]
#: how often a step that would change nothing is passed over before a query is spent on it
PASSED_OVER = 4
#: after the first block, frequencies come in rings of 1 / this of the side (7 of 224 in the authors' runs)
RINGS = 32
#: length of a step as a fraction of eps; where steps add up, one of eps would leave nothing for the others
STRIDES = {"Linf": 1.0, "L2": 0.2, "L1": 0.2}


@dataclass(frozen=True, kw_only=True)
class Walk(State):
    """The best point so far is `adv`.

    Args:
        value: (n,), what the objective was there; -inf before the first query.
        turn: (n,) int64, how many directions are behind. back: (n,) bool, the present one was tried with a minus.
        order: (n, m) int32, the directions of this pass, as indices into (c, h, w).
    """

    value: Tensor
    turn: Tensor
    back: Tensor
    order: Tensor


@dataclass(frozen=True, kw_only=True)
class SimBA(Attack):
    """Try a step along a random direction of an orthonormal basis, then against it; keep what raises the objective.

    No direction comes twice before all came once. The original knows no eps: its steps pile up to sqrt(steps kept)
    times their length. Here every point is projected into ball and box before the model sees it, and a step that this
    would undo is passed over at no cost. In a small ball `square` is stronger.

    Args:
        queries: how many a restart may cost; the first is for the clean image.
        basis: dct, cosine waves, low frequencies first; pixel, one value of one channel.
        step_size: length of a step in the threat's norm, as a fraction of eps; none: 1 in Linf, 0.2 in L2 and L1.
        low: dct only: the share of the side that the first block of frequencies spans (28 of 224).
        objective: ce, -ln p_true, as published; margin goes on where the true class is certain and p_true is 1.
        restarts: how often to begin anew, with directions in another order; a sample stops at its first break.
    """

    name: ClassVar[str] = "simba"
    needs: ClassVar[Needs] = Needs.SCORES
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = "Guo et al. 2019, Simple black-box adversarial attacks, arXiv 1905.07121, alg. 1"
    queries: int = 10000
    basis: Basis = "dct"
    step_size: float | None = None
    low: float = 1 / 8
    objective: Literal["ce", "margin"] = "ce"
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least(self, "queries", 1)
        at_least(self, "restarts", 1)
        one_of(self, "basis", get_args(Basis))
        one_of(self, "objective", ("ce", "margin"))
        positive(self, "step_size")
        if not 0 < self.low <= 1:
            raise UserError(f"simba: low={self.low:g}; accepted: more than 0, up to 1")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images; the first step asks about them."""
        zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        lowest = torch.full((len(x),), -torch.inf, device=x.device)
        order = self._order(x, draws, zero)
        state: State = Walk.begin(x, goal, threat, draws, x, value=lowest, turn=zero, back=zero.bool(), order=order)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One query: the clean image first, then one step more."""
        assert isinstance(state, Walk)
        begun = state.k > 0
        point, state = self._candidate(state, begun)
        value = oracle.query(point, named(self.objective)).values[0]
        higher = value > state.value
        after = self._passed(state, begun & (higher | state.back), begun & ~higher & ~state.back)
        adv = torch.where(along(higher, point), point, state.adv)
        return replace(after, adv=adv, value=torch.where(higher, value, state.value))

    def length(self) -> int:
        """One query a step."""
        return self.queries

    def lanes(self, num_classes: int) -> int:
        """One a restart."""
        return self.restarts

    @property
    def budget(self) -> int:
        """The queries of one restart."""
        return self.queries

    def cost(self, num_classes: int) -> Cost:
        """One forward a query."""
        return Cost(self.queries) * self.restarts

    def _candidate(self, state: Walk, begun: Tensor) -> tuple[Tensor, Walk]:
        """The next points to ask about, and the state with the directions that lead there."""
        point = self._stepped(state, begun)
        for _ in range(PASSED_OVER):
            still = begun & (point == state.adv).flatten(1).all(1)
            if not bool(still.any()):
                break
            state = self._passed(state, still & state.back, still & ~state.back)
            point = self._stepped(state, begun)
        return point, state

    def _stepped(self, state: Walk, begun: Tensor) -> Tensor:
        """One step along or against the present direction; rows that have not begun stay."""
        move = self._direction(state) * along(torch.where(state.back, 1.0, -1.0) * begun, state.x)
        size = STRIDES[state.threat.norm] if self.step_size is None else self.step_size
        return state.threat.project(state.adv + size * state.threat.radius * move, state.x)

    def _direction(self, state: Walk) -> Tensor:
        """The rows' present directions, (n, c, h, w), of length 1 in the threat's norm."""
        channels, height, width = state.x.shape[1:]
        place = state.order.gather(1, (state.turn % state.order.shape[1])[:, None])[:, 0].long()
        channel, row, column = place // (height * width), place // width % height, place % width
        down, across = (waves(self.basis, side).to(state.x.device) for side in (height, width))
        wave = (down[row][:, :, None] * across[column][:, None, :])[:, None]
        wave = wave / along(state.threat.geometry.distance(wave), wave).to(wave.dtype)
        return wave * (torch.arange(channels, device=place.device) == channel[:, None])[:, :, None, None]

    def _passed(self, state: Walk, over: Tensor, back: Tensor) -> Walk:
        """Go on to the next direction, or to the other sign of the same one."""
        turn, count = state.turn + over, state.order.shape[1]
        order, again = state.order, (over & (turn % count == 0)).nonzero()[:, 0]
        if len(again):
            fresh = self._order(state.x[again], state.draws[again], turn[again] // count)
            order = order.index_copy(0, again, fresh)
        return replace(state, turn=turn, back=(state.back & ~over) | back, order=order)

    def _order(self, x: Tensor, draws: Draws, index: Tensor) -> Tensor:
        """A random order of the directions, low frequencies first; no more than the queries can use."""
        channels, height, width = x.shape[1:]
        rings = torch.zeros((height, width), dtype=torch.int64, device=x.device)
        if self.basis == "dct":
            down, across = (_ring(side, self.low).to(x.device) for side in (height, width))
            rings = torch.maximum(down[:, None], across[None, :])
        words = draws.words(channels * height * width, "directions", index)
        order = (words + (rings.flatten().repeat(channels) << 32)).argsort(dim=1, stable=True)
        return order[:, : self.queries].int()


@lru_cache(maxsize=16)
def waves(basis: Basis, side: int) -> Tensor:
    """An orthonormal basis of the rows of an image, one vector a row: unit vectors, or the DCT-II's cosines."""
    if basis == "pixel":
        return torch.eye(side)
    place = torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi / side * (place[None, :] + 0.5) * place[:, None]) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    return cosines.float()


def _ring(side: int, low: float) -> Tensor:
    """In which block a frequency comes: 0 for the first ones, then rings of side / RINGS."""
    first, wide = max(1, round(low * side)), max(1, side // RINGS)
    return ((torch.arange(side) - first) // wide + 1).clamp(min=0)
