"""`folder:DIR`: a folder of images for each class, or one folder with a table of labels; decoded when asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_lite.data import class_folders, imagenet_names
from robustbench_lite.data.base import Dataset, Split
from robustbench_lite.data.class_folders import Numbered
from robustbench_lite.data.crops import Crop, model_crop
from robustbench_lite.data.decoding import LARGEST_SIDE, Background, Conversion, Interpolation
from robustbench_lite.data.expected import NOTHING, Expected
from robustbench_lite.data.files import SUFFIXES, FileImages, Scanned, Skipped, hidden, image_files, scan
from robustbench_lite.data.label_table import Table, number_table, read_table
from robustbench_lite.data.looked_at import LOOKED_AT, dark, in_alpha_alone, look, told_scale
from robustbench_lite.data.places import is_dir, is_file, shown
from robustbench_lite.data.values import Values
from robustbench_lite.errors import UserError
from robustbench_lite.specs import Spec, parse_source

_PARTS = {"train", "test", "val", "valid", "validation"}
#: what is told of what is converted, where a word is not enough
_WORDS = {
    "palette": "with a palette",
    "1 bit": "of 1 bit",
    "16 bits": "of 16 bits, as 8",
    "16 bits in colour": "of 16 bits in colour, of which the upper 8 are read",
    "CMYK": "in CMYK",
    "YCbCr": "in YCbCr",
    "alpha": "with an alpha channel, {background}",
    "turned": "turned by EXIF",
    "frames": "with several frames, of which the first is taken",
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds: files with labels, the classes, and what was passed over."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    numbered: Numbered
    skipped: tuple[str, ...] = ()


def load(
    *,
    split: Split,
    path: Path,
    spec: str,
    expected: Expected = NOTHING,
    train: str | None = None,
    classes: int | None = None,
    labels: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    interpolation: Interpolation | None = None,
    channels: int | None = None,
    background: Background = "white",
    exif: bool = True,
    scale: float | None = None,
) -> Dataset:
    """A folder's images as the test split: a folder for each class, or one folder with a table of labels.

    A class folder is named by a label, by a WordNet id or name of ImageNet, which has 1000 classes then, or as you like; then
    labels follow the alphabet. Without `size`, images are resized and cropped as the model of timm or torchvision wants
    them, where there is one.

    Args:
        train: another such folder, the training split, with the same classes.
        classes: how many there are, if the names, or the model, do not tell.
        labels: a CSV in the folder with the columns `file` and `label` (or `index`, `wnid`, `class`), instead of class folders.
        size: crop the centre to `size` x `size`, after resizing the shorter side to `resize`.
        resize: the shorter side before the crop; `size` if left out.
        interpolation: of the resizing, antialiased; `bilinear` if left out.
        channels: 1 or 3; if left out, 1 where every image is grey.
        background: what transparent pixels are put on; `none` drops the alpha channel.
        exif: turn images as their EXIF orientation says.
        scale: the stored level that is white, such as 16; if left out, 255, or 65535 in images of 16 bits.

    Raises:
        UserError: no such folder, no images, files that are not images, different sizes without `size`.
    """
    if split == "train" and train is None:
        raise UserError(f"{spec} is test data; name what is trained on with ;train=DIR")
    _check_options(spec, size, resize, channels, scale)
    places = {"test": path} if train is None else {"test": path, "train": Path(train).expanduser()}
    tables = {part: None if labels is None else read_table(place, labels) for part, place in places.items()}
    numbered = {part: _numbered(place, tables[part], tables, classes, expected, part) for part, place in places.items()}
    _same_classes(numbered, spec)
    conversion = Conversion(interpolation=interpolation or "bilinear", background=background, exif=exif, scale=scale)
    found = _read(
        _list(places[split], tables[split], numbered[split]),
        top=places[split],
        what=spec,
        crop=None if size is None else Crop(size=size, resize=resize or size, interpolation=conversion.interpolation),
        expected=expected,
        channels=channels,
        conversion=conversion,
        asked=interpolation,
    )
    count = max(one.classes for one in numbered.values())
    said = {"classes": str(count)} if classes is None and any(one.told for one in numbered.values()) else {}
    return replace(found, name=_with(found.name, said), split=split, num_classes=count)


def read(place: Path, *, what: str, size: int, resize: int, channels: int) -> Dataset:
    """Class folders as torchvision's presets for ImageNet read them: alpha channels dropped, EXIF not looked at.

    Raises:
        UserError: as `load`.
    """
    names = _class_folders(place, None)
    numbered = class_folders.number(names, classes=None, expected=NOTHING, trained=False, what=str(place))
    conversion = Conversion(background="none", exif=False)
    crop = Crop(size=size, resize=resize, interpolation="bilinear")
    listing = _list(place, None, numbered)
    found = _read(listing, top=place, what=what, crop=crop, expected=NOTHING, channels=channels, conversion=conversion)
    return replace(found, name=what)


def _read(
    listing: Listing,
    *,
    top: Path,
    what: str,
    crop: Crop | None,
    expected: Expected,
    channels: int | None,
    conversion: Conversion,
    asked: Interpolation | None = None,
) -> Dataset:
    """The listed files as a dataset, its name with the crop that a model's preprocessing decides."""
    scanned = scan(listing.files, conversion)
    given = crop
    crop = crop or model_crop(scanned, expected, asked, what)
    depth = channels or (1 if scanned.grey else 3)
    h, w = scanned.common_size() if crop is None else (crop.size, crop.size)
    images = FileImages(
        top=top,
        files=listing.files,
        shape=(depth, h, w),
        resize=None if crop is None else crop.resize,
        conversion=conversion if crop is None else replace(conversion, interpolation=crop.interpolation),
        treated=scanned.treated,
    )
    values = look(images, conversion.scale, what)
    return Dataset(
        name=what if crop is None or given is not None else _with(what, crop.options()),
        images=images,
        labels=np.array(listing.labels, dtype=np.int64),
        num_classes=listing.numbered.classes,
        shape=images.shape,
        class_names=listing.numbered.class_names,
        notes=_notes(what, listing, scanned, images, values, crop),
        provenance=_provenance(listing, scanned, values, images),
    )


