"""From an image file to pixels: which pixel formats become grey or RGB, how, and which are refused.

Everything that a header tells is known before a pixel is decoded, so that a folder is refused, or what is converted is
counted, before the work begins.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from robustbench_lite.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["bilinear", "bicubic"]
Background = Literal["white", "black", "none"]
#: pixels of an image at most, as its header claims them; Pillow's own limit, which other code in the process may lift
MOST_PIXELS = 178_956_970
#: what is tried on a file, by its content; no format that Pillow hands to another program, as it does PostScript
_FORMATS = (
    *("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "QOI"),
)
#: of a square of so many pixels
LARGEST_SIDE = 13_377
_ORIENTATION = 0x0112
_GREY = {"1", "L", "LA"}
_MODES = _GREY | {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_ALPHA = {"LA", "PA", "RGBA"}
#: of a 16-bit level by 257: 65535 becomes 255
_DEEP = 257


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How files become pixels.

    Args:
        interpolation: of a resizing; both are antialiased. background: what transparent pixels are put on; `none` drops
            the alpha channel. exif: turn images as their EXIF orientation says.
        scale: the stored level that is white; None: 255, or 65535 in images of 16 bits.
    """

    interpolation: Interpolation = "bilinear"
    background: Background = "white"
    exif: bool = True
    scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its image before it is decoded.

    Args:
        size: (h, w), after the EXIF orientation. treated: what is converted, of `TREATMENTS`.
    """

    size: tuple[int, int]
    grey: bool
    treated: tuple[str, ...] = ()


#: files as they are usually read
USUAL = Conversion()
#: what may be done to an image, in the order in which it is told
TREATMENTS = ("palette", "1 bit", "16 bits", "16 bits in colour", "CMYK", "YCbCr", "alpha", "turned", "frames")


class UnreadableError(UserError):
    """A file that is no image, or none that can be used; `why` is the sentence without the file's name."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} {why}")
        self.why = why


def header(file: Path, conversion: Conversion) -> Header:
    """Read the header.

    Raises:
        UnreadableError: no image, pixels that cannot be grey or RGB, or more of them than `MOST_PIXELS`.
    """
    with _opened(file, "is not an image that can be read") as image:
        turn = _orientation(image) if conversion.exif else 1
        size = (image.width, image.height) if turn >= 5 and image.format != "TIFF" else (image.height, image.width)
        return Header(size=size, grey=image.mode in _GREY or _is_deep_grey(image), treated=_treated(image, turn))


