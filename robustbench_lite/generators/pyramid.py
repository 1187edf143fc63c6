"""The Laplacian pyramid (Burt and Adelson 1983, IEEE Trans. Communications 31): an image as a small one and bands of detail.

Going down blurs with the binomial [1 4 6 4 1] / 16 and keeps every second pixel; going up spreads them again with the same
weights. A band is what is lost in between, so that putting it back is exact whatever the sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


def down(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, ceil(h / 2), ceil(w / 2)); a constant image stays constant."""
    return _blurred(x)[:, :, ::2, ::2]


def up(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, c, ceil(h / 2), ceil(w / 2)) -> (n, c, h, w), smooth between the pixels; a constant image stays constant."""
    spread = x.new_zeros((*x.shape[:2], *size))
    spread[:, :, ::2, ::2] = x
    places = x.new_zeros((1, 1, *size))
    places[:, :, ::2, ::2] = 1
    return _weighted(spread) / _weighted(places)


def bands(x: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    """The bands of x (n, c, h, w), the finest first, and what is left of it after so many halvings."""
    found = []
    for _ in range(levels):
        small = down(x)
        found.append(x - up(small, _size(x)))
        x = small
    return found, x


def coarsest(x: Tensor, levels: int) -> Tensor:
    """What is left of x (n, c, h, w) after so many halvings."""
    for _ in range(levels):
        x = down(x)
    return x


def rebuilt(details: list[Tensor], smallest: Tensor) -> Tensor:
    """The image of these bands, the finest first: what `bands` took apart."""
    x = smallest
    for band in reversed(details):
        x = up(x, _size(band)) + band
    return x


def sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Height and width at every level, the image's own first; levels + 1 of them."""
    found = [size]
    for _ in range(levels):
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def _blurred(x: Tensor) -> Tensor:
    return _weighted(x) / _weighted(torch.ones_like(x[:1, :1]))


def _weighted(x: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours; outside the image there is nothing."""
    line = x.new_tensor(_BINOMIAL) / 16
    channels = x.shape[1]
    column = line.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = line.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    tall = F.conv2d(x, column, padding=(2, 0), groups=channels)
    return F.conv2d(tall, row, padding=(0, 2), groups=channels)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
