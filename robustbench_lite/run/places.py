"""Where user code may keep something from one call to the next, outside of the modules that it is called through.

Globals of its own files, attributes of classes and functions, what closures hold, default values, variables of the environment
and of the context, what it puts into modules that are not its own: found by following the names in the code of a system's classes
and functions, through everything that is no part of Python, torch or an installed package.
"""

import builtins
import functools
import os
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

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
    if walk.followed:
        walk.found["the environment"] = Place(name="the environment", get=os.environ.copy, put=_put_environment)
        walk.foreign(builtins, walk.names)
    return list(walk.found.values())


class _Walk:
    """What is reached from functions and classes of users by the names in their code."""

    def __init__(self) -> None:
        self.found: dict[str, Place] = {}
        self._seen: set[int] = set()
        #: all names in the user's code
        self.names: set[str] = set()
        #: of modules that are not the user's, the names that the user's code has
        self._named: dict[str, set[str]] = {}

    @property
    def followed(self) -> bool:
        """Whether there is code of a user's."""
        return bool(self._seen)

    def foreign(self, module: ModuleType, names: Iterable[str] = ()) -> None:
        """What user code keeps in a module that is not its own: what was not there before, and what goes by these names."""
        there, named = frozenset(vars(module)), self._named.setdefault(module.__name__, set())
        named.update(names)

        def kept() -> dict[str, Any]:
            own = {name: one for name, one in vars(module).items() if name not in there or name in named}
            return {name: one for name, one in own.items() if _can_be_kept(one)}

        def put(values: dict[str, Any]) -> None:
            for name in kept().keys() - values.keys():
                delattr(module, name)
            vars(module).update(values)

        name = f"values in {module.__name__}"
        self.found.setdefault(name, Place(name=name, get=kept, put=put))

    def follow(self, value: Any) -> None:
        """Go on from a value where it is a user's code."""
        if isinstance(value, ContextVar):
            name = f"the context's {value.name}"
            with suppress(LookupError):  # without a value now, and nobody can take one away later
                value.get()
                self.found.setdefault(name, Place(name=name, get=value.get, put=functools.partial(_put_context, value)))
        elif isinstance(value, functools._lru_cache_wrapper):
            name = f"the cache of {value.__qualname__}"
            self.found.setdefault(name, Place(name=name, get=_nothing, put=functools.partial(_emptied, value)))
            value = value.__wrapped__
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
        own = f"attributes of {name}"
        self.found.setdefault(
            own, Place(name=own, get=vars(function).copy, put=functools.partial(_put_table, vars(function)))
        )
        self._names(function.__globals__, set(_names_in(function.__code__)), function.__module__)

    def _names(self, space: dict[str, Any], names: set[str], owner: str) -> None:
        """The globals of a file that go by these names; and of the user's other files that are among them."""
        self.names |= names
        for name in sorted(names):
            value = space.get(name, sys.modules.get(name))
            if isinstance(value, ModuleType) and not of_user(value.__name__):
                self.foreign(value, names)
            elif name not in space:
                continue
            elif not isinstance(value, ModuleType):
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


def _can_be_kept(value: Any) -> bool:
    """Whether it is a number, a container, or an object of a user's: no part of what the module itself is made of."""
    plain = isinstance(value, (int, float, str, list, dict, set, deque, np.ndarray, Tensor))
    return plain or (_is_state(value) and of_user(type(value).__module__))


def _nothing() -> None:
    """What is kept of a cache: it fills again."""


def _emptied(cache: Any, _: None) -> None:
    cache.cache_clear()


def _put_context(variable: ContextVar[Any], value: Any) -> None:
    variable.set(value)


def _put_table(table: dict[Any, Any], values: dict[Any, Any]) -> None:
    table.clear()
    table.update(values)


def _put_environment(values: dict[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


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
    if isinstance(value, (*_CODE, *_CLASS, ContextVar)):
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