def _check_options(what: str, size: int | None, resize: int | None, channels: int | None, scale: float | None) -> None:
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise UserError(f"{what}: size={size}; accepted: 1 to {LARGEST_SIDE}")
    if resize is not None and (size is None or resize < size):
        raise UserError(f"{what}: resize={resize} needs a size that is not larger")
    if channels not in (None, 1, 3):
        raise UserError(f"{what}: channels={channels}; accepted: 1, 3")
    if scale is not None and scale <= 0:
        raise UserError(f"{what}: scale={scale:g}; accepted: the level that is white, such as 16 or 255")


# -- classes ------------------------------------------------------------------------------------------------------


def _numbered(
    place: Path,
    table: Table | None,
    tables: Mapping[str, Table | None],
    classes: int | None,
    expected: Expected,
    part: str,
) -> Numbered:
    """The labels of one split's classes; the other split's table may name classes that this one has no image of."""
    if table is None:
        names = _class_folders(place, classes)
        trained = len(tables) > 1 and classes is None and expected.head is None
        return class_folders.number(names, classes=classes, expected=expected, trained=trained, what=str(place))
    other = next((one for name, one in tables.items() if name != part and one is not None), None)
    return number_table(table, classes=classes, expected=expected, trained=None if other is None else other.written)


def _class_folders(place: Path, classes: int | None) -> list[str]:
    if not is_dir(place):
        what = "is a file; accepted: a folder" if is_file(place) else ""
        raise UserError(f"{shown(place)} {what}" if what else f"there is no folder {shown(place)}")
    try:
        folders = sorted(folder.name for folder in place.iterdir() if folder.is_dir() and not hidden(folder.name))
        links = sorted(one.name for one in place.iterdir() if one.is_symlink() and not one.exists())
    except OSError as error:
        raise UserError(f"cannot read the folder {place}: {error.strerror}") from error
    lost = next((one for one in links if Path(one).suffix.lower() not in SUFFIXES and not hidden(one)), None)
    if lost is not None:
        raise UserError(f"{place / lost} is a link to nothing, and may be a class; mend it, or remove it")
    if folders and set(folders) <= _PARTS:
        raise UserError(
            f"{place} holds {', '.join(folders)}, not classes; name one of them, such as folder:{place / folders[0]}"
        )
    alone = len(folders) == 1 and classes is None and not imagenet_names.is_wnid(folders[0])
    if not folders or alone:
        held = f"one class folder, {folders[0]}" if folders else "no class folders"
        raise UserError(f"{place} has {held}; accepted: two or more, one for each class, or ;labels=FILE.csv")
    return folders


