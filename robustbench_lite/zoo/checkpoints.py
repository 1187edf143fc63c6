"""Our own checkpoints: FILE.safetensors with the weights, FILE.json with the card that tells what they are."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.cache import atomic_write, writable
from robustbench_lite.errors import UserError, cause_of, cut
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.zoo.adapt import adaptation_notes
from robustbench_lite.zoo.base import LoadedModel, audit, is_file, missing, ready
from robustbench_lite.zoo.weights import PICKLES, fill, read_weights


class WeightsReplacedError(UserError):
    """A file holds other weights than those that its card was written for."""


FORMAT = 1
Shape = tuple[int, int, int]
Build = Callable[[str, int, Shape], nn.Module]


def save_checkpoint(path: Path, module: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the weights and the card, each whole or not at all; the card last, so that a card vouches for its weights.

    Args:
        path: of the .safetensors file. card: at least `architecture` (a spec text), `num_classes` and `input_shape`.

    Raises:
        UserError: the path does not end in .safetensors.
        OSError: the folder is read-only or full.
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r}; a checkpoint is written to a file that ends in .safetensors")
    weights = {name: _own(tensor) for name, tensor in module.state_dict().items()}
    versions = {"torch": str(torch.__version__)}
    told = {"format": FORMAT, "versions": versions, **card, "weights": hash_tensors(weights)}
    text = json.dumps(told, indent=2, default=str) + "\n"
    atomic_write(path, save(weights))
    atomic_write(path.with_suffix(".json"), text.encode())


def checkpoint_place(path: Path) -> Path:
    """The file to write, refused before the training rather than after it.

    Raises:
        UserError: it does not end in .safetensors, or its folder cannot be written to.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"out={path}; accepted: a file that ends in .safetensors")
    writable(path.parent)
    return path


def load_checkpoint(
    path: Path, *, build: Build | None = None, allow_pickle: bool = False, architecture: str | None = None
) -> LoadedModel:
    """The model that `save_checkpoint` wrote, with bit-equal logits.

    Args:
        path: of the .safetensors or of the .json. build: (architecture, num_classes, input_shape) -> module.
        architecture: instead of the card's; a card alone may not name a file of Python code, which would be run.

    Raises:
        UserError: a file that is missing, corrupt, of another kind, or does not belong to its card.
    """
    if path.suffix.lower() in PICKLES:
        read_weights(path, allow_pickle=allow_pickle)
        raise UserError(
            f"{cut(path.name)!r} has no card; name its architecture, such as checkpoint:{cut(path)};arch=resnet20"
        )
    if path.suffix not in (".safetensors", ".json"):
        raise UserError(f"{cut(path)!r} is no checkpoint; accepted: FILE.safetensors with its card FILE.json beside it")
    file = path.with_suffix(".safetensors")
    if not is_file(file):
        raise missing(file)
    card = read_card(path.with_suffix(".json"))
    weights, _ = read_weights(file)
    if card.get("weights") != hash_tensors(weights):
        raise WeightsReplacedError(
            f"{cut(file)!r} does not hold the weights that its card was written for; one of them was replaced"
        )
    named, classes, shape = _told(card, path)
    fresh = partial(build or partial(_build, trusted=architecture is not None), architecture or named, classes, shape)
    module = fresh()
    fill(module, weights, file)
    _same_types(module, weights, file)
    audit(module.eval(), name=f"checkpoint:{path}", num_classes=classes, input_shape=shape)
    return LoadedModel(
        name=f"checkpoint:{path}",
        module=ready(module),
        trained=True,
        num_classes=classes,
        input_shape=shape,
        fresh=fresh,
        card=card,
        notes=_notes(module, card, path),
    )


def read_card(path: Path) -> dict[str, Any]:
    """The card of a checkpoint.

    Raises:
        UserError: it is not there, or is no card.
    """
    shown = cut(path)
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"there is no card {shown!r}; a checkpoint is FILE.safetensors with FILE.json beside it, and other weights are"
            " named as NAME;weights=FILE"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read the card {shown!r} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the card {shown!r} is corrupt: {cause_of(error)}") from None
    if not isinstance(card, dict):
        raise UserError(f"the card {shown!r} is no table of facts")
    if card.get("format", FORMAT) != FORMAT:
        raise UserError(f"the card {shown!r} has format {cut(repr(card['format']))}; this version reads {FORMAT}")
    return card


def _notes(module: nn.Module, card: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the network does to images, and the clean accuracy that `rbl train` measured."""
    loading = adaptation_notes(module)
    notes: dict[str, Any] = {"loading": loading} if loading else {}
    clean, data = card.get("clean_accuracy"), card.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if (
        isinstance(clean, bool)
        or not isinstance(clean, (int, float))
        or not 0 <= clean <= 1
        or not isinstance(name, str)
    ):
        return notes
    return notes | {"told": {"clean_acc": float(clean), "dataset": name, "source": f"the card of {path.name}"}}


def _own(tensor: Tensor) -> Tensor:
    """A plain copy: safetensors refuses two names of the same memory (tied weights)."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _told(card: Mapping[str, Any], path: Path) -> tuple[str, int, Shape]:
    try:
        channels, height, width = card["input_shape"]
        sizes = (card["num_classes"], channels, height, width)
        if not all(type(size) is int and 0 < size < 1 << 20 for size in sizes) or type(card["architecture"]) is not str:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        wanted = "architecture (a text), num_classes and input_shape (whole numbers above 0)"
        raise UserError(f"the card of {cut(path)!r} lacks {wanted}") from None
    return card["architecture"], card["num_classes"], (channels, height, width)


def _same_types(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    other = next((key for key, tensor in weights.items() if tensor.dtype != own[key].dtype), None)
    if other is not None:
        raise UserError(f"{cut(path)!r} has {other} as {weights[other].dtype}, its architecture as {own[other].dtype}")


def _build(architecture: str, num_classes: int, input_shape: Shape, *, trusted: bool) -> nn.Module:
    from robustbench_lite.zoo.load import fresh_module

    return fresh_module(architecture, num_classes=num_classes, input_shape=input_shape, trusted=trusted)
