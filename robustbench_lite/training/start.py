"""Where a training starts: at fresh weights, or at a checkpoint's."""

import copy
from pathlib import Path

from torch import Tensor, nn

from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_file
from robustbench_lite.seeding import seeded


def fresh_copy(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the network with new initial weights, for a network that came without a builder.

    Raises:
        UserError: a layer has weights of its own and no `reset_parameters` to draw them anew.
    """
    fresh = copy.deepcopy(model)
    with seeded(seed):
        for part in fresh.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                kind = type(part).__name__
                raise UserError(
                    f"training starts from fresh weights, but the layer {kind} has no reset_parameters() to draw them; "
                    "name the model by a spec such as FILE.py:function, which builds a new one"
                )
    return fresh


def start_from(model: nn.Module, path: Path) -> None:
    """Give the model the weights of a checkpoint (FILE.safetensors with its card FILE.json), to fine-tune them.

    Raises:
        UserError: the file is no checkpoint, or one of another architecture.
    """
    from robustbench_lite import zoo

    weights = zoo.load_checkpoint(path).module.state_dict()
    own = model.state_dict()
    strange = sorted(name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name))
    if strange:
        raise UserError(f"from={path} is of another architecture than the model: {strange[0]!r} differs")
    model.load_state_dict(weights)


def file_digest(path: Path) -> str:
    """16 bytes (hex) over a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return hash_file(path)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
