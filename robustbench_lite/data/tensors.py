"""A dataset of the caller's own tensors or arrays."""

import numpy as np
from torch import Tensor

from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.data.checks import check_labels, check_pixels, class_count
from robustbench_lite.data.values import check_values, odd_scale, told, values_of
from robustbench_lite.errors import UserError, cause_of, cut

#: more channels than this are no channels, where the last axis could be them
_CHANNELS = 4


def from_tensors(
    x: Tensor | np.ndarray, y: Tensor | np.ndarray, *, num_classes: int | None = None, name: str = "tensors"
) -> Dataset:
    """A dataset of x (n, c, h, w), uint8 or float in [0, 1], and y (n,) whole numbers; float32 x is not copied.

    The range of the pixels is in its provenance; it is told only where it is odd, since the caller has the pixels at hand.

    Raises:
        UserError: another shape, type or range, pixels of another scale than their type says, or labels that are not classes.
    """
    pixels, labels = _array(x, "x"), _array(y, "y")
    if num_classes is not None and not isinstance(num_classes, (int, np.integer)):
        raise UserError(f"num_classes={cut(repr(num_classes))}; accepted: a whole number from 2")
    if pixels.ndim != 4 or (pixels.shape[1] > _CHANNELS and pixels.shape[3] in (1, 3)):
        raise UserError(f"x has shape {pixels.shape}; accepted: (n, channels, height, width){_cure(pixels.ndim)}")
    pixels = check_pixels(pixels, name)
    values = values_of(pixels)
    check_values(values, name, floats=pixels.dtype != np.uint8, option=False)
    labels = check_labels(labels, len(pixels), name, num_classes)
    images = ArrayImages(pixels)
    count = class_count(num_classes, labels, name)
    return Dataset(
        name=name,
        images=images,
        labels=labels,
        num_classes=count,
        shape=images.shape,
        provenance={"levels": values.facts()},
        notes=(told(name, len(images), images.shape, values, option=False),) if odd_scale(values) else (),
    )


def _cure(dimensions: int) -> str:
    return {3: "; give x[:, None]", 4: "; give x.transpose(0, 3, 1, 2), or x.permute of a tensor"}.get(dimensions, "")


def _array(values: Tensor | np.ndarray, what: str) -> np.ndarray:
    """As an array.

    Raises:
        UserError: lists of different lengths, and sparse, quantized and meta tensors.
    """
    try:
        if not isinstance(values, Tensor):
            return np.asarray(values)
        values = values.detach().cpu()
        wide = values.is_floating_point() and values.dtype.itemsize == 2  # numpy has no bfloat16
        return (values.float() if wide else values).numpy()
    except (TypeError, ValueError, RuntimeError) as error:  # NotImplementedError is the last
        raise UserError(f"{what} cannot be read as an array of numbers: {cause_of(error)}") from error
