"""Images in the page: PNG data URIs of kept adversarial examples, small ones pixel by pixel."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustbench_lite.results.fates import CLEAN_WRONG, FAILED, LEFT_OUT
from robustbench_lite.results.run_data import RunData

#: images of one attack, pixels of the longer side, and bytes of all images of the page
_EACH, _SIDE, _BUDGET = 8, 96, 1_500_000


@dataclass(frozen=True, kw_only=True)
class Example:
    """One adversarial image: its data URI, what it is called, and whether it breaks the system."""

    uri: str
    text: str
    broken: bool


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The examples of one attack on one system."""

    model: str
    defense: str
    threat: str
    attack: str
    examples: tuple[Example, ...]


def uri(png: bytes) -> str:
    """The bytes of a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def strips(run: RunData) -> tuple[list[Strip], int]:
    """The kept examples, attack by attack, as far as the page has room; and how many attacks had to be left out."""
    found, left_out, spent, known = [], 0, 0, run.claimed
    names = ["dataset", "model", "defense", "threat", "attack", "adaptive", "key"]
    for who, rows in run.records.groupby(names, sort=False):
        _, model, defense, threat, attack, _, key = who
        kept = run.examples.get(str(key), {})
        shown = tuple(_examples(rows.to_dict("records"), kept))
        size = sum(len(one.uri) for one in shown)
        if not shown or spent + size > _BUDGET:
            left_out += bool(shown)
            continue
        spent += size
        place = dict(zip(names, who, strict=False))
        told = f"{attack} (plain)" if known.plain(place) else str(attack)
        found.append(Strip(model=str(model), defense=str(defense), threat=str(threat), attack=told, examples=shown))
    return found, left_out


def _examples(rows: list[dict[Any, Any]], kept: Mapping[int, np.ndarray]) -> Iterator[Example]:
    """The first kept images that were attacked."""
    mine = [row for row in rows if row["index"] in kept and row["reason"] not in (CLEAN_WRONG, LEFT_OUT, FAILED)]
    for row in mine[:_EACH]:
        image = kept[row["index"]]
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            continue
        broken = bool(row["broken"]) and bool(row["valid"])
        answer = f"{row['prediction']}, rejected" if row["rejected"] else f"{row['prediction']}"
        yield Example(uri=uri(_png(image)), text=f"{row['label']} → {answer}", broken=broken)


def _png(image: np.ndarray) -> bytes:
    """An image (1 or 3, h, w) in [0, 1], made smaller where it is larger than a thumbnail."""
    from PIL import Image

    pixels = (np.nan_to_num(np.clip(image, 0, 1)) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    picture.thumbnail((_SIDE, _SIDE))
    held = io.BytesIO()
    picture.save(held, "PNG", optimize=True)
    return held.getvalue()
