"""The user's own networks: a function, a class or a network in a Python file or package, or a file that holds a program."""

import inspect
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, cause_of, cut
from robustbench_lite.hashing import hash_file
from robustbench_lite.zoo.adapt import Adaptation
from robustbench_lite.zoo.assemble import Draft, FileOptions, assemble
from robustbench_lite.zoo.base import ImageData, LoadedModel, file_at, is_file, missing
from robustbench_lite.zoo.given import as_network
from robustbench_lite.zoo.imports import can_be_found, importable, load_file, load_module, member
from robustbench_lite.zoo.weights import Trust

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class CodeOptions(FileOptions):
    """What may follow `FILE.py:function` or `package.module:Class`, besides the options of `FileOptions`.

    Args:
        train: train it on the dataset instead of using its weights as they are.
    """

    train: bool = False


class FromFile(nn.Module):
    """A network that a file holds as a program (TorchScript, torch.export); the file's digest tells its code."""

    def __init__(self, network: nn.Module, digest: str) -> None:
        super().__init__()
        self.network, self.digest = network, digest

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores

    def extra_repr(self) -> str:
        return f"code={self.digest}"


class _Folder:
    """Inside, the user's code may change the working directory, and finds it so the next time; outside it is what it was."""

    _outside: str | None = None
    _inside: str | None = None

    def __enter__(self) -> None:
        self._outside = self._now()
        if self._inside is not None:
            os.chdir(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = self._now()
        if self._outside is not None:
            os.chdir(self._outside)

    @staticmethod
    def _now() -> str | None:
        try:
            return str(Path.cwd())
        except OSError:  # it was deleted
            return None


def is_code(name: str) -> bool:
    """Whether a name means Python code: `FILE.py:NAME`, `package.module:NAME`, or `module:NAME` of a module that is there."""
    place, colon, rest = name.rpartition(":")
    if not colon:
        return False
    if place.endswith(".py"):
        return True
    if not (_DOTTED.fullmatch(place) and _DOTTED.fullmatch(rest)):
        return False
    return "." in place or can_be_found(place)


def load_code(spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    """`FILE.py:NAME` and `package.module:NAME`: what the name means is told by what it is.

    - A class of networks, or a function that returns one: it is made anew where fresh weights are needed. Parameters
      `num_classes` and `input_shape` are given.
    - A network: it is used with the weights that it has.
    - A function of one other argument: it maps images to logits itself.

    The code runs with all of the user's rights.

    Raises:
        UserError: no such file, module or name, an exception of theirs, or a network that does not fit.
    """
    place, _, name = spec.name.rpartition(":")
    options = specs.build(CodeOptions, spec.options, name=spec.name)
    path = file_at(place) if place.endswith(".py") else None
    folder = _Folder()
    with folder:
        module = load_module(place) if path is None else load_file(path)
    target = member(module, name, cut(module.__name__ if path is None else path.name))
    folders = () if path is None else (path.parent,)
    ready_made = isinstance(target, nn.Module) or _answers_images(target)
    if ready_made and options.train:
        raise UserError(f"{cut(spec.name)} is no builder of networks, and cannot be trained anew; leave out train=true")

    def made() -> tuple[nn.Module, str]:
        with folder:
            value = target if ready_made else _called(target, folders, spec.name, data)
        return as_network(value, cut(spec.name))

    network, kind = made()
    draft = Draft(
        spec=spec,
        what=spec.name,
        options=options,
        network=network,
        make=None if ready_made else lambda: made()[0],
        trained=not options.train,
        notes={"loading": {"made": kind}} if kind else {},
    )
    return assemble(draft, data, trust)


def load_torchscript(spec: specs.Spec, path: Path, data: ImageData, trust: Trust) -> LoadedModel:
    """`torchscript:FILE`: a scripted or traced module; its code is TorchScript, which cannot run Python.

    Its graph is fixed: it cannot be trained anew.

    Raises:
        UserError: no such file, a corrupt one, or a module that does not fit.
    """
    if not is_file(path):
        raise missing(path)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its makers prefer other formats by now
            script = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # torch's reader fails in many ways on damaged bytes
        raise UserError(f"{cut(path)} is no TorchScript file, or a corrupt one: {_why_no_script(error)}") from error
    return _program(spec, path, script, data, trust)


def load_export(spec: specs.Spec, path: Path, data: ImageData, trust: Trust) -> LoadedModel:
    """`export:FILE`: what `torch.export.save` wrote. torch reads it with pickle and sympy, which can run code.

    Raises:
        UserError: no such file, one that the user does not vouch for, a corrupt one, or a program that does not fit.
    """
    if not is_file(path):
        raise missing(path)
    if not trust.code:
        raise UserError(
            f"torch reads the exported program {cut(path)!r} in a way that can run code; pass --allow-code if you"
            " trust the file"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.export.load(str(path)).module()
    except (Exception, SystemExit) as error:  # torch's reader fails in many ways on other files
        raise UserError(f"{cut(path)} is no exported program, or a corrupt one: {cause_of(error)}") from error
    return _program(spec, path, program, data, trust)


def _program(spec: specs.Spec, path: Path, program: nn.Module, data: ImageData, trust: Trust) -> LoadedModel:
    """A network that is one fixed graph."""
    adaptation = specs.build(Adaptation, spec.options, name=spec.name)
    network = FromFile(program, hash_file(path))
    options = FileOptions(**vars(adaptation))
    return assemble(Draft(spec=spec, what=spec.name, options=options, network=network, make=None), data, trust)


def _why_no_script(error: Exception) -> str:
    text = str(error)
    if "constants.pkl" in text or "file not found" in text:
        return "it holds no program; for weights write NAME;weights=FILE"
    return cause_of(error)


def _answers_images(target: Any) -> bool:
    """Whether a function maps images to logits itself: it needs one argument, which is none of those that builders get."""
    if inspect.isclass(target):
        return False
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    return len(needed) == 1 and needed[0].kind is not needed[0].KEYWORD_ONLY and needed[0].name not in _offered(None)


def _offered(data: ImageData | None) -> dict[str, Any]:
    return {
        "num_classes": None if data is None else data.num_classes,
        "input_shape": None if data is None else data.input_shape,
    }


def _called(target: Callable[..., Any], folders: tuple[Path, ...], name: str, data: ImageData) -> Any:
    """What a builder returns."""
    shown = cut(name)
    try:
        accepted = inspect.signature(target).parameters
        with importable(*folders):
            made = target(**{key: value for key, value in _offered(data).items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UserError(f"{shown} raised {cause_of(error)}") from error
    if inspect.isclass(made) or not (callable(made) or isinstance(made, torch.export.ExportedProgram)):
        raise UserError(
            f"{shown} returned a {type(made).__name__}; accepted: a torch.nn.Module, or a function of images"
        )
    return made
