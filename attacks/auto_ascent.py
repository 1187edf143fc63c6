"""The ascent of Auto-PGD: steps whose size each row sets for itself, from how its own way went.

How a step is chosen and adapted depends on the norm's ball (`PACES`): a round one halves the step, L1 sets how sparse it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import EOT, Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Objective
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along, where
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Memory(Rows):
    """What a pace remembers of n rows; `stride` (n,) float64 is the step, as a fraction of the radius."""

    stride: Tensor


@dataclass(frozen=True, kw_only=True)
class Climb(State):
    """A climb, and the best of it so far.

    Args:
        at: (n, c, h, w), the point to be asked about next; `adv` is the same, drawn towards x while the radius is larger.
        before: (n, c, h, w), the point before that.
        best, slope: (n, c, h, w), the highest point since the radius last changed, and the gradient there.
        height: (n,), the objective there.
        memory: the pace's.
    """

    at: Tensor
    before: Tensor
    best: Tensor
    slope: Tensor
    height: Tensor
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class Way(Rows):
    """Where n rows are in their course, all (n,).

    Args:
        window: how many steps since the last checkpoint, where this is one, else 0.
        first, last: whether this is the first or the last query at its radius.
        radius: of the next point, as a multiple of eps.
    """

    window: Tensor
    first: Tensor
    last: Tensor
    radius: Tensor


class Pace(ABC):
    """How large steps are, and in which direction they go."""

    #: how much of a step is new; the rest repeats the former one
    fresh: ClassVar[float]

    @abstractmethod
    def windows(self, steps: int) -> list[int]:
        """For each number of steps taken, 0 to `steps`: the steps since the last checkpoint if this is one, else 0."""

    @abstractmethod
    def first_point(self, x: Tensor, threat: Threat, radius: Tensor, draws: Draws) -> Tensor:
        """Where to begin; `radius` (n,)."""

    @abstractmethod
    def begin(self, state: Any, value: Tensor, *, anywhere: bool) -> Memory:
        """The memory at the first point of a radius; `anywhere`: the point is random and says nothing."""

    @abstractmethod
    def look(self, state: Any, value: Tensor, way: Way, rho: float) -> tuple[Memory, Tensor]:
        """The memory after a step to a point of this value (n,), and which rows should go back to their best."""

    @abstractmethod
    def direction(self, state: Any, slope: Tensor) -> Tensor:
        """A step of norm 1 uphill."""


@dataclass(frozen=True, kw_only=True)
class Halved(Memory):
    """Of a pace that halves its step.

    Args:
        value: (n,), at the last point. rises: (n,) int64, steps upwards since the last checkpoint.
        height: (n,), the best value at the last checkpoint. halved: (n,) bool, whether the step was halved there.
    """

    value: Tensor
    rises: Tensor
    height: Tensor
    halved: Tensor


class Halving(Pace):
    """Steps of 2 eps, halved at a checkpoint where too few steps went up, or none reached higher."""

    fresh = 0.75

    def windows(self, steps: int) -> list[int]:
        """Checkpoints after 22 % of the steps, then at gaps that shrink by 3 % down to 6 %."""
        found, at, gap = [0] * (steps + 1), 0, max(22 * steps // 100, 1)
        while at + gap <= steps:
            at += gap
            found[at] = gap
            gap = max(gap - max(3 * steps // 100, 1), 6 * steps // 100, 1)
        return found

    def first_point(self, x: Tensor, threat: Threat, radius: Tensor, draws: Draws) -> Tensor:
        """On the ball's surface."""
        far = along(radius, x).to(x.dtype) * threat.geometry.random_direction(x, draws)
        return threat.project(x + far, x, radius)

    def begin(self, state: Climb, value: Tensor, *, anywhere: bool) -> Halved:
        """As if the step had just been set."""
        two, yes = torch.full_like(value, 2.0, dtype=torch.float64), torch.ones_like(state.done)
        return Halved(stride=two, value=value, rises=torch.zeros_like(state.k), height=value, halved=yes)

    def look(self, state: Climb, value: Tensor, way: Way, rho: float) -> tuple[Halved, Tensor]:
        """Count the rise; halve at checkpoints."""
        memory, at = state.memory, way.window > 0
        assert isinstance(memory, Halved)
        rises = memory.rises + (value > memory.value)
        stalled = ~memory.halved & (state.height <= memory.height)
        back = at & ((rises <= rho * way.window) | stalled)
        told = Halved(
            stride=torch.where(back, memory.stride / 2, memory.stride),
            value=value,
            rises=torch.where(at, 0, rises),
            height=torch.where(at, state.height, memory.height),
            halved=torch.where(at, back, memory.halved),
        )
        return told, back

    def direction(self, state: Climb, slope: Tensor) -> Tensor:
        """The steepest one."""
        return state.threat.steepest(slope)


