"""Weights from a file: safetensors first, pickles only when asked, the usual wrappings stripped and listed."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "last", "best")
_PREFIXES = ("module.", "model.", "_orig_mod.")
PICKLES = (".pt", ".pth", ".pkl", ".th", ".ckpt", ".bin", ".tar")


def read_weights(path: Path, *, allow_pickle: bool = False) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a file, and what was stripped around them.

    Raises:
        UserError: no such file, a corrupt one, or a pickle that was not allowed.
    """
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    if path.suffix == ".safetensors":
        return _safetensors(path), ()
    if path.suffix not in PICKLES:
        raise UserError(f"{str(path)!r} is no file of weights; accepted: .safetensors, or .pt and its kin with --allow-pickle")
    if not allow_pickle:
        raise UserError(
            f"checkpoint {path.name!r} is a pickle and could run code; convert it to .safetensors, or pass --allow-pickle"
        )
    return _unwrapped(_unpickled(path), path)


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights, strictly but for counters of batch normalisation.

    Raises:
        UserError: keys or shapes that do not fit, or NaN.
    """
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{str(path)!r} holds NaN or infinite weights ({key}); train or export it again")
    try:
        missing, unexpected = module.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"{str(path)!r} does not fit the architecture: {lines[-1].strip()}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        first = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is not in it"
        raise UserError(
            f"{str(path)!r} does not fit the architecture: {first} ({len(missing)} keys missing, {len(unexpected)} too many)"
        )


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is corrupt or truncated: {error}") from error


def _unpickled(path: Path) -> Any:
    """Tensors and plain containers alone: torch refuses anything that could run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path.name!r} holds more than weights and was not loaded; save its state_dict, or convert it to .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{str(path)!r} is corrupt or truncated: {first}") from error


def _unwrapped(held: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    stripped: list[str] = []
    while isinstance(held, Mapping) and not _is_state(held):
        name = next((wrapper for wrapper in _WRAPPERS if isinstance(held.get(wrapper), Mapping)), None)
        if name is None:
            break
        held, stripped = held[name], [*stripped, name]
    if not isinstance(held, Mapping) or not _is_state(held):
        raise UserError(f"{str(path)!r} holds no state dict; accepted: one, or one under {', '.join(_WRAPPERS)}")
    weights = dict(held)
    for prefix in _PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
            stripped.append(prefix)
    return weights, tuple(stripped)


def _is_state(held: Mapping[str, Any]) -> bool:
    return bool(held) and all(isinstance(value, Tensor) for value in held.values())
