"""What some images of a folder tell before any is used: their range, and that nearly nothing is on them."""

from dataclasses import replace

import numpy as np

from robustbench_lite.data.checks import usual_white
from robustbench_lite.data.files import FileImages
from robustbench_lite.data.values import FEW_LEVELS, Values, check_values, odd_scale, values_of
from robustbench_lite.errors import UserError

#: images that are decoded to see in what range their pixels are
LOOKED_AT = 16
#: what is white in images of 16 bits
_DEEP_WHITE = 65535
_NO_ALPHA = "say ;background=none to drop the alpha channel, or another background to show what is in it, or "


def look(images: FileImages, scale: float | None, what: str) -> Values:
    """The range of some images, evenly spread over all.

    Raises:
        UserError: it is another one than the files' type says, or nothing is on the images.
    """
    places = some(images)
    pixels = images.take(places)
    values = values_of(pixels, 1.0 if scale is not None else None)
    if scale is None:
        _check_deep(images, places, pixels, what)
        alpha = any("alpha" in images.treated.get(images.files[place], ()) for place in places)
        check_values(values, what, floats=False, also=_NO_ALPHA if alpha else "")
    elif values.low == values.high:
        check_values(values, what, floats=True)
    return values


def some(images: FileImages) -> np.ndarray:
    """The positions of the images that are looked at."""
    return np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).round().astype(np.int64))


def in_alpha_alone(images: FileImages) -> str:
    """That images show nothing but the shape of their alpha channel, where any of those looked at does."""
    found = [place for place in some(images) if "alpha" in images.treated.get(images.files[place], ())]
    if not found or images.conversion.background == "none":
        return ""
    bare = replace(images, conversion=replace(images.conversion, background="none")).take(np.array(found))
    flat = bare.reshape(len(bare), bare.shape[1], -1)
    count = int((flat.max(2) == flat.min(2)).all(1).sum())
    if not count:
        return ""
    return (
        f"the picture is in the alpha channel alone in {count} of {len(found)} looked at: its colours come from the"
        " background (;background=black, white)"
    )


def _is_deep(images: FileImages, places: np.ndarray) -> np.ndarray:
    """Which of these images have 16 bits, (m,) bool."""
    return np.array(["16 bits" in images.treated.get(images.files[place], ()) for place in places])


def _deep_top(images: FileImages, places: np.ndarray) -> int:
    """The largest level of these images of 16 bits, as it is stored."""
    whole = replace(images, conversion=replace(images.conversion, scale=_DEEP_WHITE))
    return round(float(whole.take(places).max()) * _DEEP_WHITE)


def _check_deep(images: FileImages, places: np.ndarray, pixels: np.ndarray, what: str) -> None:
    """Of 16 bits the levels are told as they are stored: 4095 where twelve are used.

    Raises:
        UserError: they are far below 65535 in all images of 16 bits.
    """
    deep = _is_deep(images, places)
    if not deep.any() or pixels[deep].max() > FEW_LEVELS:
        return
    top = _deep_top(images, places[deep])
    if not deep.all():
        raise UserError(
            f"{what}: {images.files[places[deep][0]].name} has 16 bits, where white is {_DEEP_WHITE}, but the largest level of"
            f" such images is {top}, and others have 8 bits; save all with 8 bits, where white is 255"
        )
    raise UserError(
        f"{what}: the images have 16 bits, where white is {_DEEP_WHITE}, but their largest level is {top}; say"
        f" ;scale={usual_white(top):g} if that is white, or ;scale={_DEEP_WHITE} if the images are so dark"
    )


def dark(images: FileImages) -> str:
    """That some images are nearly black and others are not, such as masks of 0 and 1 among photos."""
    if images.conversion.scale is not None:
        return ""
    pixels = images.take(some(images))
    flat = pixels.reshape(len(pixels), -1)
    tops = flat.max(1)
    count = int(((tops <= FEW_LEVELS) & (tops > flat.min(1))).sum())
    if not count or tops.max() <= FEW_LEVELS:
        return ""
    return f"{count} of {len(pixels)} looked at {'has' if count == 1 else 'have'} no level above {FEW_LEVELS}, where white is 255"


def told_scale(images: FileImages, values: Values) -> str:
    """What of the scale is told, of images of 16 bits as it is stored."""
    places = some(images)
    if images.conversion.scale is None and odd_scale(values) and _is_deep(images, places).all():
        return odd_scale(values, white=_DEEP_WHITE, top=usual_white(_deep_top(images, places)))
    return odd_scale(values)
