"""Odd files of images, labels and examples, by the thousand: each is read, or refused in a sentence; none ends in a traceback.

python tests/odd_files.py [COUNT [FIRST_SEED]]
"""

import io
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustbench_lite import data
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.run.submission import read
from robustbench_lite.run.verify import verify
from robustbench_lite.system import System

SHAPE = (3, 6, 6)
DTYPES = ("u1", "i8", "f2", "f4", "f8", "?", "u2", "c8", "U3", "S2", "M8[s]", "O", "V4", "i1", "u4")
#: the longest message that is still a sentence
LONGEST = 1500


def shape(chance: random.Random) -> tuple[int, ...]:
    usual = [(5, *SHAPE), (5, 6, 6, 3), (5, 6, 6), (5, 1, 6, 6), (5,), (6, 6), (), (0, 3, 6, 6), (5, 3, 6, 0), (5, 108)]
    if chance.random() < 0.7:
        return chance.choice(usual)
    return tuple(chance.choice([0, 1, 2, 3, 5, 6]) for _ in range(chance.randrange(6)))


def array(chance: random.Random, labels: bool = False) -> np.ndarray:
    size = (5,) if labels and chance.random() < 0.6 else shape(chance)
    draw = np.random.default_rng(chance.randrange(2**32))
    white = chance.choice([1, 1, 255, 16, 1 / 255, 1e30, 2])
    values = draw.random(size) * white - chance.choice([0, 0, 0, 0.5 * white])
    kind = chance.choice(DTYPES) if chance.random() < 0.5 else chance.choice(["u1", "f4", "i8"])
    if labels and chance.random() < 0.7:
        values, kind = draw.integers(0, 4, size), "i8"
    if chance.random() < 0.15 and values.size and kind != "i8":
        np.asarray(values).reshape(-1)[:1] = chance.choice([np.nan, np.inf, -np.inf])
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        try:
            return np.asarray(values).astype(kind)
        except (TypeError, ValueError):
            return np.asarray(values)


def plausible(chance: random.Random) -> np.ndarray:
    """Images, mostly."""
    if chance.random() < 0.3:
        return array(chance)
    draw = np.random.default_rng(chance.randrange(2**32))
    size = chance.choice([(5, *SHAPE), (5, 6, 6, 3), (5, 6, 6)])
    return draw.integers(0, 256, size, dtype=np.uint8) if chance.random() < 0.5 else draw.random(size, dtype=np.float32)


def damaged(chance: random.Random, content: bytes) -> bytes:
    """The content, perhaps cut, hit, repeated, or with something before it."""
    way = chance.random()
    if way < 0.6 or not content:
        return content
    place = chance.randrange(len(content))
    if way < 0.7:
        return content[:place]
    if way < 0.85:
        hit = bytearray(content)
        for _ in range(chance.choice([1, 1, 4, 40])):
            hit[chance.randrange(len(hit))] ^= 1 << chance.randrange(8)
        return bytes(hit)
    return chance.choice([b"", b"\0" * 9, b"\xef\xbb\xbf"]) + content[place:] + content[:place]


NAMES = (
    "x",
    "y",
    "x_adv",
    "adv",
    "labels",
    "indices",
    "images",
    "arr_0",
    "adv_complete",
    "inputs",
    "strange name",
    "ä",
)


def npz(chance: random.Random, folder: Path) -> Callable[[], object]:
    held: dict[str, Any] = {name: array(chance, name in ("y", "labels", "indices")) for name in chance.sample(NAMES, 3)}
    if chance.random() < 0.7:
        held |= {"x": plausible(chance), "y": np.random.default_rng(chance.randrange(2**32)).integers(0, 3, 5)}
    buffer = io.BytesIO()
    chance.choice([np.savez, np.savez_compressed])(buffer, **held)
    path = folder / "set.npz"
    path.write_bytes(damaged(chance, buffer.getvalue()))
    options = chance.choice(["", ";scale=16", ";classes=3", ";layout=nchw", ";layout=nhwc", ";scale=0", ";scale=nan"])
    return lambda: data.load(f"npz:{path}{options}").batch([0])


