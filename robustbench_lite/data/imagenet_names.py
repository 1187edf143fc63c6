"""The classes of ImageNet's heads, by WordNet id (n01440764) or by name (tench), from the tables that timm ships."""

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from robustbench_lite.errors import UserError

#: how many classes a head of ImageNet has, and the table that numbers them
_TABLES = {
    1000: "imagenet_synsets.txt",
    11221: "imagenet21k_miil_synsets.txt",
    11821: "imagenet12k_synsets.txt",
    21841: "imagenet22k_synsets.txt",
    21842: "imagenet22k_ms_synsets.txt",
    21843: "imagenet21k_goog_synsets.txt",
}
USUAL = 1000
_WNID = re.compile(r"n\d{8}")


def is_wnid(name: str) -> bool:
    """Whether a text begins with a WordNet id: `n01440764`, `n01440764_tench`."""
    return bool(_WNID.match(name.lower())) and not name[9:10].isdigit()


def numbers(names: Sequence[str], classes: int = USUAL) -> dict[str, int] | None:
    """The index of every name in a head of that many classes; None where one of them is no class of ImageNet, or no head
    of ImageNet has so many.

    Raises:
        UserError: a name that is two classes (`crane`), two names of one class, or WordNet ids without the table.
    """
    if not names or classes not in _TABLES:
        return None
    known = _indices(classes)
    if known is None:
        if all(map(is_wnid, names)):
            raise UserError(
                f"{names[0]} is a class of ImageNet, and its number is in a table of timm, which is not here"
            )
        return None
    found = [known.get(_plain(name), ()) for name in names]
    if not all(found):
        return None
    for name, places in zip(names, found, strict=True):
        if len(places) > 1:
            wnids = " or ".join(synsets(classes)[place] for place in places)
            raise UserError(f"{name} is the name of {len(places)} classes of ImageNet; write which: {wnids}")
    placed = {name: places[0] for name, places in zip(names, found, strict=True)}
    first: dict[int, str] = {}
    for name, place in placed.items():
        if first.setdefault(place, name) != name:
            raise UserError(f"{first[place]} and {name} are the same class of ImageNet, {synsets(classes)[place]}")
    return placed


@cache
def synsets(classes: int) -> tuple[str, ...]:
    """The WordNet ids of a head's classes, in its order; empty where the table is not there."""
    text = _read(_TABLES[classes])
    return tuple(text.split()) if text else ()


@cache
def _indices(classes: int) -> dict[str, tuple[int, ...]] | None:
    """What a class may be called -> its index, or its indices where several are called so."""
    ids, table = synsets(classes), _read("imagenet_synset_to_lemma.txt")
    if not ids:
        return None
    words = dict(line.split("\t", 1) for line in table.splitlines() if "\t" in line)
    found: dict[str, tuple[int, ...]] = {}
    for place, wnid in enumerate(ids):
        every = words.get(wnid, "")
        for name in dict.fromkeys([wnid, *(_plain(part) for part in (*every.split(","), every) if part.strip())]):
            found[name] = (*found.get(name, ()), place)
    return found


def _plain(name: str) -> str:
    """Of `n01440764_tench` the id; of other names the words alone, so that `Great_White-shark` is `great white shark`."""
    return name[:9].lower() if is_wnid(name) else " ".join(re.split(r"[\s_\-]+", name.lower())).strip()


def _read(name: str) -> str:
    """A table of timm; its package is not imported, which would take seconds. Empty where it is not there."""
    found = importlib.util.find_spec("timm")
    places = [] if found is None else list(found.submodule_search_locations or ())
    file = Path(places[0]) / "data" / "_info" / name if places else Path(name)
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
