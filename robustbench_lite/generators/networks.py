"""What generators are built of: painters, from latent points to images, and readers, from images to numbers.

Three kinds, by the size of the images. Points of the plane (2x1x1) take the networks of Lin et al. 2018 (PacGAN, arXiv
1712.04086, app. D); small images or `mlp` take fully connected ones; larger ones the strided convolutions of Radford et al.
2016 (DCGAN, arXiv 1511.06434, sec. 3).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from robustbench_lite.data.points import REACH
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Shape

Kind = Literal["points", "mlp", "conv"]
#: DCGAN's slope of the leaky ReLU, and the spread of its initial weights
_LEAK, _SPREAD = 0.2, 0.02
_SMALL, _LARGEST = 16, 64


def kind_for(shape: Shape, wanted: Literal["auto", "mlp", "conv"] = "auto") -> Kind:
    """The kind of network for images of this shape.

    Raises:
        UserError: sides that convolutions of stride two cannot halve, or images that are too large.
    """
    if shape[1:] == (1, 1):
        return "points"
    if max(shape[1:]) > _LARGEST:
        raise UserError(f"images of {shape[1]}x{shape[2]} are too large for a generator; accepted: up to {_LARGEST}")
    if wanted == "mlp" or (wanted == "auto" and is_small(shape)):
        return "mlp"
    halvings(shape)
    return "conv"


def is_small(shape: Shape) -> bool:
    """Whether images are of up to 16x16, for which fully connected networks do."""
    return max(shape[1:]) <= _SMALL


def halvings(shape: Shape) -> int:
    """How often both sides are halved: down to 4, twice at least.

    Raises:
        UserError: a side is odd before that.
    """
    (height, width), count = shape[1:], 0
    while count < 2 or (min(height, width) > 4 and height % 2 == 0 and width % 2 == 0):
        if height % 2 or width % 2:
            raise UserError(
                f"images of {shape[1]}x{shape[2]} cannot be halved twice; accepted: sides that 4 divides, such as 28 or 32"
            )
        height, width, count = height // 2, width // 2, count + 1
    return count


class Painter(nn.Module):
    """z (n, latent), labels one-hot (n, k) -> images (n, c, h, w); in [0, 1] but for points, which are not bounded.

    Args:
        width: units of a hidden layer, or channels at full resolution. norm: batch normalisation after hidden layers.
    """

    def __init__(self, kind: Kind, shape: Shape, latent: int, labels: int, width: int, *, norm: bool = True) -> None:
        super().__init__()
        self.kind, self.shape = kind, shape
        size, entry = shape[0] * shape[1] * shape[2], latent + labels
        if kind == "points":
            self.body: nn.Module = _dense([entry, *[width] * 4, size], norm, nn.ReLU())
        elif kind == "mlp":
            self.body = _dense([entry, width, 2 * width, size], norm, nn.ReLU())
        else:
            self.body = _rising(shape, entry, width, norm)
        self.apply(_initialise)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the class."""
        out = self.body(z if labels is None else torch.cat((z, labels), 1)).view(-1, *self.shape)
        return cast(Tensor, out / (2 * REACH) + 0.5 if self.kind == "points" else out.sigmoid())


class Reader(nn.Module):
    """Images (n, c, h, w) in [0, 1], labels one-hot (n, k) -> numbers (n, out).

    Args:
        labels: k. width: as a painter's. norm: batch normalisation, never in the first layer.
    """

    def __init__(self, kind: Kind, shape: Shape, labels: int, width: int, out: int, *, norm: bool = True) -> None:
        super().__init__()
        self.kind = kind
        size = shape[0] * shape[1] * shape[2]
        if kind == "points":
            self.body: nn.Module = _maxouts(size + labels, width, out)
        elif kind == "mlp":
            self.body = _dense([size + labels, 2 * width, width, out], False, nn.LeakyReLU(_LEAK))
        else:
            self.body = _falling((shape[0] + labels, *shape[1:]), width, out, norm)
        self.apply(_initialise)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the class."""
        seen = (2 * x - 1) * (REACH if self.kind == "points" else 1)
        if self.kind != "conv":
            flat = seen.flatten(1)
            return cast(Tensor, self.body(flat if labels is None else torch.cat((flat, labels), 1)))
        if labels is not None:
            maps = labels[:, :, None, None].expand(-1, -1, *x.shape[2:])
            seen = torch.cat((seen, maps), 1)
        return cast(Tensor, self.body(seen))


class Maxout(nn.Module):
    """The largest of several linear maps (Goodfellow et al. 2013, arXiv 1302.4389): (n, before) -> (n, after)."""

    def __init__(self, before: int, after: int, pieces: int = 5) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(before, after * pieces)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.linear(x).view(len(x), -1, self.pieces).amax(2))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, what the module computes gives its weights no gradient, and its inputs theirs."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _dense(sizes: list[int], norm: bool, activation: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after, bias=not norm), *([nn.BatchNorm1d(after)] if norm else []), activation]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def _maxouts(before: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(Maxout(before, width), Maxout(width, width), Maxout(width, width), nn.Linear(width, out))


def _rising(shape: Shape, entry: int, width: int, norm: bool) -> nn.Sequential:
    """A projection to the smallest maps, and a transposed convolution for every doubling."""
    times = halvings(shape)
    height, breadth, channels = shape[1] >> times, shape[2] >> times, width << (times - 1)
    layers: list[nn.Module] = [
        nn.Linear(entry, channels * height * breadth, bias=not norm),
        nn.Unflatten(1, (channels, height, breadth)),
    ]
    for number in range(times):
        layers += [*([nn.BatchNorm2d(channels)] if norm else []), nn.ReLU()]
        last = number == times - 1
        after = shape[0] if last else channels // 2
        layers.append(nn.ConvTranspose2d(channels, after, 4, 2, 1, bias=last or not norm))
        channels = after
    return nn.Sequential(*layers)


def _falling(shape: Shape, width: int, out: int, norm: bool) -> nn.Sequential:
    """A strided convolution for every halving, and a linear map of what is left."""
    times = halvings(shape)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 4, 2, 1), nn.LeakyReLU(_LEAK)]
    channels = width
    for _ in range(times - 1):
        layers += [
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=not norm),
            *([nn.BatchNorm2d(2 * channels)] if norm else []),
            nn.LeakyReLU(_LEAK),
        ]
        channels *= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (shape[1] >> times) * (shape[2] >> times), out))


def _initialise(part: nn.Module) -> None:
    """DCGAN's initial weights for whatever has batch normalisation beside it; torch's own for plain dense layers."""
    if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, Maxout)):
        weights = part.linear if isinstance(part, Maxout) else part
        nn.init.normal_(weights.weight, 0, _SPREAD)
    elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(part.weight, 1, _SPREAD)
