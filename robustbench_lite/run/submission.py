"""Other people's adversarial examples: read from a file, brought into our shape, refused where they mean nothing.

No file can run code: arrays are read without pickles, .pt files with torch's `weights_only`. Read are the layouts that
AutoAttack, torchattacks, foolbox and hand-made scripts save: an array, a table of arrays, (images, labels), lists of batches.
"""

import argparse
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.places import is_dir, is_file, shown
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_file

#: what people call the examples, the positions of their images in the test split, and the labels; the surest name first
SURE = (
    *("x_adv", "adv", "adversarial", "adv_complete", "adv_inputs", "adv_images", "adversarial_images", "adv_examples"),
    *("adversarial_examples", "x_adversarial"),
)
#: names that other images may have too
IMAGES = (*SURE, "x", "images", "arr_0")
INDICES, LABELS = ("indices", "index"), ("y", "labels", "label", "y_true")
_KNOWN = (*IMAGES, *INDICES, *LABELS)
KINDS = (".npz", ".npy", ".pt", ".pth")
#: how much of a file's names a message lists
_SHOWN = 12
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Submission:
    """What a file holds.

    Args:
        images: (n, c, h, w) float32, as they are: values outside [0, 1] are for the verdict to see.
        indices, labels: (n,) int64, or None where the file has none. digest: 16 bytes (hex) over the file.
        part: the name of the array that was taken. kind: the type that it was stored in, such as `float16`.
    """

    images: Tensor
    indices: np.ndarray | None
    labels: np.ndarray | None
    digest: str
    part: str = ""
    kind: str = "float32"


def read(path: Path, shape: Shape) -> Submission:
    """Read a submission of images of this shape (c, h, w).

    Raises:
        UserError: no such file, a damaged one, a pickle, or arrays of another shape or type.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{shown(path)!r} is no file of examples; accepted: {', '.join(KINDS)}")
    if not is_file(path):
        name = repr(shown(path))
        raise UserError(f"{name} is a folder; accepted: a file" if is_dir(path) else f"there is no file {name}")
    held, names = _torch_file(path, shape) if path.suffix.lower() in (".pt", ".pth") else _numpy_file(path)
    name = _examples(held, names, shape, path)
    images = _pixels(_nchw(held[name], shape, f"{path}: {name}"), f"{path}: {name}")
    numbers = {key: held[key] for key in (*INDICES, *LABELS) if key in held}
    for key, array in numbers.items():
        _check_numbers(array, len(images), f"{path}: {key}")
    return Submission(
        images=images,
        indices=next((numbers[key].astype(np.int64) for key in INDICES if key in numbers), None),
        labels=next((numbers[key].astype(np.int64) for key in LABELS if key in numbers), None),
        digest=hash_file(path),
        part=name,
        kind=str(held[name].dtype),
    )


Arrays = dict[str, np.ndarray]
#: the arrays of a file by name, and the names of all that is in it
Held = tuple[Arrays, list[str]]


def _examples(held: Arrays, names: Sequence[str], shape: Shape, path: Path) -> str:
    """The name of the array that holds the examples: one that is sure, else the only one that could."""
    sure = next((key for key in SURE if key in held), None)
    if sure is not None:
        return sure
    fitting = [key for key, array in held.items() if key in IMAGES or (key not in _KNOWN and _fits(array, shape))]
    if len(fitting) == 1:
        return fitting[0]
    has = _listed(names) or "nothing"
    if fitting:
        raise UserError(f"{str(path)!r} holds several arrays of images: {_listed(fitting)}; call the examples x_adv")
    raise UserError(f"{str(path)!r} holds no examples; accepted: an array {', '.join(IMAGES[:6])}, …; it has {has}")


def _fits(array: np.ndarray, shape: Shape) -> bool:
    c, h, w = shape
    return array.ndim == 4 and array.shape[1:] in (shape, (h, w, c)) and array.dtype.kind in "fu"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown


def _numpy_file(path: Path) -> Held:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {IMAGES[0]: content}, []
        with content:
            return _arrays(content), content.files
    except Exception as error:  # zip, zlib and numpy's header parser each fail in their own way on damaged bytes
        if "pickle" in str(error).lower():
            why = "contains Python objects (a pickle), which could run code; accepted: arrays of numbers"
            raise UserError(f"{str(path)!r} {why}") from error
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{str(path)!r} is damaged or no such file ({type(error).__name__}: {why})") from error


def _arrays(content: Any) -> Arrays:
    """The arrays of an .npz that may be meant: all of them only where none has a name that is sure."""
    sure = any(key in SURE for key in content.files)
    found: Arrays = {}
    for key in content.files:
        if key in _KNOWN:
            found[key] = np.asarray(content[key])  # what is no array in such a file comes as bytes
        elif not sure:
            with suppress(ValueError):  # Python objects, which nobody asks for
                found[key] = np.asarray(content[key])
    return found


def _torch_file(path: Path, shape: Shape) -> Held:
    try:
        with _plain_globals(), warnings.catch_warnings(action="ignore"):  # what it warns of, it refuses as well
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch's reader fail in many ways on damaged bytes
        refused = _refused(error)
        what = f"holds a {refused}, which could run code" if refused else "is damaged or holds more than tensors"
        raise UserError(
            f"{str(path)!r} {what}, and was not loaded; accepted: tensors, and tables and lists of them"
        ) from error
    try:
        return _opened(content, shape, path)
    except RecursionError as error:
        raise UserError(f"{str(path)!r} holds tables or lists in each other without end") from error
    except (TypeError, RuntimeError, ValueError) as error:  # sparse, quantised, without storage, of different shapes
        why = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(f"{str(path)!r} holds tensors that are no plain arrays: {why}") from error


@contextmanager
def _plain_globals() -> Iterator[None]:
    """What such files hold besides tensors and runs no code: the options of a script, numpy's arrays and numbers."""
    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    types = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8", "b1")]
    known = [argparse.Namespace, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *types]
    with torch.serialization.safe_globals(known):
        yield


