"""`folder:DIR`: a folder of images for each class, or one folder with a table of labels; decoded when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robustbench_lite.data.base import Dataset, Split
from robustbench_lite.data.files import FileImages, image_files, scan
from robustbench_lite.data.label_table import read_table
from robustbench_lite.errors import UserError

_PARTS = {"train", "test", "val", "valid", "validation"}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds: files with labels, and the classes."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] | None


def load(
    *,
    split: Split,
    path: Path,
    spec: str,
    train: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    classes: int | None = None,
    labels: str | None = None,
    channels: int | None = None,
) -> Dataset:
    """A folder's images as the test split.

    Args:
        train: another such folder, the training split, with the same classes.
        size: crop the centre to `size` x `size`, after resizing the shorter side to `resize` (`size` if left out).
        classes: how many there are, if not every class has images; a class folder's name is then its label.
        labels: a CSV in the folder with the columns `file` and `label` (or `index`), instead of class folders.
        channels: 1 or 3; if left out, 1 where every image is grey.

    Raises:
        UserError: no such folder, no images, files that are not images, different sizes without `size`.
    """
    if split == "train" and train is None:
        raise UserError(f"{spec} is test data; name what is trained on with ;train=DIR")
    count = classes if train is None else _common_count(path, Path(train), labels, classes, spec)
    place = Path(train) if train is not None and split == "train" else path
    found = read(place, what=spec, size=size, resize=resize, classes=classes, labels=labels, channels=channels)
    return replace(found, name=spec, split=split, num_classes=count or found.num_classes)


def read(
    place: Path,
    *,
    what: str,
    size: int | None = None,
    resize: int | None = None,
    classes: int | None = None,
    labels: str | None = None,
    channels: int | None = None,
) -> Dataset:
    """One folder as a dataset; the options as in `load`.

    Raises:
        UserError: as `load`.
    """
    _check_options(what, size, resize, channels)
    listing = _list(place, labels, classes)
    common, grey = scan(listing.files, same_size=size is None)
    depth = channels or (1 if grey else 3)
    h, w = (size, size) if size is not None else common
    images = FileImages(top=place, files=listing.files, shape=(depth, h, w), resize=resize or size)
    return Dataset(
        name=what,
        images=images,
        labels=np.array(listing.labels, dtype=np.int64),
        num_classes=listing.num_classes,
        shape=images.shape,
        class_names=listing.class_names,
    )


def _check_options(what: str, size: int | None, resize: int | None, channels: int | None) -> None:
    if size is not None and size < 1:
        raise UserError(f"{what}: size={size}; accepted: 1 and more")
    if resize is not None and (size is None or resize < size):
        raise UserError(f"{what}: resize={resize} needs a size that is not larger")
    if channels not in (None, 1, 3):
        raise UserError(f"{what}: channels={channels}; accepted: 1, 3")


def _list(place: Path, labels: str | None, classes: int | None) -> Listing:
    if not place.is_dir():
        raise UserError(f"there is no folder {place}")
    if labels is not None:
        table = read_table(place, labels, classes)
        return Listing(files=table.files, labels=table.labels, num_classes=table.num_classes, class_names=None)
    numbers = _numbers(place, _class_folders(place, classes), classes)
    files = [(file, label) for folder, label in numbers.items() for file in image_files(place / folder)]
    count = classes or len(numbers)
    return Listing(
        files=tuple(file for file, _ in files),
        labels=tuple(label for _, label in files),
        num_classes=count,
        class_names=tuple(numbers) if list(numbers.values()) == list(range(count)) else None,
    )


def _class_folders(place: Path, classes: int | None) -> list[str]:
    folders = sorted(folder.name for folder in place.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if folders and set(folders) <= _PARTS:
        raise UserError(
            f"{place} holds {', '.join(folders)}, not classes; name one of them, such as folder:{place / folders[0]}"
        )
    if not folders or (len(folders) == 1 and classes is None):
        held = f"one class folder, {folders[0]}" if folders else "no class folders"
        raise UserError(f"{place} has {held}; accepted: two or more, one for each class, or ;labels=FILE.csv")
    return folders


def _numbers(place: Path, folders: Sequence[str], classes: int | None) -> dict[str, int]:
    """The label of each class folder: its place among the sorted names, or the number that it is named by."""
    numeric = all(folder.isascii() and folder.isdecimal() for folder in folders)
    by_number = sorted(folders, key=int) if numeric else list(folders)
    if classes is None and by_number != list(folders):
        raise UserError(
            f"{place}: the class folders {', '.join(by_number[:3])} and so on sort in one way as numbers and in another"
            f" as names; say ;classes={int(by_number[-1]) + 1} if their numbers are the labels"
        )
    if classes is not None and numeric and int(by_number[-1]) < classes:
        return {folder: int(folder) for folder in by_number}
    if classes in (None, len(folders)):
        return {folder: label for label, folder in enumerate(folders)}
    raise UserError(
        f"{place} has {len(folders)} class folders, not classes={classes}; which class each one is must be told by"
        f" its name, a number below {classes}, or by ;labels=FILE.csv"
    )


def _common_count(path: Path, train: Path, labels: str | None, classes: int | None, spec: str) -> int:
    """How many classes the two splits have together; a table's labels may not reach the last class in one of them."""
    one, other = _list(path, labels, classes), _list(train, labels, classes)
    if one.class_names != other.class_names:
        odd = sorted(set(one.class_names or ()) ^ set(other.class_names or ()))
        raise UserError(f"{spec}: the class folders for testing and training differ ({', '.join(odd[:3])})")
    return max(one.num_classes, other.num_classes)
