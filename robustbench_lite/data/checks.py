"""What every source of images and labels is held to before anything is computed from it."""

import numpy as np

from robustbench_lite.errors import UserError

#: what float arithmetic may leave outside [0, 1] and is cut off; more is another range
DUST = 1e-6


def check_labels(y: np.ndarray, count: int, what: str, classes: int | None = None) -> np.ndarray:
    """Labels as (n,) int64.

    Raises:
        UserError: not whole numbers, negative, another number of them than images, or beyond `classes`.
    """
    if y.dtype.kind not in "iu":
        raise UserError(f"{what}: the labels are {y.dtype}; accepted: whole numbers from 0")
    if y.shape != (count,):
        raise UserError(f"{what}: the labels have shape {y.shape}; accepted: ({count},), one for each image")
    if y.size and int(y.min()) < 0:
        raise UserError(f"{what}: a label is {int(y.min())}; accepted: 0 and more")
    if classes is not None and y.size and int(y.max()) >= classes:
        raise UserError(f"{what}: labels reach {int(y.max())} but there are {classes} classes")
    return y.astype(np.int64)


def check_pixels(x: np.ndarray, what: str) -> np.ndarray:
    """Pixels as uint8 or float32 in [0, 1].

    Raises:
        UserError: no images, another type, NaN, or values outside the range.
    """
    if x.size == 0:
        raise UserError(f"{what}: there are no images (shape {x.shape})")
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        raise UserError(f"{what}: the images are {x.dtype}; accepted: uint8 from 0 to 255, or float in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if low != low or high != high:
        raise UserError(f"{what}: the images contain NaN; accepted: uint8, or float in [0, 1]")
    if low < -DUST or high > 1 + DUST:
        hint = "; divide by 255 or store uint8" if 1 < high <= 255 and low >= 0 else ""
        raise UserError(f"{what}: the images range from {low:g} to {high:g}; accepted: uint8, or float in [0, 1]{hint}")
    x = x.astype(np.float32, copy=False)
    return x if low >= 0 and high <= 1 else x.clip(0, 1)


def class_count(classes: int | None, labels: np.ndarray, what: str) -> int:
    """The number of classes: as said, else what the labels reach.

    Raises:
        UserError: fewer than two.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    if classes is not None and classes < 2:
        raise UserError(f"{what}: classes={classes}; accepted: 2 and more")
    return max(count, 2)
