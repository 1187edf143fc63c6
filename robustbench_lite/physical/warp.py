"""Where each pixel of a photograph comes from: a plane picture before a pinhole camera, for a batch with one pose a row.

Coordinates have their origin in the middle, v points up, and their unit is half of the image's longer side. The places
where the picture is read are computed in float64 and rounded to 2**-16 pixels: so a turn by 0 or 90 degrees reads whole
pixels, bit for bit, and the last bit of a sine (vectorised or not) is gone.
"""

import math

import torch
from torch import Tensor

#: distance of the camera at scale 1, in half sides of the picture: two sides away
DEPTH = 4.0
_FINEST = 2.0**16


def homography(
    rotation: Tensor, yaw: Tensor, pitch: Tensor, scale: Tensor, shift: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """The 3 x 3 map from a place of the photograph back to a place of the picture; every entry (n,) float64.

    The picture is turned in its plane (`rotation`, counter-clockwise), then about its upright axis (`yaw`) and its lying
    one (`pitch`), all in degrees; it is seen from the distance at which it has this `scale`, and the photograph is
    shifted. Turned away it is foreshortened by the cosine, and its nearer side is larger.
    """
    roll, turn, tilt = (angle.double() * (math.pi / 180) for angle in (rotation, yaw, pitch))
    cr, sr, ct, st, cp, sp = roll.cos(), roll.sin(), turn.cos(), turn.sin(), tilt.cos(), tilt.sin()
    # the columns of the rotation matrix that a point of the plane z = 0 meets
    a, b = scale * ct * cr, -scale * ct * sr
    c, d = scale * (cp * sr - sp * st * cr), scale * (cp * cr + sp * st * sr)
    e, f = scale * (sp * sr + cp * st * cr) / DEPTH, scale * (sp * cr - cp * st * sr) / DEPTH
    right, up = shift
    a, b, third = a + right * e, b + right * f, right
    c, d, sixth = c + up * e, d + up * f, up
    # the adjugate of ((a, b, third), (c, d, sixth), (e, f, 1))
    return (
        (d - sixth * f, third * f - b, b * sixth - third * d),
        (sixth * e - c, a - third * e, third * c - a * sixth),
        (c * f - d * e, b * e - a * f, a * d - b * c),
    )


def places(back: tuple[tuple[Tensor, Tensor, Tensor], ...], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column (n, height * width) of the picture that each pixel shows; far outside where there is none."""
    device = back[0][0].device
    half = max(height, width) / 2
    v = (((height - 1) / 2 - torch.arange(height, device=device, dtype=torch.float64)) / half)[:, None]
    u = ((torch.arange(width, device=device, dtype=torch.float64) - (width - 1) / 2) / half)[None, :]
    x, y, w = (one[:, None, None] * u + two[:, None, None] * v + three[:, None, None] for one, two, three in back)
    seen = w > 0
    w = torch.where(seen, w, 1.0)
    columns = torch.where(seen, x / w * half + (width - 1) / 2, -10.0 * width)
    rows = torch.where(seen, (height - 1) / 2 - y / w * half, -10.0 * height)
    return fine(rows).flatten(1), fine(columns).flatten(1)


def read(x: Tensor, at: tuple[Tensor, Tensor], background: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Bilinear values of the picture x (n, c, h, w) at rows and columns (n, h * w); around it lies the background (n, c).

    With `size` the result has so many rows and columns, and as many places are given; else as many as the picture.
    """
    n, c, h, w = x.shape
    framed = _framed(x, background).flatten(2)
    row, column = (place.clamp(-1, side) + 1 for place, side in zip(at, (h, w), strict=True))
    top, left = row.floor().clamp(max=h), column.floor().clamp(max=w)
    down, across = (row - top).to(x.dtype)[:, None], (column - left).to(x.dtype)[:, None]
    first = (top * (w + 2) + left).long()[:, None].expand(-1, c, -1)
    upper = framed.gather(2, first) * (1 - across) + framed.gather(2, first + 1) * across
    first = first + (w + 2)
    lower = framed.gather(2, first) * (1 - across) + framed.gather(2, first + 1) * across
    return (upper * (1 - down) + lower * down).view(n, c, *(size or (h, w)))


def _framed(x: Tensor, background: Tensor) -> Tensor:
    """The picture with one pixel of background around it."""
    empty = torch.nn.functional.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1))
    return torch.nn.functional.pad(x, (1, 1, 1, 1)) + background.to(x.dtype)[:, :, None, None] * (1 - empty)


def fine(place: Tensor) -> Tensor:
    """Rounded to 2**-16."""
    return (place * _FINEST).round() / _FINEST