def decode(file: Path, shape: tuple[int, int, int], conversion: Conversion, resize: int | None = None) -> np.ndarray:
    """The pixels (c, h, w), uint8; with `scale` float32 in [0, 1].

    Args:
        shape: c is 1 or 3. resize: resize the shorter side to it and crop the centre to (h, w); None: it must have that size.

    Raises:
        UserError: it cannot be decoded, has another size, or shows nothing on its background.
    """
    c, h, w = shape
    with _opened(file, "cannot be decoded") as image:
        turn = _orientation(image) if conversion.exif else 1
        image.load()
        pixels = _levels(_turned(image, turn), c, conversion, file)
    if resize is not None:
        pixels = _centre(pixels, resize, (h, w), conversion.interpolation, file)
    if pixels.shape[:2] != (h, w):
        raise UserError(f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels; the others have {w} x {h}")
    return pixels[None] if c == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(file: Path, trouble: str) -> Iterator["Image"]:
    """The image, its first frame, not decoded yet; whatever a decoder raises is told with the file's name."""
    from PIL import Image, ImageFile

    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    torn, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # else the rest would be grey
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=known) as image:
            _check(image, file)
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(
            file, f"claims more than {MOST_PIXELS:,} pixels, which no memory should be given for"
        ) from error
    except Exception as error:  # each format's decoder fails in its own way
        raise UnreadableError(file, f"{trouble} ({_reason(error, file)})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = torn


def _check(image: "Image", file: Path) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise UnreadableError(
            file,
            f"claims {image.width:,} x {image.height:,} pixels, which no memory should be given for; accepted:"
            f" {MOST_PIXELS:,} pixels",
        )
    if image.width * image.height == 0:
        raise UnreadableError(file, "has no pixels")
    if image.mode not in _MODES and not _is_deep_grey(image):
        raise UnreadableError(
            file, f"has pixels of type {image.mode}; accepted: grey or RGB with 8 or 16 bits a channel; save it as such"
        )
    if _is_deep_grey(image) and "transparency" in image.info:
        raise UnreadableError(file, "has 16 bits and a transparent level; save it without transparency")


def _reason(error: Exception, file: Path) -> str:
    """What the decoder says, without the path, which the sentence has already."""
    text = " ".join(str(error).replace(repr(str(file)), "it").split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"


def _raw(image: "Image") -> str:
    """How the file stores a pixel, such as `RGB;16B`; empty where it does not tell."""
    for tile in getattr(image, "tile", ()):
        args = tile[3]
        first = args[0] if isinstance(args, tuple) and args else args
        if isinstance(first, str):
            return first
    return ""


def _is_deep_grey(image: "Image") -> bool:
    """16 unsigned bits of grey; `I` otherwise stands for 32 bits or signed ones."""
    unsigned = _raw(image).startswith("I;16") and "S" not in _raw(image)
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM" and unsigned)


def _treated(image: "Image", turn: int) -> tuple[str, ...]:
    found = {
        "palette": image.mode in ("P", "PA"),
        "1 bit": image.mode == "1",
        "16 bits": _is_deep_grey(image),
        "16 bits in colour": ";16" in _raw(image) and not _is_deep_grey(image),
        "CMYK": image.mode == "CMYK",
        "YCbCr": image.mode == "YCbCr",
        "alpha": image.mode in _ALPHA or "transparency" in image.info,
        "turned": turn > 1,
        # a phone's photo (MPO) holds a second picture beside the first, which is no frame of it
        "frames": image.format != "MPO" and bool(getattr(image, "is_animated", False)),
    }
    return tuple(name for name in TREATMENTS if found[name])


def _orientation(image: "Image") -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none that can be read."""
    from PIL import Image as Images

    with suppress(Exception):  # damaged EXIF data fail in many ways, and the picture is there without them
        value = Images.Image.getexif(image).get(_ORIENTATION, 1)  # of the header alone: PNG's own would decode
        return value if value in range(1, 9) else 1
    return 1


def _turned(image: "Image", turn: int) -> "Image":
    from PIL import Image, ImageOps

    if image.format == "TIFF":  # newer Pillows have turned it when it was decoded, and this is nothing then
        return ImageOps.exif_transpose(image) if turn > 1 else image
    flips = Image.Transpose
    ways = {
        2: flips.FLIP_LEFT_RIGHT, 3: flips.ROTATE_180, 4: flips.FLIP_TOP_BOTTOM, 5: flips.TRANSPOSE,
        6: flips.ROTATE_270, 7: flips.TRANSVERSE, 8: flips.ROTATE_90,
    }  # fmt: skip
    return image.transpose(ways[turn]) if turn in ways else image


def _levels(image: "Image", channels: int, conversion: Conversion, file: Path) -> np.ndarray:
    """(h, w) or (h, w, 3): uint8, or float32 in [0, 1] where a scale is said."""
    deep = _is_deep_grey(image) or image.mode == "I"
    if deep:
        stored = np.asarray(image).astype(np.int64)
        pixels = stored if channels == 1 else np.repeat(stored[..., None], 3, axis=2)
    else:
        pixels = np.asarray(_opaque(image, "L" if channels == 1 else "RGB", conversion.background, file))
    if conversion.scale is not None:
        return _scaled(pixels, conversion.scale, file)
    return ((pixels + _DEEP // 2) // _DEEP).astype(np.uint8) if deep else pixels


def _scaled(pixels: np.ndarray, scale: float, file: Path) -> np.ndarray:
    top = int(pixels.max())
    if top > scale:
        raise UserError(f"{file} has the level {top}, but ;scale={scale:g} says that white is {scale:g}")
    return (pixels / scale).astype(np.float32)


def _opaque(image: "Image", mode: str, background: Background, file: Path) -> "Image":
    """As grey or RGB; what is transparent shows the background."""
    from PIL import Image

    if background == "none" or not (image.mode in _ALPHA or "transparency" in image.info):
        return image.convert(mode)
    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema() == (255, 255):
        return whole.convert(mode)
    shown = Image.alpha_composite(Image.new("RGBA", whole.size, background), whole).convert(mode)
    if all(low == high for low, high in _extrema(shown)):
        other = "black" if background == "white" else "white"
        raise UserError(
            f"{file} is one colour on a {background} background: its picture is in the alpha channel, or is transparent;"
            f" say ;background={other}, or ;background=none to drop the alpha channel"
        )
    return shown


def _extrema(image: "Image") -> list[tuple[int, int]]:
    return [band.getextrema() for band in image.split()]  # type: ignore[misc]  # of one 8-bit band: two levels


def _centre(
    pixels: np.ndarray, shorter: int, size: tuple[int, int], interpolation: Interpolation, file: Path
) -> np.ndarray:
    """Resize the shorter side and crop the centre, as torchvision's presets do it on images."""
    h, w = pixels.shape[:2]
    w, h = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    if w * h > MOST_PIXELS:  # a strip of a few pixels, whose longer side grows with the shorter one
        raise UserError(
            f"{file} would have {w:,} x {h:,} pixels after its shorter side is resized to {shorter}; leave it out"
        )
    resized = _resized(pixels, (w, h), interpolation)
    left, top = round((w - size[1]) / 2), round((h - size[0]) / 2)
    return resized[top : top + size[0], left : left + size[1]]


def _resized(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    from PIL import Image

    way = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, way))
    bands = [pixels] if pixels.ndim == 2 else list(pixels.transpose(2, 0, 1))
    made = [np.asarray(Image.fromarray(np.ascontiguousarray(band)).resize(size, way)) for band in bands]
    return np.clip(made[0] if pixels.ndim == 2 else np.stack(made, axis=2), 0, 1)
