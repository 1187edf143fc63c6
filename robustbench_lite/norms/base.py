"""What every norm can do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from robustbench_lite.randomness import Draws


class Norm(ABC):
    """A norm and its ball, in the box [0, 1]^d.

    Shapes: x (the clean image), adv, p, grad, delta and w are (n, c, h, w); x and p lie in [0, 1]. `eps` is a
    number, or a tensor (n,) with one radius a sample; 0 is the point x itself, infinity no ball at all, and
    NaN counts as 0. NaN in a gradient counts as 0. What is promised below is exact up to the rounding of x's
    own dtype, and lands 1e-6 eps inside the ball, so that float32 dust cannot leave it.
    """

    name: ClassVar[str]

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def distance(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation, (n,) float64. Give it a float64 difference for an exact one."""

    @abstractmethod
    def dual(self, grad: Tensor) -> Tensor:
        """The dual norm, (n,) float64: how much a function with this gradient grows per unit of the norm."""

    @abstractmethod
    def covers(self, shape: Sequence[int]) -> float:
        """The smallest eps whose ball holds the whole box, from any point; `shape` is that of one image."""

    def resized(self, radius: Tensor, wish: Tensor) -> Tensor:
        """The radius that a ball takes which should change from `radius` to `wish`, both (n,) float64: the wish.

        Of a norm that counts it is a whole number again, and another one.
        """
        return wish

    @abstractmethod
    def project(self, adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """The point of ball and box that is nearest to adv (Euclidean); adv itself where it is inside already.

        What was projected stays as it is when projected again. A coordinate that is NaN stays NaN: the
        verdict refuses it.
        """

    @abstractmethod
    def steepest(self, grad: Tensor, at: Tensor | None = None, keep: float | Tensor = 0.01) -> Tensor:
        """The direction of norm 1 in which to climb; zero where the gradient is.

        Args:
            grad: the gradient.
            at: the present point in [0, 1]; a sparse direction leaves out the coordinates that stand at a wall
                and point out of the box. Dense norms do not look at it.
            keep: the share of the coordinates that a sparse direction moves (at least one), a number or (n,).
                Dense norms do not look at it.
        """

    def ascent(self, grad: Tensor, at: Tensor | None = None) -> Tensor:
        """The direction of a step that is followed by `project`: the steepest one, unless the projection does better.

        Args:
            grad, at: as for `steepest`.
        """
        return self.steepest(grad, at)

    @abstractmethod
    def extreme(self, x: Tensor, grad: Tensor, eps: float | Tensor) -> Tensor:
        """The point of ball and box that maximises <grad, .>: the exact worst case of an affine function.

        A coordinate without gradient does not move.
        """

    @abstractmethod
    def random_direction(self, x: Tensor, draws: Draws, index: int | Tensor = 0, stream: str = "direction") -> Tensor:
        """A random perturbation of norm 1, shaped as x."""

    @abstractmethod
    def random_point(self, x: Tensor, eps: float | Tensor, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """A uniform point of the ball, brought into the box by the projection onto both."""

    @abstractmethod
    def hyperplane(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The point nearest to p, in this norm, on {v: <w, v> = b} in the box; if none is there, the corner towards it.

        The projection of FAB (Croce & Hein 2019, arXiv 1907.02044, sec. 2.2). Coordinates whose weight is
        below 1e-8 of the row's largest do not move; the arithmetic is float64 up to the last rounding.

        Args:
            p: points in [0, 1].
            w: normal vectors, shaped as p; a row of zeros leaves its point where it is.
            b: (n,) offsets.

        Raises:
            UserError: there is no such projection (L0).
        """