@dataclass(frozen=True, kw_only=True)
class Sparse(Memory):
    """Of a pace that moves few coordinates.

    Args:
        share: (n,) float64, of the coordinates that a step moves.
        spread: (n,) float64, how many the best point of the last checkpoint had moved.
    """

    share: Tensor
    spread: Tensor


class Sparsity(Pace):
    """Steps of eps along the largest slopes: two thirds as many as the best perturbation has coordinates.

    While the perturbation becomes sparser the step is eps and begins at the best point; else it shrinks by 1.5, down to
    eps / 10.
    """

    fresh = 1.0

    def windows(self, steps: int) -> list[int]:
        """A checkpoint after every 4 % of the steps."""
        gap = max(4 * steps // 100, 1)
        return [gap if k and k % gap == 0 else 0 for k in range(steps + 1)]

    def first_point(self, x: Tensor, threat: Threat, radius: Tensor, draws: Draws) -> Tensor:
        """A normal vector, projected: few coordinates of it are left."""
        return threat.project(x + draws.normal(x.shape[1:], "direction"), x, radius)

    def begin(self, state: Climb, value: Tensor, *, anywhere: bool) -> Sparse:
        """A fifth of the coordinates, or what the point has."""
        every = float(state.x.shape[1:].numel())
        spread = _moved(state.at, state.x)
        one = torch.ones_like(spread)
        if anywhere:
            return Sparse(stride=one, share=0.2 * one, spread=every * one)
        return Sparse(stride=one, share=spread / every / 1.5, spread=spread)

    def look(self, state: Climb, value: Tensor, way: Way, rho: float) -> tuple[Sparse, Tensor]:
        """At checkpoints, go by how sparse the best point is."""
        memory, at = state.memory, way.window > 0
        assert isinstance(memory, Sparse)
        spread = _moved(state.best, state.x)
        sparser = spread < 0.95 * memory.spread
        told = Sparse(
            stride=torch.where(sparser, 1.0, (memory.stride / 1.5).clamp(min=0.1)),
            share=spread / state.x.shape[1:].numel() / 1.5,
            spread=spread,
        )
        return where(at, told, memory), at & sparser

    def direction(self, state: Climb, slope: Tensor) -> Tensor:
        """The signs of the largest slopes, divided by their number.

        As published, those that point out of the box are among them, and the projection takes back what they gained. Where
        it took back nearly the whole last step they are left out: on affine models whose walls bind, up to a third of the
        worst case is out of reach otherwise.
        """
        memory, norm = state.memory, state.threat.geometry
        assert isinstance(memory, Sparse)
        stuck = norm.distance(state.at - state.before) < 0.01 * memory.stride * state.threat.radius
        return norm.steepest(slope, torch.where(along(stuck & (state.k > 0), slope), state.at, 0.5), memory.share)


#: by norm
PACES: dict[str, Pace] = {"Linf": Halving(), "L2": Halving(), "L1": Sparsity()}


@dataclass(frozen=True, kw_only=True)
class AutoAscent(Attack):
    """Ascent inside ball and box from a random point, at a pace that each row sets for itself.

    Args:
        steps: of a lane; it costs one forward and one backward more than these.
        rho: the share of the steps between two checkpoints that must go up, or the step is halved (Linf, L2).
        large_eps: begin with a radius of 3 eps for 30 % of the steps and 2 eps for 30 %; only the rest can break anything.
        eot_draws: answers of a randomised system to average at every point; each is a query.
    """

    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = tuple(PACES)
    source: ClassVar[str] = (
        "Croce and Hein 2020, arXiv 2003.01690, sec. 3 and 4 (Linf, L2); Croce and Hein 2021, arXiv 2103.01208 (L1)"
    )
    steps: int = 100
    rho: float = 0.75
    large_eps: bool = False
    eot_draws: int = 1

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        at_least(self, "eot_draws", 1)
        if not 0 < self.rho <= 1:
            raise UserError(f"{self.name}: rho={self.rho:g}; accepted: more than 0, up to 1")

    @property
    def climbed(self) -> Objective:
        """What is climbed."""
        raise NotImplementedError

    @property
    def eot(self) -> EOT | None:
        """As the option says."""
        return EOT(draws=self.eot_draws) if self.eot_draws > 1 else None

    def length(self) -> int:
        """One query more than steps at each radius: of the first point there."""
        return sum(steps + 1 for _, steps in self._radii())

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a query, lane and draw."""
        return Cost(self.length(), self.length()) * (self.lanes(num_classes) * self.eot_draws)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point; nothing is asked yet."""
        pace, widest = PACES[threat.norm], self._radii()[0][0]
        radius = torch.full((len(x),), widest * threat.radius, dtype=torch.float64, device=x.device)
        at = pace.first_point(x, threat, radius, draws)
        low = torch.full((len(x),), -torch.inf, device=x.device)
        begun: Climb = Climb.begin(
            x,
            goal,
            threat,
            draws,
            at if widest == 1 else x,
            at=at,
            before=at,
            best=at,
            slope=at,
            height=low,
            memory=None,
        )
        return replace(begun, memory=pace.begin(begun, low, anywhere=widest == 1))

    def step(self, state: State, oracle: Oracle) -> State:
        """Ask about the present point, learn from the answer, and move on; the end is the best point."""
        assert isinstance(state, Climb)
        pace, way = PACES[state.threat.norm], self._way(state.k, state.threat.norm)
        said = oracle.query(state.at, self.climbed)
        assert said.grads is not None
        value, slope = said.values[0].nan_to_num(nan=-torch.inf), said.grads[0]
        better = way.first | (value > state.height)
        state = replace(
            state,
            best=torch.where(along(better, slope), state.at, state.best),
            slope=torch.where(along(better, slope), slope, state.slope),
            height=torch.where(better, value, state.height),
        )
        begun = pace.begin(state, value, anywhere=len(self._radii()) == 1)
        told, back = pace.look(state, value, way, self.rho)
        state, back = replace(state, memory=where(way.first, begun, told)), along(back & ~way.first, slope)
        here = torch.where(back, state.best, state.at)
        return self._moved(state, here, torch.where(back, state.slope, slope), way)

    def _moved(self, state: Climb, here: Tensor, slope: Tensor, way: Way) -> Climb:
        """One step from `here`; after the last one at a radius, the best point there."""
        threat, x, pace = state.threat, state.x, PACES[state.threat.norm]
        radius = way.radius * threat.radius
        far = along(state.memory.stride * radius, x).to(x.dtype)
        there = threat.project(here + far * pace.direction(state, slope), x, radius)
        if pace.fresh < 1:
            fresh = along(torch.where(way.first, 1.0, pace.fresh), x)
            drift = here + fresh * (there - here) + (1 - fresh) * (here - state.before)
            there = threat.project(drift, x, radius)
        if bool(way.last.any()):
            there = torch.where(along(way.last, x), threat.project(state.best, x, radius), there)
        wide = along(way.radius, x).to(x.dtype)
        adv = torch.where(wide > 1, (x + (there - x) / wide).clamp(0.0, 1.0), there) if self.large_eps else there
        return replace(state, adv=adv, at=there, before=here)

    def _radii(self) -> list[tuple[float, int]]:
        """Multiples of eps, and how many steps are made at each."""
        if not self.large_eps:
            return [(1.0, self.steps)]
        third = -(-3 * self.steps // 10)
        second = min(third, self.steps - third)
        return [(3.0, third), (2.0, second), (1.0, self.steps - third - second)]

    def _way(self, k: Tensor, norm: str) -> Way:
        return _course(norm, tuple(self._radii())).to(k.device)[k]


@lru_cache(maxsize=64)
def _course(norm: str, radii: tuple[tuple[float, int], ...]) -> Way:
    """The whole course, one row a query."""
    windows, first, last, radius = list[int](), list[bool](), list[bool](), list[float]()
    for place, (multiple, steps) in enumerate(radii):
        following = radii[min(place + 1, len(radii) - 1)][0]
        windows += PACES[norm].windows(steps)
        first += [True] + [False] * steps
        last += [False] * steps + [True]
        radius += [multiple] * steps + [following]
    return Way(
        window=torch.tensor(windows),
        first=torch.tensor(first),
        last=torch.tensor(last),
        radius=torch.tensor(radius, dtype=torch.float64),
    )


def _moved(point: Tensor, x: Tensor) -> Tensor:
    """How many coordinates differ, (n,) float64."""
    return (point != x).flatten(1).sum(1).double()
