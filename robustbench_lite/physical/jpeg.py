"""JPEG in whole numbers, for a batch with one quality a row: bit for bit what libjpeg makes of it by default.

Baseline JPEG (ITU-T T.81), colour at half resolution (4:2:0), the accurate integer transform, and the smooth enlargement
of the colour; the entropy coding loses nothing and is left out. All numbers are whole and exact in float64, so the order
of a sum cannot matter. Its gradient is taken to be that of doing nothing (BPDA).
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.system import straight_through

# T.81, annex K.1, tables K.1 and K.2
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32),
)
#: sines and cosines of the transform (Loeffler, Ligtenberg and Moschytz 1989) in units of 2**-13
_FINE, _KEPT = 13, 2


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """x (n, c, h, w) in [0, 1] as it comes back from a file of this quality (n,), 1 to 100; on 256 levels.

    Three channels are a colour; any other number of them are so many grey images.
    """
    with torch.no_grad():
        shown = (x.detach().double() * 255).round()
        back = _coloured(shown, quality) if x.shape[1] == 3 else _grey(shown, quality)
        hard = (back.float() / 255).to(x.dtype)
    return straight_through(hard, x)


def tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """The quantisation tables of brightness and colour, (n, 8, 8) float64 each, as libjpeg scales them."""
    quality = quality.round().clamp(1, 100).double()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    found = (torch.tensor(table, dtype=torch.float64, device=quality.device) for table in (_LUMINANCE, _CHROMINANCE))
    first, second = (((t * percent[:, None] + 50) / 100).floor().clamp(1, 255).view(-1, 8, 8) for t in found)
    return first, second


def _grey(x: Tensor, quality: Tensor) -> Tensor:
    return _coded(x, tables(quality)[0])[..., : x.shape[2], : x.shape[3]]


def _coloured(x: Tensor, quality: Tensor) -> Tensor:
    height, width = x.shape[2:]
    bright, tone = tables(quality)
    red, green, blue = x.unbind(1)
    y = _shift(19595 * red + 38470 * green + 7471 * blue, 16)
    cb = ((-11059 * red - 21709 * green + 32768 * blue + (128 << 16) + 32767) / 65536).floor()
    cr = ((32768 * red - 27439 * green - 5329 * blue + (128 << 16) + 32767) / 65536).floor()
    y = _coded(y[:, None], bright)[:, 0, :height, :width]
    half = _coded(_halved(torch.stack((cb, cr), 1)), tone)[..., : -(-height // 2), : -(-width // 2)]
    cb, cr = (_doubled(half)[..., :height, :width] - 128).unbind(1)
    red = y + _shift(91881 * cr, 16)
    green = y + _shift(-22554 * cb - 46802 * cr, 16)
    blue = y + _shift(116130 * cb, 16)
    return torch.stack((red, green, blue), 1).clamp(0, 255)


def _coded(x: Tensor, table: Tensor) -> Tensor:
    """Planes (n, c, h, w) after the transform, rounding by the tables (n, 8, 8) and the way back, in whole blocks."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate") - 128
    n, c, h, w = x.shape
    blocks = x.view(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    turn, q = _matrix(x.device), table[:, None, None, None] * 8
    rows = _shift(blocks @ turn.T, _FINE - _KEPT)
    found = _shift(turn @ rows, _FINE + _KEPT)
    kept = ((found.abs() + (q / 2).floor()) / q).floor() * found.sign() * (q / 8)
    columns = _shift(turn.T @ kept, _FINE - _KEPT)
    blocks = (_shift(columns @ turn, _FINE + _KEPT + 3) + 128).clamp(0, 255)
    return blocks.transpose(3, 4).reshape(n, c, h, w)


def _halved(x: Tensor) -> Tensor:
    """Half the resolution: means of 2 x 2, halves rounded down and up in turn; filled up to whole blocks."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 16, 0, height % 2), mode="replicate")
    total = x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]
    bias = 1 + torch.arange(total.shape[3], device=x.device) % 2
    return ((total + bias) / 4).floor()


def _doubled(x: Tensor) -> Tensor:
    """Twice the resolution: three quarters of the nearest pixel and one of the next, along both sides.

    A picture of one or two columns is repeated instead, as libjpeg does.
    """
    if x.shape[3] <= 2:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    near = F.pad(x, (0, 0, 1, 1), mode="replicate")
    rows = torch.stack((3 * x + near[:, :, :-2], 3 * x + near[:, :, 2:]), 3).flatten(2, 3)
    side = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    left, right = 3 * rows + side[..., :-2] + 8, 3 * rows + side[..., 2:] + 7
    return (torch.stack((left, right), 4).flatten(3, 4) / 16).floor()


def _shift(x: Tensor, bits: int) -> Tensor:
    """Divide by 2**bits and round, halves up."""
    return ((x + (1 << (bits - 1))) / (1 << bits)).floor()


def _matrix(device: torch.device) -> Tensor:
    return torch.from_numpy(_transform()).to(device)


@lru_cache(maxsize=1)
def _transform() -> np.ndarray:
    """The transform of eight numbers as a matrix (8, 8) of whole numbers: what the quick network of sums amounts to."""
    d = np.eye(8)
    outer, inner = d[:4] + d[:3:-1], d[:4] - d[:3:-1]
    found = np.zeros((8, 8))
    found[0], found[4] = (outer.sum(0)) * 8192, (outer[0] - outer[1] - outer[2] + outer[3]) * 8192
    first, second = outer[0] - outer[3], outer[1] - outer[2]
    found[2], found[6] = 4433 * (first + second) + 6270 * first, 4433 * (first + second) - 15137 * second
    a, b, c, e = inner[3], inner[2], inner[1], inner[0]
    both = 9633 * (a + c + b + e)
    one, two = -7373 * (a + e), -20995 * (b + c)
    three, four = both - 16069 * (a + c), both - 3196 * (b + e)
    found[7], found[5] = 2446 * a + one + three, 16819 * b + two + four
    found[3], found[1] = 25172 * c + two + three, 12299 * e + one + four
    return found
