"""Weights from a file: safetensors first, pickles only when asked, the usual wrappings stripped and listed."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError
from robustbench_lite.zoo.base import first_line

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".th", ".ckpt", ".bin", ".tar")


def read_weights(path: Path, *, allow_pickle: bool = False) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a file, and which wrappers were stripped around them.

    A pickle is read with torch's `weights_only`, which runs no code: what needs code to be read is refused in any case.

    Raises:
        UserError: no such file, a corrupt one, or a pickle that was not allowed.
    """
    kind = path.suffix.lower()
    if kind in PICKLES and not allow_pickle:
        raise UserError(
            f"checkpoint {path.name!r} is a pickle and could run code;"
            " convert it to .safetensors, or pass --allow-pickle"
        )
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    if kind == ".safetensors":
        return _safetensors(path), ()
    if kind not in PICKLES:
        raise UserError(
            f"{str(path)!r} is no file of weights; accepted: .safetensors, or .pt and its kin with --allow-pickle"
        )
    return _unwrapped(_unpickled(path), path)


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Load the weights, strictly but for counters of batch normalisation; the prefixes stripped to make them fit.

    Raises:
        UserError: keys, shapes or types that do not fit, or NaN.
    """
    own = module.state_dict()
    weights, stripped = _without_prefixes(dict(weights), own)
    missing = sorted(key for key in own.keys() - weights.keys() if not key.endswith("num_batches_tracked"))
    strange = sorted(weights.keys() - own.keys())
    if missing or strange:
        first = f"{missing[0]} is missing" if missing else f"{strange[0]} is not in it"
        counts = f"{len(missing)} keys missing, {len(strange)} too many"
        raise UserError(f"{str(path)!r} does not fit the architecture: {first} ({counts})")
    for key in (key for key in own if key in weights):  # in the order of the layers, so that one message names one key
        _check_tensor(key, weights[key], own[key], path)
    module.load_state_dict(weights, strict=False)
    return stripped


def _check_tensor(key: str, tensor: Tensor, own: Tensor, path: Path) -> None:
    if tensor.shape != own.shape:
        given, wanted = tuple(tensor.shape), tuple(own.shape)
        raise UserError(f"{str(path)!r} does not fit the architecture: {key} has shape {given}, not {wanted}")
    if tensor.is_floating_point() != own.is_floating_point():
        raise UserError(f"{str(path)!r} does not fit the architecture: {key} is {tensor.dtype}, not {own.dtype}")
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        raise UserError(f"{str(path)!r} holds NaN or infinite weights ({key}); train or export it again")


def _without_prefixes(
    weights: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Strip prefixes that all keys share and the module does not have."""
    stripped: list[str] = []
    while weights and not weights.keys() & own.keys():
        prefix = next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in weights)), None)
        if prefix is None:
            break
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        stripped.append(prefix)
    return weights, tuple(stripped)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except Exception as error:  # its reader and the header's values fail in many ways on damaged bytes
        raise UserError(f"{str(path)!r} is corrupt or truncated: {first_line(error)}") from error


def _unpickled(path: Path) -> Any:
    """Tensors and plain containers alone: torch refuses anything that could run code."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of, it refuses as well
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path.name!r} is damaged or holds more than weights, and was not loaded;"
            " save its state_dict, or convert it to .safetensors"
        ) from error
    except Exception as error:  # zip, pickle and torch's reader fail in many ways on damaged bytes
        if "TorchScript" in str(error):
            raise UserError(f"{str(path)!r} is TorchScript; name it as torchscript:{path}") from error
        raise UserError(f"{str(path)!r} is corrupt or truncated: {first_line(error)}") from error


def _unwrapped(held: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    stripped: list[str] = []
    while isinstance(held, Mapping) and not _is_state(held):
        name = next((wrapper for wrapper in _WRAPPERS if isinstance(held.get(wrapper), Mapping)), None)
        if name is None:
            break
        held, stripped = held[name], [*stripped, name]
    if not isinstance(held, Mapping) or not _is_state(held):
        raise UserError(f"{str(path)!r} holds no state dict; accepted: one, or one under {', '.join(_WRAPPERS)}")
    return dict(held), tuple(stripped)


def _is_state(held: Mapping[str, Any]) -> bool:
    return bool(held) and all(isinstance(value, Tensor) for value in held.values())
