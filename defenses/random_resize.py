"""Random resizing and padding."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.defenses.transformations import boxed
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System


@dataclass(frozen=True, kw_only=True)
class RandomResizePad(Defense):
    """Shrink the image to a random size and put it at a random place on black, anew for every answer.

    The paper enlarges instead (299 to 330 pixels, in 331), for a network that takes any size; here what the network sees
    keeps its size. A draw is a piecewise linear map of the image, so plain gradients are right for their own draw and
    wrong for the next one: the adversary who knows the defense averages over draws (`--eot`), and is judged by the
    majority over new ones.

    Args:
        smallest: the least size, as a share of the image's; all whole numbers of pixels from there on are equally likely,
            and always at least the image itself and one pixel less.
    """

    name: ClassVar[str] = "random-resize-pad"
    adaptivity: ClassVar[Adaptivity] = "adaptive"
    source: ClassVar[str] = (
        "Xie et al. 2018, arXiv 1711.01991; broken by EOT: Athalye, Carlini, Wagner 2018, arXiv 1802.00420, sec. 5.3.2"
    )
    smallest: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.smallest < 1:
            raise UserError(f"{self.name}: smallest={self.smallest:g}; accepted: between 0 and 1, such as 0.9")

    def defend(self, system: System, workshop: Workshop) -> System:
        """The random step in front of the system.

        Raises:
            UserError: the images are too small to be shrunk.
        """
        if min(system.input_shape[1:]) < 2:
            raise UserError(f"{self.name} takes images of 2 pixels and more, not {system.input_shape[1:]}")
        return system.with_random_purifier(self.resized, name=str(self))

    def resized(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """The images x (n, c, h, w) at this draw; a size and a place for every row."""
        assert draws is not None, "sizes and places are drawn from the samples' streams"
        height, width = x.shape[2:]
        least = self.least(max(height, width))
        longer = least + draws.integers(max(height, width) - least + 1, (1,), "resize", index).squeeze(1)
        # The other side keeps its proportion: rounded, halves up, and never nothing.
        sizes = [
            ((2 * longer * side + max(height, width)) // (2 * max(height, width))).clamp(min=1) for side in x.shape[2:]
        ]
        rows, columns = (
            _shrunk(side, size, draws.integers(side - size + 1, (1,), f"pad-{side_name}", index).squeeze(1), x)
            for side_name, side, size in zip(("top", "left"), (height, width), sizes, strict=True)
        )
        return boxed(rows @ x @ columns.transpose(2, 3))

    def least(self, side: int) -> int:
        """The smallest size of this side, in pixels."""
        return max(1, min(side - 1, math.ceil(self.smallest * side)))


def _shrunk(side: int, size: Tensor, before: Tensor, like: Tensor) -> Tensor:
    """Bilinear resizing from `side` to `size` (n,) pixels, `before` (n,) black ones before them: (n, 1, side, side)."""
    out = torch.arange(side, device=like.device, dtype=torch.float64) - before[:, None]
    place = ((out + 0.5) * (side / size.double())[:, None] - 0.5).clamp(0, side - 1)
    weight = (1 - (place[:, :, None] - torch.arange(side, device=like.device)).abs()).clamp(min=0)
    inside = (out >= 0) & (out < size[:, None])
    return (weight * inside[:, :, None]).to(like.dtype)[:, None]
