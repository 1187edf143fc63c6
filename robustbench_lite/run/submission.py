"""Other people's adversarial examples: read from a file, brought into our shape, refused where they mean nothing.

No file can run code: arrays are read without pickles, .pt files with torch's `weights_only`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_file

#: what people call the examples, the positions of their images in the test split, and the labels
IMAGES = ("x_adv", "adv", "adversarial", "x", "images", "arr_0")
INDICES, LABELS = ("indices", "index"), ("y", "labels")
_KNOWN = (*IMAGES, *INDICES, *LABELS)
KINDS = (".npz", ".npy", ".pt", ".pth")
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Submission:
    """What a file holds.

    Args:
        images: (n, c, h, w) float32, as they are: values outside [0, 1] are for the verdict to see.
        indices, labels: (n,) int64, or None where the file has none. digest: 16 bytes (hex) over the file.
    """

    images: Tensor
    indices: np.ndarray | None
    labels: np.ndarray | None
    digest: str


def read(path: Path, shape: Shape) -> Submission:
    """Read a submission of images of this shape (c, h, w).

    Raises:
        UserError: no such file, a damaged one, a pickle, or arrays of another shape or type.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{str(path)!r} is no file of examples; accepted: {', '.join(KINDS)}")
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    arrays, names = _torch_file(path) if path.suffix.lower() in (".pt", ".pth") else _numpy_file(path)
    name = next((key for key in IMAGES if key in arrays), None)
    if name is None:
        has = ", ".join(names) or "nothing"
        raise UserError(f"{str(path)!r} holds no examples; accepted: an array {', '.join(IMAGES[:5])}; it has {has}")
    images = _pixels(_nchw(arrays[name], shape, f"{path}: {name}"), f"{path}: {name}")
    numbers = {key: arrays[key] for key in (*INDICES, *LABELS) if key in arrays}
    for key, array in numbers.items():
        _check_numbers(array, len(images), f"{path}: {key}")
    return Submission(
        images=images,
        indices=next((numbers[key].astype(np.int64) for key in INDICES if key in numbers), None),
        labels=next((numbers[key].astype(np.int64) for key in LABELS if key in numbers), None),
        digest=hash_file(path),
    )


Held = tuple[dict[str, np.ndarray], list[str]]


def _numpy_file(path: Path) -> Held:
    """The arrays that we know by name, and the names of all."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {IMAGES[0]: content}, []
        with content:
            # what is no array in such a file comes as bytes
            return {key: np.asarray(content[key]) for key in _KNOWN if key in content.files}, content.files
    except Exception as error:  # zip, zlib and numpy's header parser each fail in their own way on damaged bytes
        if "pickle" in str(error).lower():
            why = "contains Python objects (a pickle), which could run code; accepted: arrays of numbers"
            raise UserError(f"{str(path)!r} {why}") from error
        raise UserError(f"{str(path)!r} is damaged or no such file ({type(error).__name__}: {error})") from error


def _torch_file(path: Path) -> Held:
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of, it refuses as well
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch's reader fail in many ways on damaged bytes
        raise UserError(f"{str(path)!r} is damaged or holds more than tensors, and was not loaded") from error
    if isinstance(content, Tensor):
        content = {IMAGES[0]: content}
    if not isinstance(content, Mapping):
        raise UserError(f"{str(path)!r} holds a {type(content).__name__}; accepted: a tensor, or a table of tensors")
    found = {key: content[key] for key in _KNOWN if isinstance(content.get(key), Tensor)}
    try:
        return {key: _array(tensor) for key, tensor in found.items()}, [str(key) for key in content]
    except (TypeError, RuntimeError) as error:  # sparse, quantised, without storage
        raise UserError(f"{str(path)!r} holds tensors that are no plain arrays: {error}") from error


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _nchw(array: np.ndarray, shape: Shape, what: str) -> np.ndarray:
    """As (n, c, h, w); where a shape could be both, channels come first."""
    channels, height, width = shape
    accepted = {shape: None, (height, width, channels): (0, 3, 1, 2)}
    if array.ndim == 4 and array.shape[1:] in accepted:
        axes = accepted[array.shape[1:]]
        array = array if axes is None else array.transpose(axes)
    elif channels == 1 and array.shape[1:] in ((height, width), (height * width,)):
        array = array.reshape(len(array), *shape)
    else:
        likes = f"(n, {channels}, {height}, {width}) or (n, {height}, {width}, {channels})"
        raise UserError(f"{what} has shape {array.shape}; accepted: {likes}")
    if not len(array):
        raise UserError(f"{what} holds no image")
    return array


def _pixels(array: np.ndarray, what: str) -> Tensor:
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array)).float() / 255
    if array.dtype.kind != "f":
        raise UserError(f"{what} is {array.dtype}; accepted: uint8 from 0 to 255, or float in [0, 1]")
    with np.errstate(over="ignore"):  # beyond float32 is not finite, and the verdict says so
        images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    low, high = images.flatten(1).amin(1), images.flatten(1).amax(1)
    if bool((low >= 0).all()) and bool(((high > 2) & (high <= 255)).all()):
        top = float(high.max())
        raise UserError(f"{what} ranges up to {top:g}; accepted: float in [0, 1], or uint8; divide it by 255")
    return images


def _check_numbers(array: np.ndarray, count: int, what: str) -> None:
    if array.dtype.kind not in "iu":
        raise UserError(f"{what} is {array.dtype}; accepted: whole numbers")
    if array.shape != (count,):
        raise UserError(f"{what} has shape {array.shape}; accepted: ({count},), one for each image")
