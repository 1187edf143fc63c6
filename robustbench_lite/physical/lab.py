"""How different two colours look: CIE L*a*b* of sRGB, differentiable and free of NaN."""

import torch
from torch import Tensor

from robustbench_lite.norms.rowwise import row_sum

_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)  # D65
_BEND, _SLOPE = (6 / 29) ** 3, 3 * (6 / 29) ** 2


def lab(x: Tensor) -> Tensor:
    """sRGB in [0, 1], (n, 3, h, w), as L, a, b; one channel is taken as grey."""
    red, green, blue = _linear(x.double().expand(-1, 3, -1, -1)).unbind(1)
    fx, fy, fz = (
        _bent((row[0] * red + row[1] * green + row[2] * blue) / white) for row, white in zip(_XYZ, _WHITE, strict=True)
    )
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), 1)


def difference(one: Tensor, other: Tensor) -> Tensor:
    """The mean over pixels of the distance in L*a*b* (delta E 1976), (n,) float64; about 2 is what an eye can see."""
    apart = (lab(one) - lab(other)) ** 2
    return row_sum((apart.sum(1) + 1e-12).sqrt()) / apart[0, 0].numel()


def _linear(c: Tensor) -> Tensor:
    return torch.where(c <= 0.04045, c / 12.92, ((c.clamp(min=1e-6) + 0.055) / 1.055) ** 2.4)


def _bent(t: Tensor) -> Tensor:
    return torch.where(t > _BEND, t.clamp(min=1e-6) ** (1 / 3), t / _SLOPE + 4 / 29)
