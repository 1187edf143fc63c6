"""The constants of a normalisation that lie in a file of weights."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import UserError, cut
from robustbench_lite.zoo.adapt import NOTHING, Normalisation, in_bytes, scaled

#: last parts of the names of a normalisation's constants
CONSTANTS = {
    **dict.fromkeys(("mean", "means", "mu", "new_mean", "pixel_mean", "image_mean", "norm_mean", "input_mean"), "mean"),
    **dict.fromkeys(
        ("std", "stds", "sds", "sigma", "new_std", "pixel_std", "image_std", "norm_std", "input_std"), "std"
    ),
}
_NO_CONSTANTS = ("loss", "criterion", "metric", "acc", "optim")


def _is_constant(key: str, tensor: Tensor) -> bool:
    parent, _, last = key.rpartition(".")
    few = 1 <= tensor.numel() <= 16 and max((*tensor.shape, 1)) == tensor.numel()
    return few and last in CONSTANTS and not any(word in parent.lower() for word in _NO_CONSTANTS)


def constants_in(
    weights: Mapping[str, Tensor], used: Collection[str], prefix: str, path: Path
) -> tuple[Normalisation | None, set[str]]:
    """Mean and std of a normalisation among the tensors of a file, in units of [0, 1], and the keys of all such tensors.

    Args:
        used: keys that are weights of the network. prefix: of the network; of several normalisations that differ, the one
            that stands beside it is meant.

    Raises:
        UserError: there are several, and it cannot be said which is meant.
    """
    loose = {key: tensor for key, tensor in weights.items() if key not in used and _is_constant(key, tensor)}
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, tensor in loose.items():
        parent, _, last = key.rpartition(".")
        found.setdefault(parent, {})[CONSTANTS[last]] = tuple(float(value) for value in tensor.flatten().tolist())
    each = {parent: (one.get("mean", (0.0,)), one.get("std", (1.0,))) for parent, one in found.items()}
    if not _alike(each.values()):
        beside = {parent: one for parent, one in each.items() if prefix and parent.startswith(prefix.split(".")[0])}
        each = beside if beside and _alike(beside.values()) else each
    if not _alike(each.values()):
        raise UserError(
            f"{cut(path)!r} holds several normalisations ({cut(', '.join(loose))}); name the one with"
            " ;mean=(…);std=(…), or save the network alone"
        )
    one = next(iter(each.values()), None)
    return (scaled(one) if one is not None and in_bytes(one) else one), set(loose)


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