def examples(chance: random.Random, folder: Path) -> Callable[[], object]:
    """A file for `verify`: .npz, .npy or .pt of anything."""
    kind = chance.choice([".npz", ".npy", ".pt", ".pth", ".PT"])
    buffer = io.BytesIO()
    if kind == ".npz":
        np.savez(buffer, **{name: array(chance, name in ("y", "indices")) for name in chance.sample(NAMES, 3)})
    elif kind == ".npy":
        np.save(buffer, array(chance))
    else:
        torch.save(tree(chance, 0), buffer)
    path = folder / f"adv{kind}"
    path.write_bytes(damaged(chance, buffer.getvalue()))
    return lambda: judged(path) if chance.random() < 0.3 else read(path, SHAPE)


def tree(chance: random.Random, depth: int) -> Any:
    """What people put into torch.save: tensors, tables, lists, numbers, texts, in each other."""
    if depth > 3 or chance.random() < 0.5:
        return leaf(chance)
    if depth == 0 and chance.random() < 0.5:
        return {chance.choice(NAMES): torch.from_numpy(draws(chance)), "labels": torch.arange(5) % 3, "n": leaf(chance)}
    if chance.random() < 0.5:
        return {chance.choice([*NAMES, 3, None]): tree(chance, depth + 1) for _ in range(chance.randrange(4))}
    items = [tree(chance, depth + 1) for _ in range(chance.randrange(4))]
    return items if chance.random() < 0.5 else tuple(items)


def draws(chance: random.Random) -> np.ndarray:
    return np.random.default_rng(chance.randrange(2**32)).random((5, *SHAPE), dtype=np.float32)


def leaf(chance: random.Random) -> Any:
    try:
        tensor = torch.from_numpy(array(chance))
    except TypeError:
        return chance.choice([None, 3, 2.5, "text", b"bytes", {1, 2}, array(chance)])
    way = chance.randrange(8)
    if way == 0:
        return tensor.to_sparse() if tensor.dim() and tensor.is_floating_point() else tensor
    if way == 1 and tensor.is_floating_point():
        return chance.choice([tensor.half(), tensor.bfloat16(), tensor.float().requires_grad_()])
    return tensor if way < 6 else [tensor, tensor]


def judged(path: Path) -> object:
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(5, *SHAPE, generator=generator), torch.arange(5) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).requires_grad_(False)
    return verify(
        path, System(model=model, num_classes=3, input_shape=SHAPE, name="net"), x, y, threat="Linf:0.1"
    ).told()


def tensors(chance: random.Random, folder: Path) -> Callable[[], object]:
    x, y = plausible(chance), array(chance, True)
    return lambda: from_tensors(x, y).batch([0])


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB", "HSV")
KINDS = (".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm", ".tga", ".jp2", ".avif", ".pcx", ".JPEG", ".txt")


def picture(chance: random.Random, path: Path) -> None:
    size = (6, 6) if chance.random() < 0.8 else (chance.choice([1, 6, 7]), chance.choice([1, 6, 7]))
    white = 256 if chance.random() < 0.8 else chance.choice([1, 2, 17])
    levels = np.random.default_rng(chance.randrange(2**32)).integers(0, white, (*size, 4))
    image = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    mode = chance.choice(MODES) if chance.random() < 0.6 else "RGB"
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = chance.choice([1, 3, 6, 0, 9, 200])
    try:
        image = Image.fromarray(levels.astype(np.uint8)) if mode == "RGBA" else image.convert(mode)
        more: dict[str, Any] = {"exif": exif} if chance.random() < 0.3 else {}
        more |= {"transparency": 0} if chance.random() < 0.1 else {}
        kind = chance.choice(KINDS) if chance.random() < 0.5 else ".png"
        if kind != ".avif" and chance.random() < 0.1:  # Pillow 13 crashes when it writes several frames as AVIF
            more |= {"save_all": True, "append_images": [image.copy()]}
        image.save(buffer, Image.registered_extensions().get(kind.lower(), "PNG"), **more)
    except Exception:  # what Pillow cannot write
        image = Image.fromarray(levels[..., :3].astype(np.uint8))
        kind = ".png"
        image.save(buffer, "PNG")
    content = buffer.getvalue()
    path.with_name(path.name + kind).write_bytes(damaged(chance, content) if chance.random() < 0.3 else content)


