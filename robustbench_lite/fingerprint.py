"""What a value is, for content addresses: equal values give equal bytes in every process, and no memory address is among them.

Networks are told by their weights, buffers and attributes (a temperature is in no `state_dict`), functions by their code and
by what they have closed over, plugins by their options and the files of their classes. What cannot be told apart, an object of
an unknown class with nothing plain in it, is told by its class alone.
"""

import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, Enum, torch.dtype, torch.device, np.generic)
#: what every module has, and nothing of its own; hooks change answers
_MODULE = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
#: the contracts that plugins derive from; a change there that could change numbers is told by a version (`cell.NUMBERS`)
_CONTRACTS = tuple(f"robustbench_lite.{name}" for name in ("attack", "defense", "rows", "system", "threat"))


def fingerprint(*values: object) -> str:
    """16 bytes (hex) that stand for the values."""
    state = hashlib.blake2b(digest_size=16)
    _feed(state, values, ())
    return state.hexdigest()


def source_digest(kind: type) -> str:
    """8 letters over the files that hold a plugin's class and those that it derives from: other code is another key.

    Files of the same folder that these import count as well: families share their mathematics there.
    """
    state, helpers = hashlib.blake2b(digest_size=4), set[str]()
    for part in _own_classes(kind):
        state.update(_file_of(part))
        helpers |= _beside(part.__module__)
    for name in sorted(helpers):
        state.update(_text_of(name))
    return state.hexdigest()


def _beside(module: str) -> set[str]:
    """The modules of the same package that this one takes something from, also through each other."""
    package, found, left = module.rpartition(".")[0], set[str](), [module]
    if package in ("", "robustbench_lite"):  # a file by itself; the harness, which `cell.NUMBERS` stands for
        return found
    while left:
        name = left.pop()
        here = sys.modules.get(name)
        if here is None or hasattr(here, "__path__"):  # a package holds whatever else was imported of it
            continue
        for value in list(vars(here).values()):
            named = value if isinstance(value, (type, FunctionType)) else type(value)
            owner = value.__name__ if isinstance(value, ModuleType) else named.__module__
            if isinstance(owner, str) and owner.startswith(f"{package}.") and owner not in {module, *found}:
                found.add(owner)
                left.append(owner)
    return found


def _own_classes(kind: type) -> list[type]:
    """The class and those that it derives from, but for Python's, torch's and the contracts."""
    known = ("builtins", "torch", "typing", "abc", "enum")
    return [
        part
        for part in kind.__mro__
        if part.__module__ not in _CONTRACTS and part.__module__.partition(".")[0] not in known
    ]


def _feed(state: hashlib.blake2b, value: object, above: tuple[int, ...]) -> None:
    """Hash the value; `above` holds what it is part of, so that what contains itself ends."""
    state.update(f"<{type(value).__qualname__}".encode())
    if isinstance(value, _PLAIN):
        state.update(repr(value).encode())
    elif isinstance(value, Tensor):
        state.update(f"{value.dtype}{tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif id(value) not in above:
        for part in _parts(value):
            _feed(state, part, (*above, id(value)))
    state.update(b">")


def _parts(value: Any) -> Iterator[object]:
    """What a value that is not plain is made of, in a fixed order."""
    if isinstance(value, np.ndarray):
        yield from (value.dtype.str, value.shape, value.tolist() if value.dtype.hasobject else value.tobytes())
    elif isinstance(value, Mapping):
        yield from sorted(value.items(), key=lambda item: repr(item[0])) if _named(value) else value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(fingerprint(one) for one in value)
    elif isinstance(value, nn.Module):
        yield from _of_module(value)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        owner = value.__self__
        yield from (value.__func__, owner if isinstance(owner, (nn.Module, type)) or _is_data(owner) else type(owner))
    elif isinstance(value, FunctionType):
        yield from (
            _source_of(value),
            value.__defaults__,
            value.__kwdefaults__,
            [_held(cell) for cell in _cells(value)],
        )
    elif isinstance(value, type):
        yield from (value.__qualname__, [_source_of(part) for part in _own_classes(value)])
    elif _is_data(value):
        yield from (source_digest(type(value)), getattr(value, "version", None))
        yield [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    else:
        yield from (type(value), getattr(value, "__qualname__", ""))  # a function that is built in has a name
        yield from ((name, one) for name, one in sorted(getattr(value, "__dict__", {}).items()) if _simple(one))


def _of_module(module: nn.Module) -> Iterator[object]:
    yield type(module)
    yield module.extra_repr()
    if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        try:
            yield str(module.code)
        except (AttributeError, RuntimeError):  # a part of a script without a forward of its own
            yield ""
    else:
        ours = not type(module).__module__.startswith("torch.")
        own = {name: one for name, one in vars(module).items() if name not in _MODULE}
        yield {name: one for name, one in own.items() if ours or _simple(one)}
    for tensors in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield [(name, tensor) for name, tensor in sorted(tensors)]
    yield list(module.named_children())


def _named(value: Mapping[Any, Any]) -> bool:
    """Whether the keys mean something; those of hooks are numbers that torch counts up."""
    return not (value and all(isinstance(key, int) for key in value))


def _is_data(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _simple(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_simple, value))
    return isinstance(value, (*_PLAIN, Tensor, np.ndarray))


def _cells(function: FunctionType) -> tuple[Any, ...]:
    return function.__closure__ or ()


def _held(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@functools.lru_cache(maxsize=1024)  # a network has many layers of few classes
def _source_of(code: type | FunctionType) -> str:
    """The text of a class or function; torch's own is told by torch's version, which is in every key besides."""
    if (code.__module__ or "").partition(".")[0] == "torch":
        return code.__qualname__
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed in, or made by `exec`: what it was compiled to
        if isinstance(code, type):
            methods = (one for _, one in sorted(vars(code).items()) if isinstance(one, FunctionType))
            return code.__qualname__ + "".join(map(_source_of, methods))
        compiled = code.__code__
        constants = [one for one in compiled.co_consts if _simple(one)]
        return f"{compiled.co_code.hex()}{compiled.co_names}{constants}"


def _text_of(module: str) -> bytes:
    try:
        return Path(inspect.getfile(sys.modules[module])).read_bytes()
    except (OSError, TypeError, KeyError):
        return module.encode()


def _file_of(kind: type) -> bytes:
    try:
        return Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):
        return kind.__qualname__.encode()
