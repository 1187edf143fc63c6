"""The constants of a normalisation that lie in a file of weights."""

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import cut
from robustbench_lite.zoo.adapt import NOTHING, Normalisation, in_bytes, scaled
from robustbench_lite.zoo.pickles import Array

#: words in the last part of a constant's name; and words that may stand beside them
_MEANS, _STDS = ("mean", "means", "mu"), ("std", "stds", "sds", "sd", "stdev", "sigma")
_BESIDE = (
    *("new", "norm", "normalize", "input", "inputs", "in", "x", "data", "dataset", "train", "image", "images", "img"),
    *("pixel", "pixels", "channel", "channels", "rgb", "imagenet", "cifar", "cifar10", "cifar100", "mnist", "tensor"),
)
_NO_CONSTANTS = ("loss", "criterion", "metric", "acc", "optim")
#: parts of the names of what normalises images, and what layers of other kinds keep under such names
_OPTIONS = ("transform", "data", "config", "cfg", "hparam", "hyper", "arg", "meta", "opt")
_NORMALISING, _OF_LAYERS = (
    ("normaliz", "normalis", "preproc", "standardi"),
    ("weight", "bias", "running_mean", "running_var"),
)
_COUNTERS = ("n_averaged", "num_batches_tracked")


def constant_of(name: str) -> str | None:
    """Whether a name is that of a `mean` or a `std` of images; None: of neither."""
    words = [word for word in name.rpartition(".")[2].lower().split("_") if word and word not in _BESIDE]
    if len(words) != 1:
        return None
    return "mean" if words[0] in _MEANS else "std" if words[0] in _STDS else None


def _is_small(key: str, tensor: Tensor) -> bool:
    parent = key.rpartition(".")[0].lower()
    few = 1 <= tensor.numel() <= 16 and max((*tensor.shape, 1)) == tensor.numel()
    return few and not any(word in parent for word in _NO_CONSTANTS)


def _is_constant(key: str, tensor: Tensor) -> bool:
    return constant_of(key) is not None and _is_small(key, tensor)


def has_constants(weights: Mapping[str, Tensor]) -> bool:
    """Whether a normalisation's constants are among the tensors."""
    return any(_is_constant(key, tensor) for key, tensor in weights.items())


def _odd_constants(weights: Mapping[str, Tensor], used: Collection[str]) -> tuple[str, ...]:
    """The keys of a normalisation that is not one mean and one std, such as a mean with a variance."""
    loose = {key: tensor for key, tensor in weights.items() if key not in used and _is_small(key, tensor)}
    beside: dict[str, list[str]] = {}
    for key, tensor in loose.items():
        parent, _, last = key.rpartition(".")
        if tensor.is_floating_point() and last not in (*_OF_LAYERS, *_COUNTERS):
            beside.setdefault(parent, []).append(key)
    for parent, keys in beside.items():
        kinds = {constant_of(key) for key in keys}
        if None not in kinds:
            continue
        normalising = len(keys) > 1 and any(word in parent.lower() for word in _NORMALISING)
        if len(kinds) == 2 or (len(kinds) == 1 and normalising):
            return tuple(keys)
    return ()


def constants_beside(held: Any, opening: Iterable[str]) -> Normalisation | None:
    """Mean and std of images that a file tells beside the weights, in units of [0, 1]: as options of the training, for instance.

    Args:
        held: what the file holds. opening: the names that lead to the weights.
    """
    for name in (*opening, None):
        if not isinstance(held, Mapping):
            return None
        near = [(part, one) for part, one in held.items() if isinstance(one, Mapping) and isinstance(part, str)]
        tables = [
            (part, one) for part, one in near if any(word in part.lower() for word in ("norm", "preproc", *_OPTIONS))
        ]
        for part, table in (("", held if name else {}), *tables):
            found = _pair(table, single="norm" in part.lower() or "preproc" in part.lower())
            if found is not None:
                return scaled(found) if in_bytes(found) else found
        held = held.get(name)
    return None


