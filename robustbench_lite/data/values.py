"""The range of stored pixels: told, and refused where it is another scale than the type says.

uint8 with a largest value of 1 or 16, and floats that were divided by 255 twice, are images to a program and nearly black
ones to a network: every number would be about those.
"""

from dataclasses import dataclass

import numpy as np

from robustbench_lite.errors import UserError
from robustbench_lite.specs import fraction_text

#: a largest value up to this is no photo's, however dark: 1 (masks), 15, 16 (digits), 31 (5 bits)
FEW_LEVELS = 31
#: floats up to this, of 1, were divided once more than it needed: 1/255, and digits of 16 levels that were taken for 255
TINY = 16.5 / 255
#: images whose levels, of 255, all lie within so many have nearly no picture: one that is nearly transparent, say
FAINT = 8
#: a largest level of uint8 below this is told as odd
_ODD = 128
#: pixels at least that tell what scale images have; two images of 8 x 8
_FEW = 128
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Values:
    """The range of pixels as they are stored.

    Args:
        white: the level that is 1 in [0, 1]. count: of the pixels.
    """

    low: float
    high: float
    mean: float
    white: float
    count: int

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, mean {self.mean:.3g}"

    def facts(self) -> dict[str, float]:
        """For records."""
        return {"lowest": self.low, "highest": self.high, "mean": round(self.mean, 6), "white": self.white}


def values_of(pixels: np.ndarray, white: float | None = None) -> Values:
    """The range of an array, in blocks so that no second copy of everything is made.

    Args:
        white: the level that is white; None: 255 of uint8, 1 of float.
    """
    total = sum(float(pixels[begin : begin + _BLOCK].sum(dtype=np.float64)) for begin in range(0, len(pixels), _BLOCK))
    return Values(
        low=float(pixels.min()),
        high=float(pixels.max()),
        mean=total / pixels.size,
        white=white or (255.0 if pixels.dtype == np.uint8 else 1.0),
        count=pixels.size,
    )


def check_values(values: Values, what: str, *, floats: bool, option: bool = True, also: str = "") -> None:
    """Refuse images of another scale than their type says, or of one tone; a few pixels tell of none.

    Args:
        also: another cure where nearly all is one tone.
        floats: they are float, so that white is 1; else uint8, so that it is 255. option: the user can say `;scale=`.

    Raises:
        UserError: the largest value is far too small, or all pixels are the same.
    """
    low, high = values.low, values.high
    if values.count < _FEW:
        return
    if low == high:
        if option:  # a caller's own constant tensors may be meant
            raise UserError(f"{what}: every pixel is {high:g}; there is nothing on the images to be classified")
        return
    if high <= TINY if floats else high <= FEW_LEVELS:
        raise UserError(f"{what}: {_trouble(high, floats)}; {_cure(high, floats, option)}")
    if option and (high - low) * (255 if floats else 1) <= FAINT:
        raise UserError(
            f"{what}: every pixel is between {low:g} and {high:g}, where white is {1 if floats else 255}: nearly nothing is on"
            f" the images; {also}say ;scale={1 if floats else 255} if they are so faint"
        )


def _trouble(high: float, floats: bool) -> str:
    if floats:
        twice = (
            "they were divided by 255 twice"
            if 0.3 / 255 <= high <= 1.01 / 255
            else "they were divided by more than their white"
        )
        return f"the images are float, where white is 1, but their largest value is {high:.4g}; probably {twice}"
    kind = "they are masks of 0 and 1, or float images cut to whole numbers" if high <= 1 else f"white is {high:g}"
    return f"the images are uint8, where white is 255, but their largest value is {high:g}; probably {kind}"


def _cure(high: float, floats: bool, option: bool) -> str:
    if option:
        white = fraction_text(round(high * 255) / 255) if floats and round(high * 255) else f"{high:g}"
        usual = "1" if floats else "255"
        return f"say ;scale={white} if that is white, or ;scale={usual} if the images are so dark"
    if floats:
        return f"give x * {1 / (max(1, round(high * 255)) / 255):.4g}"
    return f"give x / {high:g}, as float"


def told(name: str, count: int, shape: tuple[int, int, int], values: Values, *, option: bool = True) -> str:
    """How many images of what shape there are, and in what range, as a sentence."""
    kind = "uint8" if values.white == 255 else "float"
    return f"{name}: {count:,} images {'x'.join(map(str, shape))}, {kind} {values}{odd_scale(values, option=option)}"


def odd_scale(values: Values, *, option: bool = True, white: int = 255, top: float | None = None) -> str:
    """` (white is 255)` where the largest level of uint8 is far from white but could be meant.

    Args:
        white, top: what is white and the largest level, as they are stored, where that is not in 8 bits.
    """
    if not (values.white == 255 and FEW_LEVELS < values.high < _ODD):
        return ""
    high = values.high if top is None else top
    return f" (white is {white}{f'; if it is {high:g}, say ;scale={high:g}' if option else ''})"
