"""Where attacks that walk along the boundary begin, and how they come to it."""

import copy
import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Goal, Setup
from robustbench_lite.norms import norm
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: examples of a class that are kept, and points of noise that are tried where no example will do
PER_CLASS, TRIES = 10, 100
#: how far behind the boundary the last point is put, as a part of its distance: the verdict may round otherwise
BEHIND = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Images (m, c, h, w) that are not evaluated, and what the system answers to them (m,)."""

    x: Tensor
    labels: Tensor

    @classmethod
    def of(cls, setup: Setup, most: int, *, right: bool = False) -> Self:
        """The first images of every class, `most` of each, that the system does not reject; asks once for each.

        Args:
            right: only those that it gives their own label.
        """
        own = torch.nn.functional.one_hot(setup.y, setup.num_classes)
        rows = (own * own.cumsum(0)).sum(1) <= most
        x = setup.x[rows]
        labels = setup.ask(x).labels
        assert labels is not None
        kept = (labels == setup.y[rows]) if right else (labels >= 0)
        return cls(x=x[kept], labels=labels[kept])

    def nearest(self, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """The example that is nearest to each x (n, c, h, w), of those whose answer is what the goal wants, and whether
        there is one (n,)."""
        euclid, best = norm("L2"), x
        least = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for example, label in zip(self.x, self.labels, strict=True):
            wanted = label == goal.target if goal.success == "targeted" else label != goal.y
            far = euclid.distance(example - x).masked_fill(~wanted, torch.inf)
            best, least = torch.where(along(far < least, x), example, best), torch.minimum(far, least)
        return best, least < torch.inf


@dataclass(frozen=True, kw_only=True)
class FromAfar(Attack):
    """An attack that begins at a point that is broken already, far away."""

    #: what `prepare` found; not an option
    examples: Examples | None = field(default=None, init=False, repr=False, compare=False)

    def learns(self, threat: Threat) -> bool:
        """Where only the target class will do, noise will hardly be of it: then examples are needed."""
        return threat.goal == "targeted"

    def prepare(self, setup: Setup) -> Self:
        """Ask what the system answers to a few images of each class."""
        taught = copy.copy(self)
        object.__setattr__(taught, "examples", Examples.of(setup, PER_CLASS))  # frozen for everybody else
        return taught

    def first_break(self, x: Tensor, goal: Goal, draws: Draws, oracle: Oracle) -> tuple[Tensor, Tensor]:
        """A point that breaks, for each x (n, c, h, w), and whether one was found (n,): the nearest example, or the first
        image of noise that will do."""
        point, found = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self.examples is not None:
            example, known = self.examples.nearest(x, goal)
            found = oracle.query(example, asking=known).adversarial
            point = torch.where(along(found, x), example, x)
        for attempt in range(TRIES):
            if bool((found | oracle.exhausted).all()):
                break  # what nobody asks for is not shown either
            there = noise(x, draws, attempt)
            hit = oracle.query(there, asking=~found).adversarial
            point, found = torch.where(along(hit, x), there, point), found | hit
        return point, found


def noise(x: Tensor, draws: Draws, attempt: int) -> Tensor:
    """Uniform noise shaped as x (n, c, h, w), of single pixels at first and then of blocks of 2, 4, 8, ... and again.

    A network has one or two answers to noise of single pixels; to coarser noise it has others.
    """
    channels, height, width = x.shape[1:]
    sizes = max(height, width).bit_length()
    block = 2 ** (attempt % sizes)
    coarse = draws.uniform((channels, -(-height // block), -(-width // block)), "first break", draw=attempt)
    fine = coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)
    return fine[:, :, :height, :width].contiguous()


def halvings(tolerance: float) -> int:
    """How often an interval is halved until it is this part of itself."""
    return max(1, math.ceil(-math.log2(tolerance)))


def to_boundary(far: Tensor, x: Tensor, threat: Threat, oracle: Oracle, asking: Tensor, tolerance: float) -> Tensor:
    """Bring points that break, far (n, c, h, w), towards the clean images until the boundary is just behind them.

    The way is the norm's own: the straight line in L2, a shrinking cube in Linf. The interval is halved until it is
    `tolerance` times the distance; what is returned was seen to break.

    Args:
        asking: (n,) bool, the rows that move; the others stay where they are and pay nothing.
    """
    high = threat.distance(far, x)
    low, best = torch.zeros_like(high), far
    for _ in range(halvings(tolerance)):
        if not bool(asking.any()):
            break
        middle = (low + high) / 2
        there = threat.project(far, x, middle)
        hit = oracle.query(there, asking=asking).adversarial
        best = torch.where(along(hit, x), there, best)
        high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
    return best


def behind(point: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """A hair further from x than the point, and inside ball and box."""
    return threat.project(x + (1 + BEHIND) * (point - x), x)
