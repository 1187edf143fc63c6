"""What L2 and L1 share: a search for the right size of the moves, then a landing that dust cannot push out."""

from abc import abstractmethod

import torch
from torch import Tensor

from robustbench_lite.norms.base import Norm
from robustbench_lite.norms.rowwise import INSIDE, deficit, in_slices, radii, room, usable
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along

# As good as infinity for a difference of pixels, and small enough to be squared and summed.
_FAR = 1e9


class Ball(Norm):
    """A norm with a round or a pointed ball. Its subclasses know how far each coordinate moves; the signs are ours.

    Shapes in the three searches: wish, slope and room (n, d), radius and missing (n,); all float64 and >= 0.
    """

    @abstractmethod
    def _shorten(self, wish: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """The moves nearest to the wish, at most the room, of norm radius; min(wish, room) is known to be longer."""

    @abstractmethod
    def _climb(self, slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """The moves, at most the room and of norm radius or less, with the largest gain sum(slope * move)."""

    @abstractmethod
    def _cross(self, slope: Tensor, room: Tensor, missing: Tensor) -> Tensor:
        """The moves of the least norm whose gain sum(slope * move) is what is missing, or else all the room."""

    def project(self, adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """The nearest point of ball and box; searched only for the rows that are outside."""
        return in_slices(self._project, adv, x, radii(eps, x))

    def _project(self, adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        point = adv.clamp(0.0, 1.0)
        outside = self.distance(point.to(torch.float64) - x.to(torch.float64)) > radius
        if not bool(outside.any()):
            return point  # cut at the box they are inside the ball: nothing nearer is in both
        rows = outside.nonzero()[:, 0]
        here, limit = x[rows], radius[rows]
        wish = (adv[rows].to(torch.float64) - here.to(torch.float64)).clamp(-_FAR, _FAR)
        move = self._shorten(wish.flatten(1).abs(), room(wish, here).flatten(1), INSIDE * limit)
        return point.index_copy(0, rows, self._land(here, wish.sign() * move.view_as(wish), limit))

    def extreme(self, x: Tensor, grad: Tensor, eps: float | Tensor) -> Tensor:
        """The worst case of an affine function; see `Norm.extreme`."""
        return in_slices(self._extreme, x, grad, self._radii(x, eps))

    def _extreme(self, x: Tensor, grad: Tensor, radius: Tensor) -> Tensor:
        grad = usable(grad).to(torch.float64)
        move = self._climb(grad.abs().flatten(1), room(grad, x).flatten(1), INSIDE * radius)
        return self._land(x, grad.sign() * move.view_as(grad), radius)

    def random_point(self, x: Tensor, eps: float | Tensor, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """A uniform direction, eps * u^(1/d) long for a uniform u (a ball's volume lies under its surface).

        In the ball, projecting onto ball and box is to cut at the box: x is inside, so the cut shortens every
        coordinate.
        """
        direction = self.random_direction(x, draws, index, "point").to(torch.float64)
        u = draws.uniform((), "radius", index).to(torch.float64)
        # Rounded to float32: the last bit of a power, which may differ with the place in memory, is gone then.
        part = u.pow(1.0 / x.shape[1:].numel()).to(torch.float32).to(torch.float64)
        radius = self._radii(x, eps)
        return self._land(x, along(INSIDE * part * radius, x) * direction, radius)

    def hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The nearest point on a hyperplane in the box; see `Norm.hyperplane`."""
        return in_slices(self._hyperplane, p, w, b)

    def _hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        here = p.to(torch.float64)
        w, missing = deficit(here, w, b)
        move = self._cross(w.abs().flatten(1), room(w, here).flatten(1), missing)
        return (here + w.sign() * move.view_as(w)).to(p.dtype).clamp(0.0, 1.0)

    def _radii(self, x: Tensor, eps: float | Tensor) -> Tensor:
        """The radii (n,), no larger than what covers the box: the intersection is the same, and infinity is gone."""
        return radii(eps, x).clamp(max=self.covers(x.shape[1:]))

    def _land(self, x: Tensor, delta: Tensor, radius: Tensor) -> Tensor:
        """x + delta in the box, rounded to the dtype of x without leaving the radius (n,).

        Rounding to nearest may stretch a perturbation; a row that leaves the ball by it is rounded towards x
        instead, so that no coordinate is longer than in delta (float64, inside the ball).
        """
        here = x.to(torch.float64)
        point = (here + delta).to(x.dtype).clamp(0.0, 1.0)
        moved = point.to(torch.float64) - here
        left = self.distance(moved) > radius
        if not bool(left.any()):
            return point
        stretched = (moved.abs() > delta.abs()) & along(left, x)
        return torch.where(stretched, torch.nextafter(point, x), point)
