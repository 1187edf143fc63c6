"""What every source of images and labels is held to before anything is computed from it."""

import numpy as np

from robustbench_lite.errors import UserError

#: what float arithmetic may leave outside [0, 1] and is cut off; more is another range
DUST = 1e-6
#: labels reach no further; ImageNet's largest set has 21,843 classes
MOST_CLASSES = 1_000_000
_NUMBER = "; number the classes, such as np.unique(y, return_inverse=True)[1]"
#: how far resizing with bicubic or Lanczos interpolation goes beyond [0, 1]
_OVERSHOOT = 0.2


def check_labels(y: np.ndarray, count: int, what: str, classes: int | None = None) -> np.ndarray:
    """Labels as (n,) int64.

    Raises:
        UserError: not whole numbers, negative, another number of them than images, or beyond `classes`.
    """
    if y.dtype.kind not in "iu":
        raise UserError(f"{what}: the labels are {y.dtype}; accepted: whole numbers from 0{_cure(y)}")
    if y.shape != (count,):
        columns = "; give y.ravel()" if y.ndim == 2 and y.shape in ((count, 1), (1, count)) else ""
        columns = "; give y.argmax(1)" if _one_hot(y) else columns
        raise UserError(f"{what}: the labels have shape {y.shape}; accepted: ({count},), one for each image{columns}")
    if y.size and int(y.min()) < 0:
        raise UserError(f"{what}: a label is {int(y.min())}; accepted: 0 and more")
    if y.size and int(y.max()) >= MOST_CLASSES:
        raise UserError(f"{what}: labels reach {int(y.max())}; accepted: below {MOST_CLASSES:,}{_NUMBER}")
    if classes is not None and y.size and int(y.max()) >= classes:
        first = "; the first class is 0" if int(y.max()) == classes and int(y.min()) == 1 else ""
        raise UserError(f"{what}: labels reach {int(y.max())} but there are {classes} classes{first}")
    return y.astype(np.int64)


def _cure(y: np.ndarray) -> str:
    if _one_hot(y):
        return "; give y.argmax(1)"
    if y.dtype.kind == "b":
        return "; save y.astype(int)"
    if y.dtype.kind == "f" and bool(np.isfinite(y).all()) and bool((y == np.round(y)).all()):
        return "; save y.astype(int)"
    if y.dtype.kind in "US" and bool(np.char.isdigit(y).all()):  # as texts, 10 would come before 2
        return "; save y.astype(int)"
    return _NUMBER if y.dtype.kind in "US" else ""


def _one_hot(y: np.ndarray) -> bool:
    """Whether every row has one 1 and zeros."""
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind not in "iufb":
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def check_pixels(x: np.ndarray, what: str, *, scale: float | None = None, option: bool = False) -> np.ndarray:
    """Pixels as uint8 or float32 in [0, 1].

    Args:
        scale: the stored level that is white, by which they are divided; None: 255 of uint8, 1 of float. option: the user
            can say it, as `;scale=`.

    Raises:
        UserError: no images, another type, NaN, or values outside the range.
    """
    if x.size == 0:
        raise UserError(f"{what}: there are no images (shape {x.shape})")
    if x.dtype == np.uint8 and scale in (None, 255):
        return x
    if x.dtype.kind not in ("f" if scale is None else "fiub"):
        hint = _type_hint(x, option)
        raise UserError(f"{what}: the images are {x.dtype}; accepted: uint8 from 0 to 255, or float in [0, 1]{hint}")
    low, high = float(x.min()), float(x.max())
    if low != low or high != high:
        raise UserError(f"{what}: the images contain NaN; accepted: uint8, or float in [0, 1]")
    white = 1.0 if scale is None else scale
    if low < -DUST * white or high > white * (1 + DUST):
        raise UserError(f"{what}: the images range from {low:g} to {high:g}; {_range_hint(low, high, scale, option)}")
    x = x.astype(np.float32, copy=False)
    x = x if white == 1 else x / np.float32(white)
    return x if low >= 0 and float(x.max()) <= 1 else x.clip(0, 1)


def _type_hint(x: np.ndarray, option: bool) -> str:
    if x.dtype == np.int8 and x.min() < 0:
        return "; give x.view(numpy.uint8) if they were uint8"
    if x.dtype.kind not in "iub" or x.min() < 0:
        return ""
    white = 1 if x.dtype.kind == "b" else usual_white(float(x.max()))
    return f"; say ;scale={white:g} if that is white" if option else f"; give x / {white:g}, as float, if that is white"


def _range_hint(low: float, high: float, scale: float | None, option: bool) -> str:
    if scale is not None:
        return f";scale={scale:g} says that white is {scale:g}"
    accepted = "accepted: uint8, or float in [0, 1]"
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return f"{accepted}; if a resizing went beyond it, give x.clip(0, 1)"
    if low >= 0 and 1 < high < float("inf"):
        cure = "divide by 255 or store uint8" if high <= 255 else "divide by what is white"
        return f"{accepted}; {cure}{f', or say ;scale={usual_white(high):g}' if option else ''}"
    if low < 0 and max(-low, high) < 10:
        return f"{accepted}; if they are normalised, give x * std + mean, and normalise inside the model"
    return accepted


def usual_white(high: float) -> float:
    """What is white where the largest value is this: the next usual one."""
    return next((white for white in (1, 16, 100, 255, 1023, 4095, 16383, 65535) if high <= white), high)


def class_count(classes: int | None, labels: np.ndarray, what: str) -> int:
    """The number of classes: as said, else what the labels reach.

    Raises:
        UserError: fewer than two.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    if classes is not None and classes < 2:
        raise UserError(f"{what}: classes={classes}; accepted: 2 and more")
    return max(count, 2)
