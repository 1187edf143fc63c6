"""The public sets that torchvision reads, in torchvision's own folder layout; ImageNet as folders of JPEGs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robustbench_lite.data.base import ArrayImages, Dataset, Split
from robustbench_lite.data.checks import check_labels, check_pixels
from robustbench_lite.data.places import data_root
from robustbench_lite.errors import UserError

_SAMPLES = "1000"
_IMAGENET_CLASSES = 1000
_DIGITS = tuple("0123456789")
Reader = Callable[..., Dataset]


def _train_flag(split: Split) -> dict[str, Any]:
    return {"train": split == "train"}


def _split_name(split: Split) -> dict[str, Any]:
    return {"split": split}


def _reader(
    name: str, class_name: str, which: Callable[[Split], dict[str, Any]], channels_last: bool = False
) -> Reader:
    def read(*, split: Split, root: Path | None = None, download: bool = False) -> Dataset:
        found = _open(name, class_name, data_root(root), download, **which(split))
        names = tuple(getattr(found, "classes", _DIGITS))
        return _dataset(name, _numpy(found.data), _labels(found), names, split, channels_last)

    read.__doc__ = f"torchvision's {class_name} under `root`, uint8 as stored; `download` fetches what is missing."
    return read


mnist = _reader("mnist", "MNIST", _train_flag)
fashion_mnist = _reader("fashion-mnist", "FashionMNIST", _train_flag)
kmnist = _reader("kmnist", "KMNIST", _train_flag)
cifar10 = _reader("cifar10", "CIFAR10", _train_flag, channels_last=True)
cifar100 = _reader("cifar100", "CIFAR100", _train_flag, channels_last=True)
svhn = _reader("svhn", "SVHN", _split_name)
stl10 = _reader("stl10", "STL10", _split_name)


def emnist(
    *,
    split: Split,
    root: Path | None = None,
    download: bool = False,
    part: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = "balanced",
) -> Dataset:
    """torchvision.datasets.EMNIST under `root`; images lie transposed, as they are stored.

    Args:
        part: which of its six selections; `letters` counts its classes from 0 here, and from 1 in the files.
    """
    found = _open("emnist", "EMNIST", data_root(root), download, split=part, train=split == "train")
    first = part == "letters"
    name = "emnist" if part == "balanced" else f"emnist:part={part}"
    return _dataset(name, _numpy(found.data), _labels(found) - first, tuple(found.classes[first:]), split)


def imagenet(*, split: Split, root: Path | None = None, download: bool = False) -> Dataset:
    """ILSVRC 2012 as 1,000 class folders in `val/` or `train/` of `root` or `root/imagenet`; resize 256, crop 224.

    Images are decoded when a batch asks for them. It cannot be downloaded from here: its terms want a registration.
    """
    from robustbench_lite.data import folders

    top, part = data_root(root), "train" if split == "train" else "val"
    places = [place for place in (top / "imagenet" / part, top / part) if place.is_dir()]
    if not places:
        how = "--download cannot fetch it, its terms want a registration; " if download else ""
        raise UserError(
            f"imagenet is not under {top} (as {part}/ or imagenet/{part}/); {how}name its folder with --data-root"
        )
    found = folders.read(places[0], what="imagenet", size=224, resize=256, channels=3)
    held = len(np.unique(found.labels))
    if held != _IMAGENET_CLASSES:
        raise UserError(f"{places[0]} has {held} class folders; imagenet has {_IMAGENET_CLASSES}")
    return replace(found, name="imagenet", split=split, default_samples=_SAMPLES)


def _open(name: str, class_name: str, root: Path, download: bool, **which: Any) -> Any:
    from torchvision import datasets

    try:
        return getattr(datasets, class_name)(str(root), download=download, **which)
    except Exception as error:  # a damaged file can fail in any of the parsers that torchvision calls
        if "not found" in str(error) and not download:
            raise UserError(
                f"{name} is not (complete) under {root}; name its folder with --data-root, or fetch it with --download"
            ) from error
        doing = "fetched into" if download else "read from"
        raise UserError(f"{name} cannot be {doing} {root} ({type(error).__name__}: {error})") from error


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(values)


def _labels(found: Any) -> np.ndarray:
    values = found.targets if hasattr(found, "targets") else found.labels
    return np.asarray(values).astype(np.int64)


def _dataset(
    name: str, pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...], split: Split, channels_last: bool = False
) -> Dataset:
    images = ArrayImages(check_pixels(pixels, name), channels_last)
    return Dataset(
        name=name,
        images=images,
        labels=check_labels(labels, len(pixels), name, len(names)),
        num_classes=len(names),
        shape=images.shape,
        class_names=names,
        split=split,
        default_samples=_SAMPLES,
    )
