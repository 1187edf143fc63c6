"""Where user code may keep something from one call to the next, outside of the modules that it is called through.

Globals of its own files, attributes of classes, what closures hold and default values: found by following the names in the
code of a system's classes and functions, through everything that is no part of Python, torch or an installed package.
"""

import functools
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from torch import nn

from robustbench_lite.system import System

#: what is code, or a mere description of a class
_CODE = (type, ModuleType, FunctionType, MethodType, staticmethod, classmethod, property, functools.partial)
_CLASS = (MemberDescriptorType, GetSetDescriptorType)


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A value that outlives a call: what it is called, and how it is read and set."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], None]


def places_of(system: System) -> list[Place]:
    """The places of the code that a system is made of, each once."""
    walk = _Walk()
    for module in system.modules:
        for part in module.modules():
            walk.follow(type(part))
            hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
            for value in (*hooks, *vars(part).values()):
                walk.follow(value)
    for purifier in system.purifiers:
        for function in (purifier.apply, purifier.surrogate, purifier.derived):
            walk.follow(function)
    if system.detector is not None:
        walk.follow(system.detector.score)
    return list(walk.found.values())


class _Walk:
    """What is reached from functions and classes of users by the names in their code."""

    def __init__(self) -> None:
        self.found: dict[str, Place] = {}
        self._seen: set[int] = set()

    def follow(self, value: Any) -> None:
        """Go on from a value where it is a user's code."""
        for part in _inside(value):
            if id(part) in self._seen or not of_user(part.__module__):
                continue
            self._seen.add(id(part))
            if isinstance(part, type):
                self._class(part)
            else:
                self._function(part)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__[1:]:
            self.follow(base)
        if issubclass(kind, Enum):
            return
        for name, value in list(vars(kind).items()):
            if not name.startswith(("__", "_abc_")):
                # as it stands in the class: getattr would bind it
                get, put = functools.partial(vars(kind).__getitem__, name), functools.partial(setattr, kind, name)
                self._value(f"{kind.__qualname__}.{name}", get, put)
            elif isinstance(value, FunctionType):
                self.follow(value)

    def _function(self, function: FunctionType) -> None:
        name, cells = function.__qualname__, function.__closure__ or ()
        for held, cell in zip(function.__code__.co_freevars, cells, strict=True):
            if _filled(cell):
                get, put = (functools.partial(do, cell, "cell_contents") for do in (getattr, setattr))
                self._value(f"{held} of {name}", get, put)
        for which in ("__defaults__", "__kwdefaults__"):
            if getattr(function, which):
                get, put = (functools.partial(do, function, which) for do in (getattr, setattr))
                self._value(f"{which.strip('_')} of {name}", get, put)
        self._names(function.__globals__, set(_names_in(function.__code__)), function.__module__)

    def _names(self, space: dict[str, Any], names: Iterable[str], owner: str) -> None:
        """The globals of a file that go by these names; and of the user's other files that are among them."""
        for name in sorted(set(names) & set(space)):
            value = space[name]
            if not isinstance(value, ModuleType):
                self._value(
                    f"{owner}.{name}",
                    functools.partial(space.__getitem__, name),
                    functools.partial(space.__setitem__, name),
                )
            elif id(value) not in self._seen and of_user(value.__name__):
                self._seen.add(id(value))
                self._names(vars(value), names, value.__name__)

    def _value(self, name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        value = get()
        if _is_state(value):
            self.found.setdefault(name, Place(name=name, get=get, put=put))
        else:
            self.follow(value)


def _inside(value: Any) -> Iterator[FunctionType | type]:
    """The functions and classes that a piece of code is made of."""
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _inside(part)
    elif isinstance(value, (staticmethod, classmethod, MethodType)):
        yield from _inside(value.__func__)
    elif isinstance(value, property):
        yield from _inside(value.fget)
    elif isinstance(value, (FunctionType, type)):
        yield value
        if isinstance(wrapped := getattr(value, "__wrapped__", None), FunctionType):
            yield wrapped


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _is_state(value: Any) -> bool:
    """Whether it is a value and no code: an object that can be called is one where a user wrote its class."""
    if isinstance(value, (*_CODE, *_CLASS)):
        return False
    return not callable(value) or isinstance(value, nn.Module) or of_user(type(value).__module__)


@functools.lru_cache(maxsize=4096)
def of_user(module: str | None) -> bool:
    """Whether a module is no part of Python, of an installed package or of this one."""
    head = (module or "").partition(".")[0]
    if head == "__main__":
        return True
    if not head or head == "robustbench_lite" or head in sys.stdlib_module_names:
        return False
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (module or "", head)]
    file = next((found for found in files if found), None)
    if file is None:  # typed in, or run from a file that was never imported
        return head not in sys.builtin_module_names
    return not any(Path(file).is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> frozenset[str]:
    named = sysconfig.get_paths()
    sites = {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    return frozenset(sites | {named[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
