"""What a user gives as a model in Python: modules of every make, exported programs and plain functions, as modules."""

import functools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError

#: packages whose layers are asked like any other, and whose functions hold no networks of the user
LIBRARIES = ("torch", "torchvision", "timm", "robustbench_lite")


class FunctionNetwork(nn.Module):
    """A plain function from images to logits; the networks that it calls are its parts, to be moved and frozen."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(dict.fromkeys(_networks_in(function, 0, set())))

    def forward(self, x: Tensor) -> Any:
        return self.function(x)

    def train(self, mode: bool = True) -> "FunctionNetwork":
        self.training = mode
        for part in self.parts:
            set_mode(part, mode)
        return self


def as_network(given: object, name: str) -> tuple[nn.Module, str]:
    """What a user calls a model, as a module, and what was done to it (a sentence, or nothing).

    Accepted: an `nn.Module` (also one that is scripted, traced, exported, compiled or parallel), a
    `torch.export.ExportedProgram`, and any function of images.

    Raises:
        UserError: a class, or something that cannot be called.
    """
    if isinstance(given, torch.export.ExportedProgram):
        return given.module(), "an exported program"
    if isinstance(given, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return as_network(given.module, name)[0], f"taken out of {type(given).__name__}"
    compiled = getattr(given, "_orig_mod", None)
    if isinstance(given, nn.Module) and isinstance(compiled, nn.Module):
        return as_network(compiled, name)[0], "not compiled"
    if isinstance(given, nn.Module):
        return given, ""
    if isinstance(given, type):
        raise UserError(f"{name} is a class and no model; give an object of it, such as {given.__name__}()")
    if callable(given) and not isinstance(given, ModuleType):
        return FunctionNetwork(given), "a function"
    raise UserError(
        f"{name} is a {type(given).__name__}; accepted: a torch.nn.Module, an exported program, or a function from images"
        " to logits"
    )


def set_mode(network: nn.Module, mode: bool) -> bool:
    """Training or eval mode, as far as the parts of the network have one; whether some have not (exported programs)."""
    try:
        network.train(mode)
    except NotImplementedError:
        network.training = mode
        for child in network.children():
            set_mode(child, mode)
        return True
    return False


def _networks_in(value: Any, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    """The networks that a function holds: in its closure, its globals, the object it belongs to, or its own fields."""
    if isinstance(value, nn.Module):
        yield value
        return
    if depth > 4 or id(value) in seen or isinstance(value, (type, ModuleType, str, Tensor)):
        return
    seen.add(id(value))
    for part in _held_by(value):
        yield from _networks_in(part, depth + 1, seen)


def _held_by(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        if value.__module__.partition(".")[0] in LIBRARIES:
            return []
        own = [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        return [*own, *(value.__defaults__ or ()), *map(_content, value.__closure__ or ())]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Mapping):
        return list(value.values())
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
