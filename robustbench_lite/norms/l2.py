"""The Euclidean norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.norms.ball import Ball
from robustbench_lite.norms.rowwise import divided, fill, filled, row_sum, usable
from robustbench_lite.randomness import Draws


@dataclass(frozen=True)
class L2(Ball):
    """The root of the sum of squares.

    In a box the optimum of each search here is clip(t * direction) for one number t a row: the squares of its
    moves, min(t^2 direction^2, room^2), are filled up to the square of the radius.
    """

    name: ClassVar[str] = "L2"

    def distance(self, delta: Tensor) -> Tensor:
        """The root of the sum of squares."""
        return row_sum(delta.to(torch.float64).square()).sqrt()

    def dual(self, grad: Tensor) -> Tensor:
        """The L2 norm again."""
        return self.distance(usable(grad))

    def covers(self, shape: Sequence[int]) -> float:
        """The diagonal of the box."""
        return math.sqrt(math.prod(shape))

    def steepest(self, grad: Tensor, at: Tensor | None = None, keep: float | Tensor = 0.01) -> Tensor:
        """The gradient, divided by its norm."""
        grad = usable(grad)
        return divided(grad, self.distance(grad)).to(grad.dtype)

    def random_direction(self, x: Tensor, draws: Draws, index: int | Tensor = 0, stream: str = "direction") -> Tensor:
        """Uniform on the sphere: a normal vector, divided by its norm."""
        normal = draws.normal(x.shape[1:], stream, index)
        return divided(normal, self.distance(normal)).to(x.dtype)

    def _shorten(self, wish: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return self._climb(wish, room, radius)  # the nearest point lies in the direction of the wish, cut at the box

    def _climb(self, slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        squares = fill(slope.square(), room.square(), radius.square())
        return filled(squares.sqrt(), slope, room)

    def _cross(self, slope: Tensor, room: Tensor, missing: Tensor) -> Tensor:
        level = fill(slope.square(), slope * room, missing)
        return filled(level, slope, room)
