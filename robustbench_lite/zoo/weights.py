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
from robustbench_lite.zoo.wrappings import Constants, bare, check_constants, opened

#: how many keys that do not fit are named
_NAMED = 3
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".th", ".ckpt", ".bin", ".tar")


def read_weights(
    path: Path, *, allow_pickle: bool = False, part: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a file, and which containers were opened around them.

    A pickle is read with torch's `weights_only`, which runs no code: what needs code to be read is refused in any case.

    Args:
        part: which container, of a file that holds several networks (`last` and `best`, `model` and its average `ema`).

    Raises:
        UserError: no such file, a corrupt one, a pickle that was not allowed, or several networks and none chosen.
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
        if part is not None:
            raise UserError(f"{str(path)!r} holds one network; leave out ;part={part}")
        return _safetensors(path), ()
    if kind not in PICKLES:
        raise UserError(
            f"{str(path)!r} is no file of weights; accepted: .safetensors, or .pt and its kin with --allow-pickle"
        )
    return opened(_unpickled(path), path, part)


def fill(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, *, applied: Constants | None = None
) -> tuple[str, ...]:
    """Load the weights, strictly but for counters of batch normalisation; what was stripped to make them fit.

    Args:
        applied: mean and std that the images of the module are normalised by outside it; None: by none.

    Raises:
        UserError: keys, shapes or types that do not fit, NaN, or weights that go with another normalisation.
    """
    own = module.state_dict()
    found = bare(weights, own, getattr(module, "unused_weights", ()), path=path)
    weights = found.weights
    missing = sorted(key for key in own.keys() - weights.keys() if not key.endswith("num_batches_tracked"))
    strange = sorted(weights.keys() - own.keys())
    if missing or strange:
        said = [_listed(missing, "is missing", "so"), _listed(strange, "is not in it", "neither")]
        counts = f"{len(missing)} keys missing, {len(strange)} too many"
        raise UserError(f"{str(path)!r} does not fit the architecture: {'; '.join(filter(None, said))} ({counts})")
    for key in (key for key in own if key in weights):  # in the order of the layers, so that one message names one key
        _check_tensor(key, weights[key], own[key], path)
    check_constants(found.constants, applied, path)
    module.load_state_dict(weights, strict=False)
    return found.stripped


def _listed(keys: list[str], what: str, like: str) -> str:
    """`a is missing, and so are b, c and 7 more`; nothing where there is none."""
    if len(keys) < 2:
        return f"{keys[0]} {what}" if keys else ""
    more = keys[1:_NAMED]
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{keys[0]} {what}, and {like} {'is' if len(keys) == 2 else 'are'} {', '.join(more)}{rest}"


def _check_tensor(key: str, tensor: Tensor, own: Tensor, path: Path) -> None:
    if tensor.shape != own.shape:
        given, wanted = tuple(tensor.shape), tuple(own.shape)
        raise UserError(f"{str(path)!r} does not fit the architecture: {key} has shape {given}, not {wanted}")
    if tensor.is_floating_point() != own.is_floating_point():
        raise UserError(f"{str(path)!r} does not fit the architecture: {key} is {tensor.dtype}, not {own.dtype}")
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        raise UserError(f"{str(path)!r} holds NaN or infinite weights ({key}); train or export it again")


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
