"""A dataset of the caller's own tensors or arrays."""

import numpy as np
from torch import Tensor

from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.data.checks import check_labels, check_pixels, class_count
from robustbench_lite.data.values import check_values, told, values_of
from robustbench_lite.errors import UserError

#: more channels than this are no channels, where the last axis could be them
_CHANNELS = 4


def from_tensors(
    x: Tensor | np.ndarray, y: Tensor | np.ndarray, *, num_classes: int | None = None, name: str = "tensors"
) -> Dataset:
    """A dataset of x (n, c, h, w), uint8 or float in [0, 1], and y (n,) whole numbers; float32 x is not copied.

    Raises:
        UserError: another shape, type or range, pixels of another scale than their type says, or labels that are not classes.
    """
    pixels, labels = _array(x), _array(y)
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
        notes=(told(name, len(images), images.shape, values, option=False),),
    )


def _cure(dimensions: int) -> str:
    return {3: "; give x[:, None]", 4: "; give x.transpose(0, 3, 1, 2), or x.permute of a tensor"}.get(dimensions, "")


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    wide = values.is_floating_point() and values.dtype.itemsize == 2  # numpy has no bfloat16
    return (values.float() if wide else values).numpy()
