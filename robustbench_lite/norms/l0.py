"""The number of coordinates that differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.norms.base import Norm
from robustbench_lite.norms.rowwise import in_slices, radii, room, sparse_signs, top, usable
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along


@dataclass(frozen=True)
class L0(Norm):
    """The number of changed coordinates (of c*h*w, not of pixels); eps is rounded down to a whole number.

    It is not a norm in the strict sense: its ball is not convex, so its projection is exact but not
    non-expansive.
    """

    name: ClassVar[str] = "L0"

    def distance(self, delta: Tensor) -> Tensor:
        """How many coordinates are not zero."""
        return (delta.flatten(1) != 0).sum(1).to(torch.float64)

    def dual(self, grad: Tensor) -> Tensor:
        """The largest absolute value: what one coordinate gains when it crosses a box of width 1."""
        return usable(grad).flatten(1).abs().amax(1).to(torch.float64)

    def covers(self, shape: Sequence[int]) -> float:
        """The number of coordinates."""
        return float(math.prod(shape))

    def resized(self, radius: Tensor, wish: Tensor) -> Tensor:
        """The wish rounded down, but one coordinate more or less than before at least, and none at the fewest."""
        fewer, more = torch.minimum(radius - 1, wish.floor()), torch.maximum(radius + 1, wish.floor())
        return torch.where(wish < radius, fewer, more).clamp(min=0.0)

    def project(self, adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """Keep, cut at the box, the coordinates that it would cost most to put back; ties go to the lower index."""
        return in_slices(self._project, adv, x, self._count(eps, x))

    def _project(self, adv: Tensor, x: Tensor, count: Tensor) -> Tensor:
        kept = adv.clamp(0.0, 1.0)
        wish, move = adv.to(torch.float64) - x, kept.to(torch.float64) - x
        cost = move * (2.0 * wish - move)  # = wish^2 - (wish - move)^2
        mask = top(usable(cost).flatten(1), count).view_as(x)
        return torch.where(mask | adv.isnan(), kept, x)

    def steepest(self, grad: Tensor, at: Tensor | None = None, keep: float | Tensor = 0.01) -> Tensor:
        """The signs of the largest slopes: each of these coordinates moves by 1, to its wall. Its L0 norm is their
        number, not 1."""
        return sparse_signs(grad, at, keep)

    def extreme(self, x: Tensor, grad: Tensor, eps: float | Tensor) -> Tensor:
        """The coordinates with the largest |grad| times room move to their wall; ties go to the lower index."""
        return in_slices(self._extreme, x, usable(grad), self._count(eps, x))

    def _extreme(self, x: Tensor, grad: Tensor, count: Tensor) -> Tensor:
        mask = top((room(grad, x) * grad.abs()).flatten(1), count).view_as(x)
        return torch.where(mask, (grad > 0).to(x.dtype), x)

    def random_direction(self, x: Tensor, draws: Draws, index: int | Tensor = 0, stream: str = "direction") -> Tensor:
        """One coordinate, +1 or -1."""
        one = self._random_mask(x, 1.0, draws, index, stream)
        sign = torch.where(draws.uniform((), f"{stream} sign", index) < 0.5, -1.0, 1.0)
        return (one * along(sign, x)).to(x.dtype)

    def random_point(self, x: Tensor, eps: float | Tensor, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """floor(eps) random coordinates, each uniform in [0, 1]."""
        mask = self._random_mask(x, eps, draws, index, "point")
        return torch.where(mask, draws.uniform(x.shape[1:], "value", index).to(x.dtype), x)

    def hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Not offered."""
        raise UserError("L0 has no projection onto a hyperplane; accepted: Linf, L2, L1")

    def _random_mask(self, x: Tensor, eps: float | Tensor, draws: Draws, index: int | Tensor, stream: str) -> Tensor:
        score = draws.uniform(x.shape[1:], stream, index) + 1.0  # `top` takes positive scores only
        return top(score.flatten(1), self._count(eps, x)).view_as(x)

    def _count(self, eps: float | Tensor, x: Tensor) -> Tensor:
        return radii(eps, x).clamp(max=self.covers(x.shape[1:])).floor().long()
