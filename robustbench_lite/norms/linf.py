"""The maximum norm: every coordinate may move by eps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.norms.base import Norm
from robustbench_lite.norms.rowwise import INSIDE, deficit, divided, fill, in_slices, radii, room, row_sum, usable
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along

# Half a unit in the last place of a float32 in [0.5, 1]: how far the rounding of x + eps can lie outside.
_DUST = 2.0**-25


@dataclass(frozen=True)
class Linf(Norm):
    """The largest absolute value. Its projection is a clamp, exact at 1e-6 eps + 3e-8 inside the ball."""

    name: ClassVar[str] = "Linf"

    def distance(self, delta: Tensor) -> Tensor:
        """max |delta|."""
        return delta.flatten(1).abs().amax(1).to(torch.float64)

    def dual(self, grad: Tensor) -> Tensor:
        """The L1 norm."""
        return row_sum(usable(grad).abs())

    def covers(self, shape: Sequence[int]) -> float:
        """1, the range of a pixel."""
        return 1.0

    def project(self, adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """Clamp to the interval of each coordinate; points in the outermost 1e-6 of the ball move inwards by it."""
        low, high = self._interval(x, eps)
        return torch.clamp(adv, low, high)

    def steepest(self, grad: Tensor, at: Tensor | None = None, keep: float | Tensor = 0.01) -> Tensor:
        """The sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572, sec. 4)."""
        return usable(grad).sign()

    def extreme(self, x: Tensor, grad: Tensor, eps: float | Tensor) -> Tensor:
        """Each coordinate at the end of its interval that its gradient points to."""
        low, high = self._interval(x, eps)
        return torch.where(grad > 0, high, torch.where(grad < 0, low, x))

    def random_direction(self, x: Tensor, draws: Draws, index: int | Tensor = 0, stream: str = "direction") -> Tensor:
        """A uniform point of the cube, stretched to its surface (as APGD and FAB start)."""
        cube = draws.uniform(x.shape[1:], stream, index).to(torch.float64) * 2.0 - 1.0
        return divided(cube, self.distance(cube)).to(x.dtype)

    def random_point(self, x: Tensor, eps: float | Tensor, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """A uniform point of the cube, cut at the box (Madry et al. 2018, arXiv 1706.06083, sec. 2.1)."""
        cube = draws.uniform(x.shape[1:], "point", index) * 2.0 - 1.0
        return self.project(x + cube * self._reach(x, eps), x, eps)

    def hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """All coordinates with a weight move equally far, or to the wall; see `Norm.hyperplane`."""
        return in_slices(self._hyperplane, p, w, b)

    def _hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        here = p.to(torch.float64)
        w, missing = deficit(here, w, b)
        slope, limit = w.abs().flatten(1), room(w, here).flatten(1)
        move = torch.minimum(fill(slope, slope * limit, missing)[:, None], limit)
        return (here + w.sign() * move.view_as(w)).to(p.dtype).clamp(0.0, 1.0)

    def _reach(self, x: Tensor, eps: float | Tensor) -> Tensor:
        """How far a coordinate may go, (n, 1, 1, 1), so that its rounded end is inside; 1 if that is all."""
        radius = radii(eps, x)
        reach = (INSIDE * radius - _DUST).clamp(min=0.0)
        return along(torch.where(radius >= 1.0, 1.0, reach).to(x.dtype), x)

    def _interval(self, x: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        reach = self._reach(x, eps)
        return (x - reach).clamp(min=0.0), (x + reach).clamp(max=1.0)