def _same_classes(numbered: Mapping[str, Numbered], spec: str) -> None:
    """Refuse a training split with other classes than the test split."""
    if len(numbered) < 2:
        return
    test, train = numbered["test"], numbered["train"]
    if test.class_names != train.class_names:
        odd = sorted(set(test.class_names or ()) ^ set(train.class_names or ()))
        raise UserError(f"{spec}: the classes for testing and training differ ({', '.join(odd[:3])})")


def _list(place: Path, table: Table | None, numbered: Numbered) -> Listing:
    skipped = Skipped()
    if table is not None:
        labels = tuple(numbered.labels[text] for text in table.written)
        return Listing(files=table.files, labels=labels, numbered=numbered, skipped=_unnamed(place, table))
    by_label = sorted(numbered.labels.items(), key=lambda item: item[1])
    files = [(file, label) for name, label in by_label for file in image_files(place / name, skipped)]
    outside, images = Skipped(), 0
    for file in sorted(one for one in place.iterdir() if one.is_file()):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            images += 1
        else:
            outside.add(file)
    loose = [f"{text} (beside the class folders)" for text in outside.sentences()]
    if images:
        loose.append(f"{images:,} {'image lies' if images == 1 else 'images lie'} beside the class folders, left out")
    return Listing(
        files=tuple(file for file, _ in files),
        labels=tuple(label for _, label in files),
        numbered=numbered,
        skipped=(*skipped.sentences(), *loose),
    )


def _unnamed(place: Path, table: Table) -> tuple[str, ...]:
    """That images in the folder are not in the table."""
    try:
        held = set(image_files(place, Skipped()))
    except UserError:
        return ()
    left = len(held - set(table.files))
    are = "image in the folder is" if left == 1 else "images in the folder are"
    return (f"{left:,} {are} not in {table.path.name}, and left out",) if left else ()


# -- what is told -------------------------------------------------------------------------------------------------


def _notes(
    what: str, listing: Listing, scanned: Scanned, images: FileImages, values: Values, crop: Crop | None
) -> tuple[str, ...]:
    c, h, w = images.shape
    words = {name: text.format(background=_on(images.conversion)) for name, text in _WORDS.items()}
    if images.conversion.scale is not None:
        words["16 bits"] = "of 16 bits"
    converted = ", ".join(f"{count:,} {words.get(name, name)}" for name, count in scanned.counts().items())
    looked = min(len(images), LOOKED_AT)
    spread = "" if looked == len(images) else f" ({looked} looked at)"
    told = [
        f"{len(images):,} images {c}x{h}x{w}{f': {converted}' if converted else ''}; levels {values}{spread}"
        f"{told_scale(images, values)}"
    ]
    if crop is not None and crop.source:
        told.append(f"{crop.source} {crop}: the images are so")
    told += [part for part in (in_alpha_alone(images), dark(images), listing.numbered.how, *listing.skipped) if part]
    name = parse_source(what).name
    return tuple(f"{name}: {text}" for text in told)


def _on(conversion: Conversion) -> str:
    return "which is dropped" if conversion.background == "none" else f"on {conversion.background}"


def _provenance(listing: Listing, scanned: Scanned, values: Values, images: FileImages) -> dict[str, Any]:
    """What was done to the images, for records."""
    conversion = images.conversion
    return {
        "images": len(images),
        "converted": scanned.counts(),
        "resize": images.resize,
        "interpolation": conversion.interpolation if images.resize is not None else None,
        "background": conversion.background,
        "exif": conversion.exif,
        "scale": conversion.scale,
        "levels": values.facts(),
        "labels": listing.numbered.how,
        "skipped": list(listing.skipped),
    }


def _with(spec: str, options: Mapping[str, str]) -> str:
    """A spec with more options."""
    if not options:
        return spec
    held = parse_source(spec)
    return str(Spec(held.name, {**held.options, **options}, ";"))
