"""The sum of absolute values: a budget that sparse perturbations spend best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.norms.ball import Ball
from robustbench_lite.norms.rowwise import divided, pour, row_sum, sparse_signs, usable
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along

# The threshold is good once the length is within this of the radius, relative to it: a tenth of the landing's
# margin.
_TOLERANCE = 1e-7
# Newton alone needs about ten steps; after this many every second step halves the bracket, which ends in any
# case.
_NEWTON, _STEPS = 20, 200


@dataclass(frozen=True)
class L1(Ball):
    """The sum of absolute values."""

    name: ClassVar[str] = "L1"

    def distance(self, delta: Tensor) -> Tensor:
        """The sum of absolute values."""
        return row_sum(delta.abs())

    def dual(self, grad: Tensor) -> Tensor:
        """The largest absolute value."""
        return usable(grad).flatten(1).abs().amax(1).to(torch.float64)

    def covers(self, shape: Sequence[int]) -> float:
        """The number of coordinates."""
        return float(math.prod(shape))

    def steepest(self, grad: Tensor, at: Tensor | None = None, keep: float | Tensor = 0.01) -> Tensor:
        """Sparse steepest ascent: the signs of the largest slopes, divided by their number.

        With one coordinate it is the steepest direction in the strict sense; a few more make PGD converge
        (Tramer & Boneh 2019, arXiv 1904.13000, sec. 4.1; their q = 99 % is keep = 0.01).
        """
        signs = sparse_signs(grad, at, keep)
        return signs / along(row_sum(signs.abs()).clamp(min=1.0), signs).to(signs.dtype)

    def ascent(self, grad: Tensor, at: Tensor | None = None) -> Tensor:
        """The gradient, divided by its L2 norm: the exact projection makes the sum sparse where that pays.

        Sparse signs come to a halt where walls stop them: measured, a last point of theirs keeps up to 84 % of what an
        affine model's worst case gains out of reach, this one nothing.
        """
        grad = usable(grad)
        return divided(grad, row_sum(grad.double() ** 2).sqrt()).to(grad.dtype)

    def random_direction(self, x: Tensor, draws: Draws, index: int | Tensor = 0, stream: str = "direction") -> Tensor:
        """Uniform on the cross-polytope: a Laplace vector, divided by its norm."""
        # The middles of the 2^24 steps of a uniform number: never 0 and never 1 in size.
        centred = draws.uniform(x.shape[1:], stream, index).to(torch.float64) * 2.0 + (2.0**-24 - 1.0)
        # Rounded to float32: the last bit of a logarithm, which may differ with the place in memory, is gone then.
        size = -torch.log(1.0 - centred.abs()).to(torch.float32)
        return (centred.sign() * divided(size, row_sum(size))).to(x.dtype)

    def _shorten(self, wish: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """Soft threshold, then cut at the box (Croce & Hein 2021, arXiv 2103.01208, prop. 2.1).

        The length falls with the threshold, piecewise linearly but neither convexly nor concavely: Newton's
        method within a bracket. A row that is good enough keeps its threshold, whatever other rows still
        need.
        """
        low, high = torch.zeros_like(radius), wish.amax(1)
        threshold, good = low, low < 0
        for step in range(_STEPS):
            above = wish - threshold[:, None]
            surplus = row_sum(torch.minimum(above.clamp(min=0.0), room)) - radius
            good = surplus.abs() <= _TOLERANCE * radius
            if bool(good.all()):
                break
            low, high = torch.where(surplus > 0, threshold, low), torch.where(surplus > 0, high, threshold)
            free = row_sum((above > 0) & (above < room))
            newton, middle = torch.minimum(threshold + surplus / free, high), (low + high) / 2
            trusted = (newton > low) & (free > 0) & (step < _NEWTON or step % 2 == 0)
            threshold = torch.where(good, threshold, torch.where(trusted, newton, middle))
        threshold = torch.where(good, threshold, high)  # where float64 can do no better, the high side is inside
        return torch.minimum((wish - threshold[:, None]).clamp(min=0.0), room)

    def _climb(self, slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return pour(slope, room, radius)

    def _cross(self, slope: Tensor, room: Tensor, missing: Tensor) -> Tensor:
        spent = pour(slope, slope * room, missing)
        return torch.minimum(spent / torch.where(slope > 0, slope, 1.0), room)
