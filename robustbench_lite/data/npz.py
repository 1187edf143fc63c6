"""`npz:FILE`: arrays x and y saved by `numpy.savez`."""

import os
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from robustbench_lite.data.base import ArrayImages, Dataset, Split
from robustbench_lite.data.checks import check_labels, check_pixels, class_count
from robustbench_lite.data.places import is_dir, is_file, shown
from robustbench_lite.data.values import check_values, told, values_of
from robustbench_lite.errors import UserError
from robustbench_lite.specs import parse_source

_HOW = "save it with numpy.savez(FILE, x=images, y=labels)"
Layout = Literal["nchw", "nhwc"]


def load(
    *,
    split: Split,
    path: Path,
    spec: str,
    train: str | None = None,
    classes: int | None = None,
    layout: Layout | None = None,
    scale: float | None = None,
) -> Dataset:
    """A file's images as the test split: arrays x and y that numpy.savez wrote.

    x is (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or float in [0, 1]; y is (n,), whole numbers from 0.

    Args:
        train: another such file, the training split.
        classes: how many there are, if the labels do not reach the last.
        layout: `nchw` or `nhwc`, where the shape does not tell.
        scale: the stored level that is white, such as 16 or 65535; if left out, 255 of uint8 and 1 of float.

    Raises:
        UserError: a missing or damaged file, a pickle, or arrays that are not images and labels.
    """
    files = {"test": path} if train is None else {"test": path, "train": Path(train).expanduser()}
    if split not in files:
        raise UserError(f"{spec} is test data; name what is trained on with ;train=FILE")
    if scale is not None and scale <= 0:
        raise UserError(f"{spec}: scale={scale:g}; accepted: the level that is white, such as 16 or 255")
    labels = {part: _array(file, "y") for part, file in files.items()}
    pixels = {part: _array(file, "x") for part, file in files.items()}
    for part, file in files.items():
        _check_first_axis(pixels[part], labels[part], file)
    counts = [_count(classes, labels[part], pixels[part], file) for part, file in files.items()]
    x = check_pixels(pixels[split], str(files[split]), scale=scale, option=True)
    images = _images(x, layout, files[split])
    values = values_of(x, 1.0 if scale is not None else None)
    if scale is None or values.low == values.high:
        check_values(values, str(files[split]), floats=x.dtype != np.uint8)
    return Dataset(
        name=spec,
        images=images,
        labels=check_labels(labels[split], len(images), str(files[split]), classes),
        num_classes=max(counts),
        shape=images.shape,
        split=split,
        notes=(told(parse_source(spec).name, len(images), images.shape, values),),
        provenance={"images": len(images), "scale": scale, "levels": values.facts()},
    )


def _check_first_axis(x: np.ndarray, y: np.ndarray, path: Path) -> None:
    """Refuse images that the last axis counts, as MATLAB's files have them.

    Raises:
        UserError: the labels are as many as the last axis is long, and not as the first; or they are no images at all.
    """
    if x.ndim not in (3, 4):
        raise UserError(f"{path}: x has shape {x.shape}; accepted: (n, h, w), (n, h, w, c) or (n, c, h, w)")
    if y.shape == x.shape[-1:] != x.shape[:1]:
        raise UserError(
            f"{path}: x has shape {x.shape}, and there are {len(y)} labels: its last axis counts the images; save"
            " x=numpy.moveaxis(x, -1, 0)"
        )


def _count(classes: int | None, y: np.ndarray, x: np.ndarray, path: Path) -> int:
    """The classes that one file tells of; both splits count, since one may lack the last class."""
    if y.size == 0:
        raise UserError(f"{path}: there are no labels (y has shape {y.shape})")
    return class_count(classes, check_labels(y, len(x), str(path), classes), str(path))


def _images(x: np.ndarray, layout: Layout | None, path: Path) -> ArrayImages:
    if x.ndim == 3:
        return ArrayImages(x)
    return ArrayImages(x, (layout or _layout(x, path)) == "nhwc")


def _layout(x: np.ndarray, path: Path) -> Layout:
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        why = "both the second and the last" if first else "neither the second nor the last"
        raise UserError(f"{path}: {why} axis of x {x.shape} could be 1 or 3 channels; say ;layout=nchw or ;layout=nhwc")
    return "nchw" if first else "nhwc"


def _array(path: Path, key: str) -> np.ndarray:
    if not is_file(path):
        raise UserError(
            f"{shown(path)} is a folder; accepted: FILE.npz" if is_dir(path) else f"there is no file {shown(path)}"
        )
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise UserError(f"{path} is one array, not an .npz; {_HOW}")
        with content:
            if key in content.files:
                _check_memory(content.zip, path)
                return np.asarray(content[key])
            if any(name.endswith("/data.pkl") for name in content.files):
                raise UserError(f"{path} is a file of torch.save, not an .npz; {_HOW}")
            has = ", ".join(content.files) or "nothing"
    except UserError:
        raise
    except Exception as error:  # zip, zlib and numpy's header parser each fail in their own way on damaged bytes
        raise UserError(_unreadable(path, error)) from error
    raise UserError(f"{path} has no array {key!r}; it has {has}; {_HOW}")


def _check_memory(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a file that claims to unpack to more than the memory of the machine, before it is unpacked.

    Raises:
        UserError: it does.
    """
    claimed = sum(item.file_size for item in archive.infolist())
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return
    if claimed > memory > 0:
        raise UserError(f"{path} unpacks to {claimed / 2**30:.1f} GiB, and the memory holds {memory / 2**30:.1f} GiB")


def _unreadable(path: Path, error: Exception) -> str:
    if "pickle" in str(error).lower():
        return f"{path} contains Python objects (a pickle), which could run code; accepted: arrays of numbers"
    why = " ".join(str(error).split())[:200]
    return f"{path} is not a readable .npz file ({type(error).__name__}{f': {why}' if why else ''})"
