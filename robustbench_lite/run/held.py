"""Objects that a system holds, and copies of those that copying would hand out again or refuses."""

import copy
import functools
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustbench_lite.run.places import of_user

#: what a memory can be kept in, besides objects of the user's classes
_MUTABLE = (list, dict, set, deque, np.ndarray, Tensor, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
#: more objects than these are not looked at
_MOST = 100_000


#: values, and what they are called
Roots = list[tuple[Any, str]]


def held(roots: Roots) -> dict[int, tuple[Any, str]]:
    """What is reached from the roots through attributes and containers, by id: the object, and how it is called."""
    found: dict[int, tuple[Any, str]] = {}
    waiting = [*reversed(roots)]
    while waiting and len(found) < _MOST:
        value, name = waiting.pop()
        if id(value) not in found:
            parts = [(part, f"{name}{step}") for part, step in _parts(value)]
            if parts or _can_change(value) or isinstance(value, ContextVar):
                found[id(value)] = (value, name)
                waiting += parts
    return found


def shared(one: Roots, other: Roots) -> tuple[str, ...]:
    """The names of objects that can change and are held by both; weights may be."""
    first, second = held(one), held(other)
    both = [first[key] for key in first.keys() & second.keys()]
    return tuple(sorted(name for value, name in both if _can_change(value)))


def copies(roots: Roots, memo: dict[int, Any]) -> dict[int, Any]:
    """The memo of `copy.deepcopy`, with copies of what has a rule of its own for being copied, or none.

    A rule of the user's may hand out the object itself. What belongs to a thread is copied for the thread that is running.
    """
    found = [value for value, _ in held(roots).values()]
    memo = memo | {id(value): value for value in found if isinstance(value, ContextVar)}  # its value is another place's
    blank = [(value, made) for value in found if (made := _blank(value)) is not None]
    memo |= {id(value): made for value, made in blank}
    for value, made in blank:
        if isinstance(value, (weakref.WeakValueDictionary, weakref.WeakKeyDictionary)):
            made.update({copy.deepcopy(key, memo): copy.deepcopy(one, memo) for key, one in list(value.items())})
        else:
            vars(made).update(copy.deepcopy(vars(value), memo))
    return memo


def _blank(value: Any) -> Any:
    """An empty object of the kind, of those that are copied here; else None."""
    if type(value) in (threading.local, weakref.WeakValueDictionary, weakref.WeakKeyDictionary):
        return type(value)()
    if not hasattr(value, "__dict__") or not _copies_by_rule(value):
        return None
    try:
        return object.__new__(type(value))
    except TypeError:  # a kind of list, or another that Python itself makes
        return None


def _copies_by_rule(value: Any) -> bool:
    """Whether a class of the user's says how it is copied."""
    return any("__deepcopy__" in vars(kind) and of_user(kind.__module__) for kind in type(value).__mro__)


def _can_change(value: Any) -> bool:
    if isinstance(value, (nn.Parameter, Enum)):
        return False
    own = of_user(type(value).__module__) and not callable(value)
    return isinstance(value, _MUTABLE) or (own and bool(_attributes(value)))


def _parts(value: Any) -> Iterator[tuple[Any, str]]:
    """What a value is made of, and how each part is called in it."""
    if isinstance(value, Mapping):
        yield from ((part, f"[{key!r:.40}]") for key, part in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((part, "[]") for part in list(value))
    elif isinstance(value, functools.partial):
        yield from ((part, "") for part in (*value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield (value.__self__, "")
    elif isinstance(value, weakref.ref):
        yield (value(), "")
    elif isinstance(value, (nn.Module, threading.local)) or _is_users(value):
        yield from ((part, f".{name}") for name, part in _attributes(value).items())


def _is_users(value: Any) -> bool:
    return not isinstance(value, (type, Enum)) and of_user(type(value).__module__)


def _attributes(value: Any) -> dict[str, Any]:
    own = dict(getattr(value, "__dict__", {}))
    slots = [name for kind in type(value).__mro__ for name in _listed(vars(kind).get("__slots__", ()))]
    return own | {name: getattr(value, name) for name in slots if name[:2] != "__" and hasattr(value, name)}


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
