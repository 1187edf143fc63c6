"""The user's own networks: a function in a Python file, or a TorchScript file."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.zoo.base import LoadedModel, Normalized, audit, numbers, ready


def load_function(spec: specs.Spec, *, num_classes: int, input_shape: tuple[int, int, int]) -> LoadedModel:
    """`FILE.py:function`: the function returns an `nn.Module` from images in [0, 1] to logits.

    Options: `mean` and `std` put a normalisation in front; `train=true` trains it on the dataset instead of using its
    weights as they are. A function with parameters `num_classes` or `input_shape` is given them.

    Raises:
        UserError: no such file or function, an exception of theirs, or a module that does not fit.
    """
    place, _, name = spec.name.rpartition(":")
    options = dict(spec.options)
    train = specs.coerce(bool, options.pop("train", "false"), f"{spec.name}: train")
    normalise = _normalisation(options, spec)
    function = _function(Path(place).expanduser(), name)

    def fresh() -> nn.Module:
        return normalise(_called(function, spec.name, num_classes, input_shape))

    module = fresh().eval()
    found = audit(module, name=spec.name, num_classes=num_classes, input_shape=input_shape)
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=not train,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
    )


def load_torchscript(spec: specs.Spec, *, num_classes: int, input_shape: tuple[int, int, int]) -> LoadedModel:
    """`torchscript:FILE`: a scripted or traced module; it can run TorchScript, not Python.

    Raises:
        UserError: no such file, a corrupt one, or a module that does not fit.
    """
    path = Path(spec.name.partition(":")[2]).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    try:
        script = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is no TorchScript file, or a corrupt one: {str(error).splitlines()[0]}") from error
    module = _normalisation(dict(spec.options), spec)(script).eval()
    found = audit(module, name=spec.name, num_classes=num_classes, input_shape=input_shape)
    return LoadedModel(
        name=str(spec), module=ready(module), trained=True, num_classes=found, input_shape=input_shape
    )


def _normalisation(options: dict[str, str], spec: specs.Spec) -> Callable[[nn.Module], nn.Module]:
    mean, std = options.pop("mean", None), options.pop("std", None)
    if options:
        raise unknown(f"option of {spec.name}", next(iter(options)), ("mean", "std", "train"))
    if (mean is None) != (std is None):
        raise UserError(f"{spec.name}: give mean and std together, such as ;mean=(0.5);std=(0.25)")
    if mean is None or std is None:
        return lambda network: network
    means, stds = numbers(mean, "mean"), numbers(std, "std")
    return lambda network: Normalized(network, means, stds)


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function in {path.name}", name, there)
    return function


def _imported(path: Path) -> ModuleType:
    """The user's file as a module of its own name, with its folder importable as for a script."""
    name = f"rbl_user_{path.stem}"
    made = importlib.util.spec_from_file_location(name, path)
    if made is None or made.loader is None:
        raise UserError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # so that classes defined there can be found by name
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        made.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path.name} raised {type(error).__name__} when it was imported: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _called(function: Callable[..., Any], name: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    offered = {"num_classes": num_classes, "input_shape": input_shape}
    accepted = inspect.signature(function).parameters
    try:
        module = function(**{key: value for key, value in offered.items() if key in accepted})
    except Exception as error:
        raise UserError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name} returned a {type(module).__name__}; accepted: a torch.nn.Module")
    return module
