"""What a model source gives: a network from pixels in [0, 1] to logits, with its normalisation inside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network and what is known of it.

    Args:
        name: the spec text. module: images (n, c, h, w) in [0, 1] -> logits (n, num_classes), in eval mode.
        trained: the weights are meant to be used; False for a fresh architecture that must be trained first.
        fresh: makes the architecture anew, with fresh weights; None where only these weights are there.
        card: what is told of a checkpoint. notes: what was done on loading (prefixes stripped, say).
    """

    name: str
    module: nn.Module
    trained: bool
    num_classes: int
    input_shape: tuple[int, int, int]
    fresh: Callable[[], nn.Module] | None = None
    card: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())


class Normalized(nn.Module):
    """A network behind (x - mean) / std, optionally resized and with grey repeated to three channels.

    Args:
        mean, std: one number a channel of the network. size: (h, w) to resize to (antialiased bilinear), or None.
        repeat: show a one-channel image three times.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        size: tuple[int, int] | None = None,
        repeat: bool = False,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise UserError(f"mean={mean}, std={std}; accepted: one number a channel each, std above 0")
        self.network, self.size, self.repeat = network, size, repeat
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and self.size != tuple(x.shape[2:]):
            x = nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        if self.repeat:
            x = x.expand(-1, 3, -1, -1)
        scores: Tensor = self.network((x - self.mean) / self.std)
        return scores

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}, size={self.size}, repeat={self.repeat}"


def ready(module: nn.Module) -> nn.Module:
    """Eval mode, frozen."""
    return module.eval().requires_grad_(False)


def audit(module: nn.Module, *, name: str, num_classes: int | None, input_shape: tuple[int, int, int]) -> int:
    """Run two images through and refuse what is no classifier of such images; the number of classes.

    Raises:
        UserError: NaN weights, an exception, another shape of answers, or another number of classes.
    """
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"the weights of {name} hold NaN or infinite values ({key}); train or export it again")
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    x = torch.full((2, *input_shape), 0.5, device=device)
    try:
        with torch.no_grad():
            scores = module(x)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot take images {by(input_shape)}: {first}") from error
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 2:
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(f"{name} answers two images with {given}; accepted: a tensor (2, classes) of logits")
    classes = scores.shape[1]
    if num_classes is not None and classes < num_classes:
        raise UserError(f"labels reach {num_classes - 1} but {name} has {classes} classes")
    return classes


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: `3x32x32`."""
    return "x".join(str(side) for side in shape)


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers with commas between them, such as `0.485,0.456,0.406`.

    Raises:
        UserError: it is none.
    """
    from robustbench_lite.specs import number

    return tuple(number(part.strip(), what) for part in text.split(","))
