"""Our own checkpoints: FILE.safetensors with the weights, FILE.json with the card that tells what they are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite.cache import atomic_write
from robustbench_lite.errors import UserError
from robustbench_lite.zoo.base import LoadedModel, audit, ready
from robustbench_lite.zoo.weights import PICKLES, fill, read_weights

FORMAT = 1
Build = Callable[[str, int, tuple[int, int, int]], nn.Module]


def save_checkpoint(path: Path, module: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the weights and the card, each whole or not at all; the card last, so that a card vouches for its weights.

    Args:
        path: of the .safetensors file. card: at least `architecture` (a spec text), `num_classes` and `input_shape`.

    Raises:
        UserError: the path is no .safetensors, or cannot be written.
    """
    from safetensors.torch import save_file

    from robustbench_lite.cache import weights_digest

    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r}; a checkpoint is written to a file that ends in .safetensors")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    atomic_write(path, lambda temporary: save_file(weights, str(temporary)))
    told = {"format": FORMAT, **card, "weights": weights_digest(module.state_dict())}
    atomic_write(path.with_suffix(".json"), (json.dumps(told, indent=2, default=str) + "\n").encode())


def load_checkpoint(path: Path, *, build: Build | None = None, allow_pickle: bool = False) -> LoadedModel:
    """The model that `save_checkpoint` wrote, with bit-equal logits.

    Args:
        path: of the .safetensors or of the .json. build: (architecture, num_classes, input_shape) -> module.

    Raises:
        UserError: a file that is missing, corrupt, of another kind, or does not belong to its card.
    """
    if path.suffix in PICKLES:
        read_weights(path, allow_pickle=allow_pickle)
        raise UserError(f"{path.name!r} has no card; name its architecture instead: --model 'resnet20;weights={path.name}'")
    weights_file, card = path.with_suffix(".safetensors"), read_card(path.with_suffix(".json"))
    weights, _ = read_weights(weights_file)
    architecture, classes, shape = _told(card, path)
    module = (build or _build)(architecture, classes, shape)
    fill(module, weights, weights_file)
    _vouched(module, card, weights_file)
    audit(module, name=f"checkpoint:{path}", num_classes=classes, input_shape=shape)
    return LoadedModel(
        name=f"checkpoint:{path}",
        module=ready(module),
        trained=True,
        num_classes=classes,
        input_shape=shape,
        fresh=lambda: (build or _build)(architecture, classes, shape),
        card=card,
    )


def read_card(path: Path) -> dict[str, Any]:
    """The card of a checkpoint.

    Raises:
        UserError: it is not there, or is no card.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"there is no card {str(path)!r}; a checkpoint is FILE.safetensors with FILE.json beside it") from None
    except ValueError as error:
        raise UserError(f"the card {str(path)!r} is corrupt: {error}") from None
    if not isinstance(card, dict):
        raise UserError(f"the card {str(path)!r} is no table of facts")
    return card


def _told(card: Mapping[str, Any], path: Path) -> tuple[str, int, tuple[int, int, int]]:
    try:
        channels, height, width = (int(side) for side in card["input_shape"])
        return str(card["architecture"]), int(card["num_classes"]), (channels, height, width)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"the card of {str(path)!r} lacks architecture, num_classes or input_shape") from None


def _vouched(module: nn.Module, card: Mapping[str, Any], path: Path) -> None:
    from robustbench_lite.cache import weights_digest

    if "weights" in card and card["weights"] != weights_digest(module.state_dict()):
        raise UserError(f"{str(path)!r} does not hold the weights that its card was written for; one of the two was replaced")


def _build(architecture: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    from robustbench_lite.zoo.load import fresh_module

    return fresh_module(architecture, num_classes=num_classes, input_shape=input_shape)