def _refused(error: Exception) -> str:
    """The type that torch's reader did not load, where it says one."""
    text = str(error)
    for mark in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if mark in text:
            return text.partition(mark)[2].split()[0].rstrip(".,")[:80]
    return ""


def _opened(content: Any, shape: Shape, path: Path) -> Held:
    """The arrays in what torch has read, by name."""
    if isinstance(content, Mapping):
        named = {str(key): value for key, value in content.items()}
        inner = [value for value in named.values() if isinstance(value, Mapping)]
        if len(named) == 1 and inner:
            return _opened(inner[0], shape, path)
        arrays = {key: found for key, value in named.items() if (found := _array_of(value, shape)) is not None}
        return arrays, list(named)
    if isinstance(content, (list, tuple)):
        pair = _pair(content, shape)
        if pair is not None:
            return pair, []
    found = _array_of(content, shape)
    if found is None:
        raise UserError(
            f"{str(path)!r} holds a {_type(content)}; accepted: a tensor, a table of tensors, (images, labels), or a list of"
            " images or batches"
        )
    return {IMAGES[0]: found}, []


def _type(content: Any) -> str:
    inner = f" of {type(content[0]).__name__}" if isinstance(content, (list, tuple)) and len(content) else ""
    return f"{type(content).__name__}{inner}"


def _pair(content: Sequence[Any], shape: Shape) -> Arrays | None:
    """(images, labels), or a list of such pairs, one a batch."""
    if len(content) == 2 and (labels := _labels(content[1])) is not None:
        images = _array_of(content[0], shape)
        if images is not None and len(images) == len(labels):
            return {IMAGES[0]: images, LABELS[0]: labels}
    if not content or not all(isinstance(part, (list, tuple)) and len(part) == 2 for part in content):
        return None
    parts = [_pair(part, shape) for part in content]
    held = [part for part in parts if part is not None]
    if len(held) < len(parts):
        return None
    return {name: np.concatenate([part[name] for part in held]) for name in (IMAGES[0], LABELS[0])}


def _labels(value: Any) -> np.ndarray | None:
    array = _array_of(value, None)
    return array if array is not None and array.ndim == 1 and array.dtype.kind in "iu" else None


def _array_of(value: Any, shape: Shape | None) -> np.ndarray | None:
    """A tensor, an array, or a list of images or batches as one array; None where it is none of these."""
    if isinstance(value, Tensor):
        return _array(value)
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, (Tensor, np.ndarray)) for part in value):
        parts = [_array_of(part, None) for part in value]
        arrays = [part for part in parts if part is not None]
        if len({part.ndim for part in arrays}) > 1:
            return None
        single = shape is not None and arrays[0].shape in (shape, (*shape[1:], shape[0]))
        return np.stack(arrays) if single or arrays[0].ndim == 0 else np.concatenate(arrays)
    if isinstance(value, (list, tuple)) and value and all(type(part) is int for part in value):
        return np.asarray(value)
    return None


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    wide = tensor.dtype in (torch.bfloat16,)  # numpy has no such type
    return (tensor.float() if wide else tensor).numpy()


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
        raise UserError(f"{what} has shape {array.shape}; accepted: {likes}{_shape_hint(array.shape, shape)}")
    if not len(array):
        raise UserError(f"{what} holds no image")
    return array


def _shape_hint(given: tuple[int, ...], shape: Shape) -> str:
    """Which likely mistake a shape is."""
    c, h, w = shape
    if given in (shape, (h, w, c)):
        return "; it is one image: add an axis, x_adv[None]"
    if len(given) == 5 and given[2:] in (shape, (h, w, c)):
        return "; it is batches: x_adv.reshape(-1, *x_adv.shape[2:])"
    if len(given) == 4 and given[1:] == (c, w, h) and h != w:
        return "; height and width are exchanged: x_adv.transpose(0, 1, 3, 2)"
    if len(given) == 4 and {given[1], given[3]} & {1, 3} and c not in (given[1], given[3]):
        return f"; the images of the data have {'one channel' if c == 1 else f'{c} channels'}"
    return ""


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
        white = "255" if 16 < top <= 255.5 else "what white is in it"
        raise UserError(f"{what} ranges up to {top:g}; accepted: float in [0, 1], or uint8; divide it by {white}")
    return images


def _check_numbers(array: np.ndarray, count: int, what: str) -> None:
    if array.dtype.kind not in "iu":
        cure = "; of flags the indices are np.flatnonzero(flags)" if array.dtype == bool else ""
        raise UserError(f"{what} is {array.dtype}; accepted: whole numbers{cure}")
    if array.shape != (count,):
        raise UserError(f"{what} has shape {array.shape}; accepted: ({count},), one for each image")
