"""Walking through a latent space, and arithmetic in it that is measured instead of looked at.

Arithmetic: Radford et al. 2016, arXiv 1511.06434, sec. 6.3.2. Interpolation on the sphere: White 2016, arXiv 1609.04468.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Network
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along

#: images (n, c, h, w) to a number each, (n,)
Attribute = Callable[[Tensor], Tensor]
#: images to classes (n,)
Judge = Callable[[Tensor], Tensor]

_TINY = 1e-8
#: below this angle the sphere is flat
_FLAT = 1e-4
#: samples that a concept needs (Radford: one is unstable, three are enough)
_LEAST = 3


def slerp(one: Tensor, other: Tensor, share: Tensor | float) -> Tensor:
    """The point between two of each row's on the sphere, (n, latent): `one` at share 0, `other` at 1.

    Between points of equal norm all have that norm, as nearly all points of N(0, 1) have; a straight line passes nearer
    to the origin, where the generator has not been. Along parallel or opposite points the line is straight.
    """
    norms = one.norm(dim=1) * other.norm(dim=1)
    angle = ((one * other).sum(1) / norms.clamp(min=_TINY)).clamp(-1, 1).acos()
    sine = angle.sin()
    curved = sine > _FLAT
    safe = torch.where(curved, sine, torch.ones_like(sine))
    share = torch.as_tensor(share, dtype=one.dtype, device=one.device)
    first = torch.where(curved, ((1 - share) * angle).sin() / safe, 1 - share)
    second = torch.where(curved, (share * angle).sin() / safe, share)
    return first[:, None] * one + second[:, None] * other


def interpolate(one: Tensor, other: Tensor, points: int = 9) -> Tensor:
    """Points from `one` to `other` (n, latent) on the sphere, (n, points, latent), both ends included.

    Raises:
        UserError: fewer than two points.
    """
    return torch.stack([slerp(one, other, float(share)) for share in _steps(0, 1, points)], 1)


def traverse(z: Tensor, coordinate: int, *, reach: float = 3.0, points: int = 9) -> Tensor:
    """z (n, latent) with one coordinate going from -reach to reach, (n, points, latent).

    Raises:
        UserError: no such coordinate, or fewer than two points.
    """
    if not 0 <= coordinate < z.shape[1]:
        raise UserError(f"there is no latent coordinate {coordinate}; accepted: 0 to {z.shape[1] - 1}")
    found = z[:, None].repeat(1, points, 1)
    found[:, :, coordinate] = _steps(-reach, reach, points).to(z)
    return found


def direction(z: Tensor, has: Tensor) -> Tensor:
    """mean(z | attribute) - mean(z | not), (latent,).

    Args:
        z: (n, latent). has: (n,) bool.

    Raises:
        UserError: fewer than three samples on one of the sides.
    """
    count = int(has.sum())
    if min(count, len(has) - count) < _LEAST:
        raise UserError(
            f"{count} of {len(has)} samples have the attribute; accepted: {_LEAST} and more that do and do not"
        )
    return z[has].mean(0) - z[~has].mean(0)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What adding a direction does.

    Args:
        change: of the attribute along the direction, in standard deviations of the attribute over the images.
        random: the mean size of the change along random directions of equal norm, in the same unit.
        kept, kept_random: shares of images whose class stays.
    """

    change: float
    random: float
    kept: float
    kept_random: float


@torch.no_grad()
def arithmetic(
    network: Network,
    z: Tensor,
    y: Tensor | None,
    attribute: Attribute,
    judge: Judge,
    draws: Draws,
    *,
    tries: int = 5,
) -> Arithmetic:
    """Find an attribute's direction on every other point, and add it to the others.

    The upper half of the images has the attribute. A direction that means something changes the attribute by more than
    random ones do, and leaves the class.

    Args:
        z: (n, latent), of real images: an encoder's means, or found by inversion. y: (n,) for a conditional network.
        draws: the streams of the n rows, for `tries` random directions a row.

    Raises:
        UserError: fewer than twelve points.
    """
    if len(z) < 4 * _LEAST:
        raise UserError(f"latent arithmetic on {len(z)} points; accepted: {4 * _LEAST} and more")
    images = network.decode(z, y if network.conditional else None)
    values = attribute(images)
    taught, rest = slice(0, None, 2), slice(1, None, 2)
    step = direction(z[taught], _upper_half(values[taught]))
    labels = y[rest] if network.conditional and y is not None else None
    before, classes, unit = values[rest], judge(images[rest]), values.std().clamp(min=_TINY)

    def walk(move: Tensor) -> tuple[Tensor, float]:
        moved = network.decode(z[rest] + move, labels)
        return (attribute(moved) - before) / unit, float((judge(moved) == classes).double().mean())

    changed, kept = walk(step[None])
    lost = []
    for number in range(tries):
        noise = draws[rest].normal((z.shape[1],), "direction", number).to(z)
        lost.append(walk(noise / noise.norm(dim=1, keepdim=True).clamp(min=_TINY) * step.norm()))
    return Arithmetic(
        change=float(changed.mean()),
        random=float(torch.stack([change.abs().mean() for change, _ in lost]).mean()),
        kept=kept,
        kept_random=sum(share for _, share in lost) / tries,
    )


def _upper_half(values: Tensor) -> Tensor:
    has = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    has[values.argsort(stable=True)[len(values) // 2 :]] = True
    return has


def slant(x: Tensor) -> Tensor:
    """How far strokes lean to the right, (n,): the horizontal shift for each row of pixels upwards; from moments."""
    _, _, rows, mixed = _moments(x)
    return -mixed / rows.clamp(min=_TINY)


def width(x: Tensor) -> Tensor:
    """The width of the ink, (n,), in pixels: four standard deviations across, the slant taken out."""
    _, columns, rows, mixed = _moments(x)
    return 4 * (columns - mixed**2 / rows.clamp(min=_TINY)).clamp(min=0).sqrt()


def thickness(x: Tensor) -> Tensor:
    """The thickness of strokes, (n,), in pixels up to a factor of the figure's form: ink over extent."""
    ink, columns, rows, _ = _moments(x)
    return ink / (4 * (columns + rows).clamp(min=_TINY).sqrt())


#: what can be measured in a white figure on black ground
ATTRIBUTES: dict[str, Attribute] = {"thickness": thickness, "slant": slant, "width": width}


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ink, and its variances along columns and rows and their covariance, (n,) each; the mean of the channels."""
    image = x.mean(1)
    height, breadth = image.shape[1:]
    down = torch.arange(height, dtype=x.dtype, device=x.device)[:, None]
    across = torch.arange(breadth, dtype=x.dtype, device=x.device)
    ink = image.sum((1, 2))
    share = image / along(ink.clamp(min=_TINY), image)
    right = across - along((share * across).sum((1, 2)), image)
    below = down - along((share * down).sum((1, 2)), image)
    return ink, (share * right**2).sum((1, 2)), (share * below**2).sum((1, 2)), (share * right * below).sum((1, 2))


def _steps(start: float, stop: float, points: int) -> Tensor:
    if points < 2:
        raise UserError(f"points={points}; accepted: 2 and more")
    return torch.linspace(start, stop, points)
