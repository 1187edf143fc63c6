"""Images that stay files until they are asked for."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustbench_lite.errors import UserError


class Decoded:
    """Image files, decoded one batch at a time.

    Args:
        paths: in the order of the samples. size: the shorter side after resizing, or None. crop: side of the centre crop,
            or None. mode: `RGB` or `L`.
    """

    def __init__(self, paths: Sequence[Path], *, size: int | None = None, crop: int | None = None, mode: str = "RGB") -> None:
        self.paths, self.size, self.crop, self.mode = list(paths), size, crop, mode

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Images (m, c, h, w) uint8.

        Raises:
            UserError: a file is no image, or has another size than the rest.
        """
        images = [self.one(int(place)) for place in indices]
        for place, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                given, first = (f"{shape[2]}x{shape[1]}" for shape in (image.shape, images[0].shape))
                raise UserError(
                    f"{str(self.paths[int(place)])!r} is {given} but another image is {first};"
                    " give ;size=N to resize and crop them all"
                )
        return np.stack(images)

    def one(self, place: int) -> np.ndarray:
        """One image (c, h, w) uint8."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.paths[place]) as file:
                image = file.convert(self.mode)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise UserError(f"cannot read the image {str(self.paths[place])!r}: {error}") from error
        if self.size is not None:
            image = _resized(image, self.size)
        if self.crop is not None:
            image = _cropped(image, self.crop)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def digest(self) -> bytes:
        """Over the bytes of every file, and what is done to them."""
        state = hashlib.blake2b(repr((self.size, self.crop, self.mode)).encode(), digest_size=16)
        for path in self.paths:
            try:
                state.update(hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
            except OSError as error:
                raise UserError(f"cannot read the image {str(path)!r}: {error}") from error
        return state.digest()


def _resized(image, side: int):  # type: ignore[no-untyped-def]  # PIL is imported lazily
    from PIL import Image

    scale = side / min(image.size)
    return image.resize([max(side, round(length * scale)) for length in image.size], Image.Resampling.BILINEAR)


def _cropped(image, side: int):  # type: ignore[no-untyped-def]  # PIL is imported lazily
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))
