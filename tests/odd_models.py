"""Damaged and odd files, cards and specs: each is read, or refused with one sentence.

`python tests/odd_models.py COUNT [SEED]` tries so many.
"""

import collections
import json
import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from robustbench_lite import zoo
from robustbench_lite.errors import UserError

DIGITS: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
#: pieces of specs, right and wrong
PIECES = (
    *(
        "linear",
        "small-cnn",
        "resnet20",
        "checkpoint:",
        "torchscript:",
        "export:",
        "timm:",
        "net.pt",
        "net.safetensors",
        "net.json",
    ),
    *(
        "net.py:make",
        "a.b:C",
        ";weights=",
        ";arch=",
        ";part=",
        ";prefix=",
        ";normalize=",
        ";mean=",
        ";std=",
        ";resize=",
        ";grey=",
    ),
    *(
        "(",
        ")",
        "imagenet",
        "0.5",
        "none",
        "repeat",
        "8",
        "-1",
        "1e999",
        "nan",
        ",",
        ":",
        "=",
        ";",
        "+",
        "/",
        "..",
        "~",
        "~x",
        "\0",
    ),
    *(
        "\n",
        "\r",
        "é",
        "\ud800",
        "%s",
        "{}",
        "[bold]",
        "x" * 300,
        " ",
        "ema.model",
        "module.",
        "1.",
        ";train=true",
        ";random=true",
    ),
)
ODD = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1e308,
    float("nan"),
    "",
    "x" * 10_000,
    "linear",
    [],
    [1, 8, 8],
    {},
    {"a": {}},
    [[[]]],
    "\ud800",
)


def files(folder: Path) -> dict[str, bytes]:
    """The contents of files of every kind that is read."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found: dict[str, bytes] = {}
    extra = {"args": Namespace(lr=0.1), "acc": np.float64(3), "seen": collections.defaultdict(list, a=[1])}
    content = {"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}, **extra}
    for name, zipped in (("zip.pt", True), ("old.pt", False)):
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    torch.save(net, folder / "whole.pt")
    torch.jit.trace(net, torch.rand(2, 1, 8, 8)).save(str(folder / "net.torchscript"))
    zoo.save_checkpoint(
        folder / "net.safetensors", net, {"architecture": "linear", "num_classes": 10, "input_shape": [1, 8, 8]}
    )
    for path in sorted(folder.iterdir()):
        found[path.name] = path.read_bytes()
    found["flat.safetensors"] = save({f"a.{key}": value for key, value in net.state_dict().items()})
    return found


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut, hit, doubled, or filled with something else, once or a few times."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(content) + 1)
        until = min(len(content), at + draw.choice((1, 2, 8, 64, 1000)))
        middle = draw.choice(
            (
                b"",
                bytes([draw.randrange(256)]),
                draw.randbytes(8),
                content[at:until] * 2,
                b"\0" * (until - at),
                b"9" * 40,
            )
        )
        content = draw.choice(
            (content[:at], content[:at] + middle + content[until:], content[:at] + middle + content[until:])
        )
    return content


def odd_card(card: dict[str, Any], draw: random.Random) -> bytes:
    """A card with other values at other names."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        name = draw.choice((*card, "clean_accuracy", "class_names", "data", "defense", "kind", "x"))
        card[name] = draw.choice(ODD)
    text = json.dumps(card)
    return draw.choice((text, text, "\ufeff" + text, text.replace(":", ":[" * 50), "[" * 9999, text + text)).encode(
        errors="replace"
    )


def tries(folder: Path, draw: random.Random) -> list[Callable[[], Any]]:
    """One of each: a damaged file, an odd card, a text."""
    name, content = draw.choice(sorted(files_of[folder].items()))
    path = folder / f"damaged{Path(name).suffix}"
    card = json.loads(files_of[folder]["net.json"])

    def file() -> None:
        path.write_bytes(damaged(content, draw))
        spec = {".torchscript": f"torchscript:{path}", ".json": f"checkpoint:{path}"}.get(
            path.suffix, f"linear;weights={path}"
        )
        zoo.load(spec, **DIGITS, allow_pickle=True)

    def odd() -> None:
        (folder / "card.safetensors").write_bytes(files_of[folder]["net.safetensors"])
        (folder / "card.json").write_bytes(odd_card(card, draw))
        zoo.load(f"checkpoint:{folder}/card.safetensors", **DIGITS, class_names=tuple("0123456789"))

    def text() -> None:
        written = "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 9)))
        for read in (zoo.architecture_of, lambda one: zoo.load(one, **DIGITS, allow_pickle=True)):
            try:
                read(written)
            except UserError as error:
                if not 0 < len(str(error).strip()) < 1500:
                    raise ValueError(f"a message of {len(str(error))} letters") from error

    return [file, odd, text]


files_of: dict[Path, dict[str, bytes]] = {}


def fuzz(count: int, seed: int, folder: Path) -> list[str]:
    """What was not refused as it should be, of so many tries; each is made from its own number."""
    files_of[folder] = files(folder)
    wrong = []
    for number in range(count):
        draw = random.Random(f"{seed}.{number}")
        one = draw.choice(tries(folder, draw))
        try:
            one()
        except UserError:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{seed}.{number} {one.__name__}: {type(error).__name__}: {str(error)[:200]}")
    return wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, Path(place))
    print(*found, f"{len(found)} of {sys.argv[1]} tries ended in anything but a sentence", sep="\n")
    sys.exit(bool(found))
