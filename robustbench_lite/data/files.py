"""Image files that are decoded only when a batch asks for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustbench_lite.errors import UserError
from robustbench_lite.hashing import Hasher, hash_file

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_GREY = {"1", "L", "LA"}
# What becomes grey or RGB without guessing; 16-bit and float images would have to be scaled.
_MODES = _GREY | {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages:
    """Files under `top`, decoded to `shape` (c, h, w), uint8.

    Transparency is dropped. With `resize` the shorter side is resized to it and the centre is cropped to (h, w), as
    torchvision's presets do it (bilinear, antialiased); without, every file must have the size (h, w).
    """

    top: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    resize: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decode these files, (m, c, h, w) uint8.

        Raises:
            UserError: a file that cannot be decoded or has another size.
        """
        decoded = np.empty((len(indices), *self.shape), dtype=np.uint8)
        for row, index in enumerate(indices):
            decoded[row] = self._decode(self.files[index])
        return decoded

    def feed(self, state: Hasher) -> None:
        """Hash each file's name under `top` and its bytes, and how they are cropped."""
        state.update(repr((self.shape, self.resize)).encode())
        for file in self.files:
            state.update(file.relative_to(self.top).as_posix().encode() + b"\0")
            state.update(bytes.fromhex(hash_file(file, 64)))

    def _decode(self, file: Path) -> np.ndarray:
        from PIL import Image

        c, h, w = self.shape
        try:
            with Image.open(file) as image:
                picture = image.convert("L" if c == 1 else "RGB")
        except Exception as error:  # each format's decoder fails in its own way
            raise UserError(f"{file} cannot be decoded ({error})") from error
        if self.resize is not None:
            picture = _centre(picture, self.resize, h)
        if picture.size != (w, h):
            raise UserError(f"{file} has {picture.width} x {picture.height} pixels; the others have {w} x {h}")
        pixels = np.asarray(picture)
        return pixels[None] if c == 1 else pixels.transpose(2, 0, 1)


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files in a folder and the folders below it, sorted by name.

    Raises:
        UserError: there are none.
    """
    found = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise UserError(f"{folder} has no images; accepted: {', '.join(sorted(SUFFIXES))}")
    return tuple(sorted(found, key=lambda file: file.relative_to(folder).as_posix()))


def scan(files: Iterable[Path], *, same_size: bool) -> tuple[tuple[int, int], bool]:
    """The size (h, w) of the first image, and whether all are grey; reads no more than the headers.

    Raises:
        UserError: a file that is not an image or has a pixel format that would have to be scaled; another size than
            the first one's, with `same_size`.
    """
    first: tuple[int, int] | None = None
    grey = True
    for file in files:
        size, mode = _header(file)
        first = first or size
        grey = grey and mode in _GREY
        if same_size and size != first:
            raise UserError(
                f"{file} has {size[1]} x {size[0]} pixels but others {first[1]} x {first[0]}; resize and crop them all"
                f" with ;size={min(*first, *size)}"
            )
    assert first is not None
    return first, grey


def _header(file: Path) -> tuple[tuple[int, int], str]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            size, mode = (image.height, image.width), image.mode
    except Exception as error:  # as above
        raise UserError(f"{file} is not an image that can be read ({error})") from error
    if mode not in _MODES:
        raise UserError(f"{file} has pixels of type {mode}; accepted: 8 bits a channel (grey or RGB)")
    return size, mode


def _centre(picture: "Image", shorter: int, size: int) -> "Image":
    from PIL import Image

    w, h = picture.size
    w, h = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return picture.resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
