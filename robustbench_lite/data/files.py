"""Image files that are decoded only when a batch asks for them."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustbench_lite.data.decoding import TREATMENTS, USUAL, Conversion, UnreadableError, decode, header
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import Hasher, hash_file

SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".avif", ".tga", ".pcx"),
        *(".sgi", ".qoi"),
    )
)
#: what a user is told of them
_USUAL = ".png, .jpg, .jpeg, .bmp, .gif, .webp, .tiff, .pgm, .ppm, .jp2, .avif and their kin"
#: formats of images that are not read
_OTHERS = frozenset(
    (
        *(".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".pfm", ".raw", ".dng", ".cr2", ".cr3", ".nef"),
        *(".arw", ".orf", ".rw2", ".eps", ".ps", ".pdf", ".dcm", ".nii", ".ico", ".npy", ".npz", ".mat", ".h5"),
    )
)
#: how many files that cannot be read are named
_NAMED = 3
_UNREAD = "in formats that are not read"


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages:
    """Files under `top`, decoded to `shape` (c, h, w), uint8, or float32 in [0, 1] where the conversion has a scale.

    Args:
        resize: resize the shorter side to it and crop the centre to (h, w), as torchvision's presets do it; without it,
            every file must have the size (h, w). treated: what is converted, of the files that are not taken as they are.
    """

    top: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    resize: int | None = None
    conversion: Conversion = USUAL
    treated: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decode these files, (m, c, h, w).

        Raises:
            UserError: a file that cannot be decoded or has another size.
        """
        kind = np.uint8 if self.conversion.scale is None else np.float32
        decoded = np.empty((len(indices), *self.shape), dtype=kind)
        for row, index in enumerate(indices):
            decoded[row] = decode(self.files[index], self.shape, self.conversion, self.resize)
        return decoded

    def feed(self, state: Hasher) -> None:
        """Hash each file's name under `top` and its bytes, how they are cropped, and what else changes pixels.

        Of images that need no conversion nothing but the first two is hashed, as ever.
        """
        state.update(repr((self.shape, self.resize)).encode())
        for file in self.files:
            state.update(os.fsencode(file.relative_to(self.top).as_posix()) + b"\0")
            state.update(bytes.fromhex(hash_file(file, 64)))
        for fact in self._facts():
            state.update(repr(fact).encode())

    def _facts(self) -> list[object]:
        """What changes pixels besides the shape; only what is not as usual."""
        way, scale = self.conversion.interpolation, self.conversion.scale
        facts: list[object] = [] if way == "bilinear" or self.resize is None else [way]
        facts += [] if scale is None else [scale]
        rules = (self.conversion.background, self.conversion.exif)
        odd = [(place, self.treated[file]) for place, file in enumerate(self.files) if file in self.treated]
        return [*facts, rules, *odd] if odd else facts


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What the headers of the files say.

    Args:
        size: (h, w) of all, or None where they differ. smallest: the shortest side of any. treated: what is converted, of
            the files that are not taken as they are. grey: whether all are.
    """

    size: tuple[int, int] | None
    smallest: int
    grey: bool
    treated: Mapping[Path, tuple[str, ...]]
    #: the first file, and the first that has another size, with their sizes
    differing: tuple[tuple[Path, tuple[int, int]], ...] = ()

    def counts(self) -> dict[str, int]:
        """How many images get each treatment."""
        found = Counter(name for names in self.treated.values() for name in names)
        return {name: found[name] for name in TREATMENTS if found[name]}

    def common_size(self) -> tuple[int, int]:
        """The size of all.

        Raises:
            UserError: they differ.
        """
        if self.size is None:
            (first, one), (file, other) = self.differing
            raise UserError(
                f"{file} has {other[1]} x {other[0]} pixels but others {one[1]} x {one[0]} ({first.name}); resize and"
                f" crop them all with ;size={min(*one, *other)}"
            )
        return self.size


def scan(files: Iterable[Path], conversion: Conversion) -> Scanned:
    """Read the headers.

    Raises:
        UserError: files that are no images, or have pixels that cannot be used; as many are named as a sentence holds.
    """
    sizes: dict[tuple[int, int], Path] = {}
    treated: dict[Path, tuple[str, ...]] = {}
    bad: list[UnreadableError] = []
    names: list[Path] = []
    grey = True
    for file in files:
        try:
            known = header(file, conversion)
        except UnreadableError as error:
            bad.append(error)
            names.append(file)
            continue
        sizes.setdefault(known.size, file)
        grey = grey and known.grey
        if known.treated:
            treated[file] = known.treated
    if bad:
        raise UserError(f"{bad[0]}{_more(names[1:])}")
    return Scanned(
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        smallest=min(min(size) for size in sizes),
        grey=grey,
        treated=treated,
        differing=tuple((file, size) for size, file in list(sizes.items())[:2]),
    )


def _more(files: Sequence[Path]) -> str:
    """`; nor can 5 others be used: a.png, b.png, …`"""
    if not files:
        return ""
    shown = ", ".join(str(file) for file in files[:_NAMED]) + (", …" if len(files) > _NAMED else "")
    return f"; {len(files)} more cannot be used: {shown}" if len(files) > 1 else f"; nor can {shown} be used"


@dataclass(kw_only=True)
class Skipped:
    """Files that were passed over, counted by their suffix or name; those of images in formats that are not read."""

    plain: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)

    def add_odd(self, file: Path) -> None:
        """Count what has the name of an image or a folder but is not read: a link to nothing, a pipe, a linked folder."""
        self.odd["links to nothing" if not file.exists() else "linked folders" if file.is_dir() else "no files"] += 1

    def add(self, file: Path) -> None:
        suffix = file.suffix.lower()
        if file.name.startswith("._"):  # macOS keeps facts about x.jpg in ._x.jpg
            self.plain["._*"] += 1
        elif file.name.startswith(".") or not suffix:
            self.plain[file.name if file.name.startswith(".") else "without suffix"] += 1
        else:
            (self.pictures if suffix in _OTHERS else self.plain)[suffix] += 1

    def sentences(self) -> list[str]:
        """`7 files are no images: .txt (5), .DS_Store (2)`; nothing where there is none."""
        return [
            f"{total:,} {one if total == 1 else many}: {_listed(found)}{cure}"
            for found, one, many, cure in (
                (self.plain, "file is no image", "files are no images", ""),
                (self.pictures, f"file is {_UNREAD}", f"files are {_UNREAD}", "; save them as PNG to use them"),
                (self.odd, "name is not read", "names are not read", ""),
            )
            if (total := found.total())
        ]


def _listed(found: Counter[str]) -> str:
    shown = [f"{name[:40]} ({count:,})" for name, count in found.most_common(6)]
    return ", ".join(shown) + (", …" if len(found) > len(shown) else "")


def image_files(folder: Path, skipped: Skipped) -> tuple[Path, ...]:
    """The image files in a folder and the folders below it, sorted by name; hidden folders are left out.

    Args:
        skipped: counts the other files.

    Raises:
        UserError: there are none.
    """
    found: list[Path] = []
    own = Skipped()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in names:
            file = Path(place) / name
            if name.startswith(".") or file.suffix.lower() not in SUFFIXES:
                own.add(file)
                skipped.add(file)
            elif file.is_file():
                found.append(file)
            else:
                own.add_odd(file)
                skipped.add_odd(file)
        for linked in (Path(place) / name for name in folders if (Path(place) / name).is_symlink()):
            own.add_odd(linked)
            skipped.add_odd(linked)
    if not found:
        held = "; ".join(own.sentences())
        raise UserError(f"{folder} has no images; accepted: {_USUAL}{f' ({held})' if held else ''}")
    return tuple(sorted(found, key=lambda file: file.relative_to(folder).as_posix()))


def hidden(name: str) -> bool:
    """Whether a folder is none of the user's: `.git`, `.thumbnails`, what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"
