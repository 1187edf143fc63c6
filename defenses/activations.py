"""What a network computes on the way: the inputs and outputs of its activations, whoever calls them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_lite.errors import UserError

_RELUS: frozenset[Callable[..., Any]] = frozenset(
    {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh}
)
_OTHERS: frozenset[Callable[..., Any]] = frozenset(
    {F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.softplus, F.mish, torch.tanh, F.tanh, torch.sigmoid}
)


@dataclass(frozen=True)
class Layer:
    """One activation: what went in and what came out, (n, ...); `rectified`: it cuts at 0."""

    before: Tensor
    after: Tensor
    rectified: bool = True

    def pooled(self) -> Tensor:
        """(n, d): the output; of a map the mean over its places."""
        return _pooled(self.after)

    def potential(self) -> Tensor:
        """(n, d): what is above a threshold of 0 or more exactly where `pooled` is.

        It is the *input* of a rectifier on a vector: a unit that is off has a slope there, and none behind it.
        """
        flat = self.before.dim() == 2
        return self.before if flat and self.rectified else _pooled(self.after)


def listen(model: nn.Module, x: Tensor, layers: int) -> tuple[Tensor, tuple[Layer, ...]]:
    """The logits of x, and the last `layers` activations in the order of the calls; fewer where there are fewer.

    Modules, functions and methods are all heard, since it is the calls that are, and a module that is used several times
    is heard several times. A network without activations is heard by what its last linear layer is given.

    Raises:
        UserError: nothing is heard: a scripted network, say.
    """
    with _Listener() as listener:
        scores = model(x)
    heard = listener.activations[-layers:] or listener.linear[-1:]
    if not heard:
        raise UserError(f"{type(model).__name__} calls no activation and no linear layer that a detector could look at")
    return scores, tuple(heard)


class _Listener(TorchFunctionMode):
    """Notes the activations that are called while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[Layer] = []
        self.linear: list[Layer] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rectifies = func in _RELUS
        if rectifies or func in _OTHERS:
            given: Tensor = args[0] if args else kwargs["input"]
            in_place = kwargs.get("inplace") or func.__name__.endswith("_") or (len(args) > 1 and args[-1] is True)
            before = given.clone() if in_place else given
            after = func(*args, **kwargs)
            self.activations.append(Layer(before, after, rectifies))
            return after
        if func is F.linear:
            given = args[0] if args else kwargs["input"]
            self.linear.append(Layer(given, given, rectified=False))
        return func(*args, **kwargs)


def _pooled(values: Tensor) -> Tensor:
    return values.flatten(2).mean(2) if values.dim() > 2 else values


def together(parts: Iterable[Tensor]) -> Tensor:
    """Layers side by side, (n, d) float64."""
    return torch.cat([part.double() for part in parts], 1)
