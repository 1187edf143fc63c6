"""The user's own networks: a function in a Python file, or a TorchScript file."""

import hashlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.zoo.adapt import Adaptation
from robustbench_lite.zoo.base import LoadedModel, audit, first_line, ready
from robustbench_lite.zoo.weights import fill, read_weights


@dataclass(frozen=True, kw_only=True)
class CodeOptions(Adaptation):
    """What may follow `FILE.py:function`, besides the options of `Adaptation`.

    Args:
        weights: a file of weights to load into what the function returns. part: which network of it, where it holds several.
        train: train it on the dataset instead of using its weights as they are.
    """

    weights: str | None = None
    part: str | None = None
    train: bool = False


class FromFile(nn.Module):
    """A network whose code lies in a file of TorchScript, of which the file's digest tells more than Python can see."""

    def __init__(self, network: nn.Module, digest: str) -> None:
        super().__init__()
        self.network, self.digest = network, digest

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores

    def extra_repr(self) -> str:
        return f"code={self.digest}"


def load_function(
    spec: specs.Spec,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    allow_pickle: bool,
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """`FILE.py:function`: the function returns an `nn.Module` from images in [0, 1] to logits.

    A function with parameters `num_classes` or `input_shape` is given them. It runs with all of the user's rights.

    Raises:
        UserError: no such file or function, an exception of theirs, or a module that does not fit.
    """
    place, _, name = spec.name.rpartition(":")
    path = Path(place).expanduser()
    options = specs.build(CodeOptions, spec.options, name=spec.name)
    function = _function(path, name)

    def called() -> nn.Module:
        return _called(function, path, spec.name, num_classes, input_shape)

    def fresh() -> nn.Module:
        return options.around(called(), input_shape, spec.name)

    network, notes = called(), tuple[str, ...]()
    module = options.around(network, input_shape, spec.name)
    if options.weights is not None:
        weights = Path(options.weights).expanduser()
        held, wrappers = read_weights(weights, allow_pickle=allow_pickle, part=options.part)
        notes = (*wrappers, *fill(network, held, weights))
    found = audit(
        module.eval(), name=spec.name, num_classes=num_classes, input_shape=input_shape, class_names=class_names
    )
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=not options.train,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
        notes=notes,
    )


def load_torchscript(
    spec: specs.Spec,
    path: Path,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """`torchscript:FILE`: a scripted or traced module; its code is TorchScript, which cannot run Python.

    Its graph is fixed: it cannot be trained anew.

    Raises:
        UserError: no such file, a corrupt one, or a module that does not fit.
    """
    options = specs.build(Adaptation, spec.options, name=spec.name)
    digest = _digest(path)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its makers prefer other formats by now
            script = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # torch's reader fails in many ways on damaged bytes
        raise UserError(f"{path} is no TorchScript file, or a corrupt one: {first_line(error)}") from error
    module = options.around(FromFile(script, digest), input_shape, spec.name).eval()
    found = audit(module, name=spec.name, num_classes=num_classes, input_shape=input_shape, class_names=class_names)
    return LoadedModel(name=str(spec), module=ready(module), trained=True, num_classes=found, input_shape=input_shape)


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UserError(f"there is no readable file {path} ({error.strerror})") from error


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise unknown(f"function in {path.name}", name, [key for key in own if callable(getattr(module, key))])
    return function


def _imported(path: Path) -> ModuleType:
    """The user's file as a module of a name of its own, with its folder importable as for a script."""
    name = f"rbl_user_{path.stem}_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()}"
    made = importlib.util.spec_from_file_location(name, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # so that classes defined there, and their source, can be found by name
    try:
        with _importable(path):
            made.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} raised {type(error).__name__} when it was imported: {first_line(error)}") from error
    return module


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _called(
    function: Callable[..., Any], path: Path, name: str, num_classes: int, input_shape: tuple[int, int, int]
) -> nn.Module:
    offered = {"num_classes": num_classes, "input_shape": input_shape}
    try:
        accepted = inspect.signature(function).parameters
        with _importable(path):
            module = function(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UserError(f"{name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name} returned a {type(module).__name__}; accepted: a torch.nn.Module")
    return module