def _pair(table: Mapping[Any, Any], *, single: bool) -> Normalisation | None:
    """The mean and std in a table, if they are numbers of channels. single: one bare number is meant so, too."""
    found: dict[str, tuple[float, ...]] = {}
    for name, value in table.items():
        kind = constant_of(name) if isinstance(name, str) else None
        if kind is None:
            continue
        if isinstance(value, Array):
            value = value.tensor()
        if isinstance(value, Tensor) and value.numel() <= 16:
            value = value.flatten().tolist()
        row = value if isinstance(value, (list, tuple)) else [value] if single else []
        if 1 <= len(row) <= 16 and all(type(one) in (int, float) and math.isfinite(one) for one in row):
            found.setdefault(kind, tuple(map(float, row)))
    if len(found) < 2 or len(found["mean"]) != len(found["std"]) or min(found["std"]) <= 0:
        return None
    return found["mean"], found["std"]


def constants_in(
    weights: Mapping[str, Tensor], used: Collection[str], prefix: str, path: Path
) -> tuple[Normalisation | None, set[str], str]:
    """Mean and std of a normalisation among the tensors of a file, in units of [0, 1].

    Args:
        used: keys that are weights of the network. prefix: of the network; of several normalisations that differ, the one
            that stands beside it is meant.

    Returns:
        The constants, the keys of all such tensors, and why it cannot be said how images are normalised, if it cannot.
    """
    odd = _odd_constants(weights, used)
    if odd:
        why = f"{cut(', '.join(odd))}, which seem to be of a normalisation, and it cannot be said of which"
        return None, set(), _unclear(why, path)
    loose = {key: tensor for key, tensor in weights.items() if key not in used and _is_constant(key, tensor)}
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, tensor in loose.items():
        parent = key.rpartition(".")[0]
        found.setdefault(parent, {})[str(constant_of(key))] = tuple(float(value) for value in tensor.flatten().tolist())
    each = {parent: (one.get("mean", (0.0,)), one.get("std", (1.0,))) for parent, one in found.items()}
    if not _alike(each.values()):
        beside = {parent: one for parent, one in each.items() if prefix and parent.startswith(prefix.split(".")[0])}
        each = beside if beside and _alike(beside.values()) else each
    keys = cut(", ".join(loose))
    if not _alike(each.values()):
        return None, set(loose), _unclear(f"several normalisations ({keys})", path)
    one = next(iter(each.values()), None)
    if one is not None and not (all(math.isfinite(value) for value in (*one[0], *one[1])) and min(one[1]) > 0):
        why = f"a normalisation of no use ({keys}): its numbers must be finite, and std above 0"
        return None, set(loose), _unclear(why, path)
    return (scaled(one) if one is not None and in_bytes(one) else one), set(loose), ""


def _unclear(why: str, path: Path) -> str:
    cure = "say how images are normalised with ;mean=(…);std=(…), or normalize=none if they are not"
    return f"{cut(path)!r} holds {why}; {cure}"


def _alike(each: Iterable[Normalisation]) -> bool:
    first, *rest = list(each) or [NOTHING]
    return all(same_constants(first, one) for one in rest)


def constant_texts(constants: Normalisation, channels: int) -> dict[str, str]:
    """The options `mean` and `std` that say the same; one number for all channels is written for each of them."""
    wide = [values * channels if len(values) == 1 else values for values in constants]
    # the shortest text that a float32 reads back from: 0.4914 and not 0.49140000343
    mean, std = (",".join(str(np.float32(value)) for value in values) for values in wide)
    return {"mean": mean, "std": std}


def same_constants(one: Normalisation | None, other: Normalisation | None) -> bool:
    """Whether two normalisations do the same; None is none."""
    for first, second in zip(one or NOTHING, other or NOTHING, strict=True):
        size = max(len(first), len(second))
        a, b = torch.tensor(first), torch.tensor(second)
        if size % len(a) or size % len(b) or not torch.allclose(a.expand(size), b.expand(size), atol=1e-6):
            return False
    return True
