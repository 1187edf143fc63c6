"""What a model source gives: a network from pixels in [0, 1] to logits, with its normalisation inside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network and what is known of it.

    Args:
        name: the spec text. module: images (n, c, h, w) in [0, 1] -> logits (n, num_classes), in eval mode, frozen.
        trained: the weights are meant to be used; False for a fresh architecture that must be trained first.
        fresh: makes the architecture anew, with fresh weights by torch's global generator; None where only these
            weights are there.
        card: what is told of a checkpoint. notes: what was stripped on loading (wrappers, prefixes).
    """

    name: str
    module: nn.Module
    trained: bool
    num_classes: int
    input_shape: tuple[int, int, int]
    fresh: Callable[[], nn.Module] | None = None
    card: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def ready(module: nn.Module) -> nn.Module:
    """Eval mode, frozen."""
    return module.eval().requires_grad_(False)


def audit(
    module: nn.Module,
    *,
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None = None,
) -> int:
    """Run two images through and refuse what is no classifier of such images; the number of classes.

    Args:
        class_names: of the data. Where classes have names their number is sure, and a model with more was made for
            other classes; without names it is only what the labels reach.

    Raises:
        UserError: NaN weights, an exception, another shape of answers, or another number of classes.
    """
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"the weights of {name} hold NaN or infinite values ({key}); train or export it again")
    classes = _answers(module, name, input_shape).shape[1]
    if num_classes is not None and classes < num_classes:
        raise UserError(f"labels reach {num_classes - 1} but {name} has {classes} classes")
    if class_names is not None and classes > len(class_names):
        raise UserError(f"{name} has {classes} classes but the data {len(class_names)}, {class_names[0]} and so on")
    return classes


def _answers(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> Tensor:
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    x = torch.full((2, *input_shape), 0.5, device=device)
    try:
        with torch.no_grad():
            scores = module(x)
    except Exception as error:
        raise UserError(f"{name} cannot take images {by(input_shape)}: {first_line(error)}") from error
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 2 or scores.shape[1] < 2:
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(f"{name} answers two images with {given}; accepted: a tensor (2, classes) of logits")
    if not scores.is_floating_point():
        raise UserError(f"{name} answers with {scores.dtype}; accepted: logits, floating point")
    return scores


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: `3x32x32`."""
    return "x".join(str(side) for side in shape)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line that is never empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
