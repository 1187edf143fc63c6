"""HopSkipJump: walk along the boundary, from answers alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.starts import FromAfar, behind, halvings, to_boundary
from robustbench_lite.norms import norm
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: how often a step that does not break is halved; the most probes of one iteration
SHORTER, MOST = 12, 10_000
#: float32 tells no two points apart that are nearer to each other than this part of their distance
FINEST = 2.0**-24


#: how many values of probes are drawn at once
VALUES = 2**17


@dataclass(frozen=True)
class Rule:
    """What depends on the norm.

    Args:
        power: of the dimension, in theta.
        draw: (draws, shape, index, number) -> the directions of the probes, of any length.
    """

    power: float
    draw: Callable[[Draws, Sequence[int], Tensor, Tensor], Tensor]


RULES = {
    "L2": Rule(1.5, lambda draws, shape, index, number: draws.normal(shape, "probe", index, number)),
    "Linf": Rule(2.0, lambda draws, shape, index, number: draws.uniform(shape, "probe", index, number) * 2 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Walk(State):
    """Where the walk is.

    Args:
        point: (n, c, h, w), seen to break, the boundary just behind it towards x.
        before: (n,) float64, how far away the point was before it was brought to the boundary.
        nearest: (n,) float64, the distance of the nearest point so far; infinity where none was found.
    """

    point: Tensor
    before: Tensor
    nearest: Tensor


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(FromAfar):
    """Walk along the boundary by its normal, which is estimated from the labels of nearby points.

    It starts at an image that is broken already: one of noise, or under a targeted threat the nearest of a few images of
    the target class that are not evaluated. An iteration asks 100 sqrt(j) probes around the present point, steps along
    the estimated normal, half as far until the step breaks, and comes back to the boundary by bisection. Labels say
    little: with 2,500 queries expect a norm three to five times the smallest, and at a fixed eps more robustness than
    gradients leave. A sample without a start (noise of any kind gets the right answer) is unbroken, at norm infinity.
    Boundaries that are jagged or random (rounding, random resizing) mislead the probes.

    One step is one iteration. Its probes are asked in full micro-batches across rows (`Oracle.probes`), so that rows of
    any age and budget share a batch, and few images do not make small batches; only the bisection and the search for
    the step, some 20 queries an iteration, ask one point a row. So no query is wasted, and no probe is kept.

    Args:
        queries: the most forwards a sample may cost, everything included; the paper plots up to 25,000.
        steps: the most iterations.
        probes: of the first iteration; the j-th asks sqrt(j) times as many, up to 10,000.
        gamma: of the width of the search, theta = gamma / d^1.5 of the distance (Linf: gamma / d^2), and of the probes'
            distance, gamma / d of it.
    """

    name: ClassVar[str] = "hopskipjump"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf")
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("minimum-norm", "fixed-eps")
    source: ClassVar[str] = (
        "Chen, Jordan and Wainwright 2020, HopSkipJumpAttack: a query-efficient decision-based attack, arXiv 1904.02144"
    )
    queries: int = 25_000
    steps: int = 64
    probes: int = 100
    gamma: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, "queries", 1)
        at_least(self, "steps", 1)
        at_least(self, "probes", 2)
        positive(self, "gamma")

    @property
    def budget(self) -> int:
        """As the option says."""
        return self.queries

    def length(self) -> int:
        """The most iterations; most rows run out of queries before."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """The budget."""
        return Cost(self.queries)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the boundary, between the clean image and a point that breaks."""
        far, found = self.first_break(x, goal, draws, oracle)
        never = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        state: Walk = Walk.begin(x, goal, threat, draws, x, point=far, before=never, nearest=never)
        return self._landed(replace(state, done=~found), far, found, oracle)

    def step(self, state: State, oracle: Oracle) -> State:
        """One iteration."""
        assert isinstance(state, Walk)
        count = self.how_many(state, oracle)
        state = replace(state, done=state.done | (count < 2))
        count = count * ~state.done
        width = torch.where(state.k == 0, 0.1, state.before * self.gamma / state.x[0].numel())
        direction = state.threat.steepest(self.normal(state, count, width.to(state.x.dtype), oracle))
        far, found = self._ahead(state, direction, oracle)
        return self._landed(state, far, found, oracle)

    def how_many(self, state: State, oracle: Oracle) -> Tensor:
        """The probes of this iteration, (n,): what is left for them when the way there and back is paid."""
        wish = (self.probes * (state.k + 1).double().sqrt()).long().clamp(max=MOST)
        left = self.queries - oracle.ledger.forwards - SHORTER - halvings(self._theta(state.x, state.threat))
        return torch.minimum(wish, left).clamp(min=0)

    def normal(self, state: Walk, count: Tensor, width: Tensor, oracle: Oracle) -> Tensor:
        """The direction in which the answers turn, (n, c, h, w), from `count` (n,) probes at the distance `width` (n,).

        It is the mean of the unit steps, each with the sign of its answer; the mean sign is taken off before, so that a
        point that is not quite on the boundary does no harm (eq. 16 of the paper).
        """
        point, device = state.point, state.x.device
        signs = torch.zeros_like(width)
        units, signed = torch.zeros_like(point).flatten(1), torch.zeros_like(point).flatten(1)
        owner = torch.repeat_interleave(torch.arange(len(count), device=device), count)
        number = torch.arange(len(owner), device=device) - (count.cumsum(0) - count)[owner]
        size, draw = oracle.room * max(1, VALUES // (oracle.room * point[0].numel())), RULES[state.threat.norm].draw
        for begin in range(0, len(owner), size):
            part = slice(begin, begin + size)
            rows = owner[part]
            here, far = point[rows], along(width[rows], point)
            wild = draw(state.draws[rows], point.shape[1:], state.k[rows], number[part])
            there = (here + far * wild / along(norm("L2").distance(wild).to(wild.dtype), wild)).clamp(0, 1)
            sign = oracle.probes(there, rows).adversarial.to(width.dtype) * 2 - 1
            unit = ((there - here) / far).flatten(1)
            signs.index_add_(0, rows, sign)
            units.index_add_(0, rows, unit)  # of matrices: much quicker than of images
            signed.index_add_(0, rows, sign[:, None] * unit)
        mean = signs / count.clamp(min=1)
        off = torch.where(mean.abs() == 1, 0.0, mean)
        return (signed - off[:, None] * units).view_as(point)

    def _ahead(self, state: Walk, direction: Tensor, oracle: Oracle) -> tuple[Tensor, Tensor]:
        """A step along the direction, as long as it breaks; the point, and whether there is one (n,)."""
        far, found = state.point, state.done
        length = state.threat.distance(state.point, state.x) / (state.k + 1).double().sqrt()
        for _ in range(SHORTER):
            if bool(found.all()):
                break
            there = (state.point + along(length.to(far.dtype), far) * direction).clamp(0, 1)
            hit = oracle.query(there, asking=~found).adversarial
            far, found = torch.where(along(hit, far), there, far), found | hit
            length = length / 2
        return far, found & ~state.done

    def _landed(self, state: Walk, far: Tensor, found: Tensor, oracle: Oracle) -> Walk:
        """The walk at the boundary between x and `far`, where that was found (n,)."""
        x, threat = state.x, state.threat
        point = to_boundary(far, x, threat, oracle, found, self._theta(x, threat))
        distance = threat.distance(point, x)
        nearer = found & (distance < state.nearest)
        return replace(
            state,
            point=point,
            before=torch.where(found, threat.distance(far, x), state.before),
            nearest=torch.where(nearer, distance, state.nearest),
            adv=torch.where(along(nearer, x), behind(point, x, threat), state.adv),
        )

    def _theta(self, x: Tensor, threat: Threat) -> float:
        return max(FINEST, self.gamma * float(x[0].numel()) ** -RULES[threat.norm].power)
