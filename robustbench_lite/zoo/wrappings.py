"""What people leave around a state dict: containers, prefixes of wrappers, averages' counters, constants of normalisation."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import UserError, unknown

#: under which names state dicts are kept
CONTAINERS = (
    *("state_dict", "model_state_dict", "model", "net", "module", "network", "last", "best"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model_state_dict"),
)
#: of DataParallel, torch.compile, Lightning, averages, and of nn.Sequential(normalise, network)
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "ema.", "model_ema.", "0.", "1.")
_CONSTANTS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
_COUNTERS = ("n_averaged",)
Constants = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A state dict without what was around it.

    Args:
        stripped: what that was, from the outside in. constants: mean and std of a normalisation that has no place in the
            module, or None: whoever strips them answers for their being applied all the same.
    """

    weights: dict[str, Tensor]
    stripped: tuple[str, ...]
    constants: Constants | None = None


def opened(held: Any, path: Path, part: str | None = None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in what a file held, and the containers it was in.

    Args:
        part: which container, where there are several: the last or the best weights, the live ones or their average.

    Raises:
        UserError: there is none, there are several and none was chosen, or not the chosen one.
    """
    containers: list[str] = []
    seen: list[str] = []
    while isinstance(held, Mapping) and not _is_state(held):
        names = [name for name in CONTAINERS if _holds(held.get(name))]
        seen += names
        if not names:
            break
        if part not in names and len(names) > 1:
            choice = ", ".join(names)
            raise UserError(f"{str(path)!r} holds several networks: {choice}; choose one with ;part={names[0]}")
        name = part if part in names else names[0]
        assert name is not None
        held, containers = held[name], [*containers, name]
    if not isinstance(held, Mapping) or not _is_state(held):
        known = "state_dict, model_state_dict, model, net and their kin"
        raise UserError(f"{str(path)!r} holds no state dict; accepted: one, or one under {known}")
    if part is not None and part not in containers:
        raise unknown(f"part of {path.name}", part, seen)
    return dict(held), tuple(containers)


def bare(weights: Mapping[str, Tensor], own: Collection[str], unused: tuple[str, ...] = (), *, path: Path) -> Bare:
    """Strip what all keys share and the module does not have, then what is no part of the network.

    Args:
        own: the module's keys. unused: prefixes of weights that published files hold and the network never reads.

    Raises:
        UserError: constants of more than one normalisation.
    """
    weights, stripped = _without_prefixes(dict(weights), own)
    for what in (*(f"{prefix}*" for prefix in unused), *_COUNTERS):
        found = [key for key in weights if key not in own and _matches(key, what)]
        stripped += [what] if found else []
        weights = {key: tensor for key, tensor in weights.items() if key not in found}
    loose = {key: tensor for key, tensor in weights.items() if key not in own and _role(key)}
    weights = {key: tensor for key, tensor in weights.items() if key not in loose}
    return Bare(weights=weights, stripped=(*stripped, *loose), constants=_constants(loose, path))


def constants_of(weights: Mapping[str, Tensor], path: Path) -> Constants | None:
    """Mean and std of the normalisation that a file tells of, wherever it is kept; None without one.

    Raises:
        UserError: constants of more than one normalisation.
    """
    return _constants({key: tensor for key, tensor in weights.items() if _role(key)}, path)


def constant_texts(constants: Constants, channels: int) -> dict[str, str]:
    """The options `mean` and `std` that say the same; one number for all channels is written for each of them."""
    wide = [values * channels if len(values) == 1 else values for values in constants]
    # the shortest text that a float32 reads back from: 0.4914 and not 0.49140000343
    mean, std = (",".join(str(np.float32(value)) for value in values) for values in wide)
    return {"mean": mean, "std": std}


def check_constants(constants: Constants | None, applied: Constants | None, path: Path) -> None:
    """Refuse a file whose network was trained behind another normalisation than the one that is applied.

    Args:
        constants: the file's. applied: before the module; None: nothing is.

    Raises:
        UserError: they differ.
    """
    if constants is None:
        return
    applied = applied or ((0.0,), (1.0,))
    for given, wanted in zip(applied, constants, strict=True):
        size = max(len(given), len(wanted))
        one, other = torch.tensor(given), torch.tensor(wanted)
        if size % len(one) or size % len(other) or not torch.allclose(one.expand(size), other.expand(size), atol=1e-6):
            told, here = constant_texts(constants, 1), constant_texts(applied, 1)
            raise UserError(
                f"{str(path)!r} normalises by mean=({told['mean']}), std=({told['std']}), the model by"
                f" mean=({here['mean']}), std=({here['std']}); give the file's"
            )


def _without_prefixes(weights: dict[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    stripped: list[str] = []
    while True:
        body = [key for key in weights if not _role(key) and key not in _COUNTERS]
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in body)), None)
        if not body or prefix is None or any(key in own for key in body):
            return weights, stripped
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        stripped.append(prefix)


def _constants(loose: Mapping[str, Tensor], path: Path) -> Constants | None:
    found: dict[str, tuple[float, ...]] = {}
    for key, tensor in loose.items():
        role = _role(key)
        if role in found:
            raise UserError(f"{str(path)!r} holds several normalisations ({', '.join(loose)}); save the network alone")
        found[role] = tuple(tensor.flatten().tolist())
    if not found:
        return None
    return found.get("mean", (0.0,)), found.get("std", (1.0,))


def _role(key: str) -> str:
    """`mean` or `std` of what looks like a constant of normalisation; nothing of any other key."""
    return _CONSTANTS.get(key.rpartition(".")[2], "")


def _matches(key: str, what: str) -> bool:
    return key.startswith(what[:-1]) if what.endswith("*") else key == what


def _holds(held: Any) -> bool:
    """Whether there is a state dict somewhere in it."""
    return isinstance(held, Mapping) and (_is_state(held) or any(_holds(held.get(name)) for name in CONTAINERS))


def _is_state(held: Mapping[str, Any]) -> bool:
    return bool(held) and all(isinstance(value, Tensor) for value in held.values())