CLASS_NAMES = (
    "a",
    "b",
    "0",
    "1",
    "7",
    "n01440764",
    "tench",
    "crane",
    "n99999999",
    "é",
    ".hidden",
    "train",
    "x y",
    "-1",
)
OPTIONS = (
    *("", "", "", ";size=4", ";size=4;resize=5;interpolation=bicubic", ";channels=1", ";channels=3", ";classes=1000"),
    *(";classes=2", ";background=black", ";background=none", ";exif=false", ";scale=16", ";scale=65535", ";size=999"),
)


def images(chance: random.Random, folder: Path) -> Callable[[], object]:
    for name in chance.sample(CLASS_NAMES, chance.choice([0, 1, 2, 2, 2, 3])):
        (folder / name).mkdir()
        for number in range(chance.choice([0, 1, 1, 1, 1, 2])):
            picture(chance, folder / name / f"{chance.choice(['', '', '', '', '.', '._'])}p{number}")
    options = chance.choice(OPTIONS)

    def load() -> None:
        found = data.load(f"folder:{folder}{options}")
        found.batch(range(len(found)))
        found.digest()

    return load


CELLS = (
    "x.png",
    "y.png",
    "file",
    "label",
    "index",
    "0",
    "1",
    "-1",
    "3.0",
    "tench",
    "n01440764",
    "",
    " ",
    '"',
    "a" * 300,
)
MARKS = (",", ",", ";", "\t", " ", "|")


def table(chance: random.Random, folder: Path) -> Callable[[], object]:
    for name in ("x.png", "y.png"):
        picture(chance, folder / name.removesuffix(".png"))
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(folder / name)
    mark = chance.choice(MARKS)
    rows = [chance.choice(["file", "Filename", "image"]), chance.choice(["label", "index", "class"])]
    lines = [mark.join(rows)] if chance.random() < 0.7 else []
    for _ in range(chance.randrange(4)):
        some = [chance.choice(CELLS) for _ in range(chance.choice([1, 2, 2, 3]))]
        lines.append(
            mark.join(some if chance.random() < 0.4 else [chance.choice(CELLS[:2]), chance.choice(CELLS[5:11])])
        )
    text = chance.choice(["\n", "\r\n", "\r"]).join(lines)
    coded = text.encode(chance.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]))
    (folder / "t.csv").write_bytes(damaged(chance, coded))
    options = chance.choice(["", ";classes=2", ";size=5", ";classes=1000"])

    def load() -> None:
        found = data.load(f"folder:{folder};labels=t.csv{options}")
        found.batch(range(len(found)))
        found.digest()

    return load


WAYS = (npz, examples, tensors, images, table)


def outcome(seed: int) -> str:
    """`read` or `refused`; anything else is a fault of ours, with its traceback."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", (DeprecationWarning, Image.DecompressionBombWarning))
        attempt = WAYS[seed % len(WAYS)](chance, Path(name))
        try:
            attempt()
        except UserError as error:
            text = str(error)
            return "refused" if 0 < len(text) <= LONGEST and "\n" not in text else f"no sentence: {text!r}"
        except Exception:
            return traceback.format_exc()
    return "read"


def main(count: int, first: int) -> int:
    found: Counter[str] = Counter()
    for seed in range(first, first + count):
        result = outcome(seed)
        if result not in ("read", "refused"):
            print(f"seed {seed} ({WAYS[seed % len(WAYS)].__name__}): {result}", flush=True)
            result = "fault"
        found[result] += 1
    print(f"{count} files: {dict(found)}")
    return int(found["fault"] > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = [int(text) for text in sys.argv[1:]]
    sys.exit(main(*(numbers + [1000, 0][len(numbers) :])))
