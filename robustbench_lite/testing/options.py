"""What is asked of the options of attacks and defenses alike: refuse nonsense, and print back."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from robustbench_lite import specs
from robustbench_lite.errors import UserError
from robustbench_lite.testing.report import LawError, refuses

#: no option of any attack or defense means anything at such a value
_NONSENSE = -1_000_000


def refuses_unknown(plugin: Any) -> None:
    """An option that the plugin does not have is refused."""
    refuses(lambda: specs.build(type(plugin), {"no-such-option": "1"}), "an option no-such-option=1")


def refuses_nonsense(plugin: Any, runs: Callable[[Any], bool]) -> None:
    """A large negative number, NaN and a zero that leaves nothing to run are refused, for every numeric option.

    Args:
        runs: whether the plugin does anything at all.
    """
    for name, kind in numeric_options(type(plugin)):
        for value in (_NONSENSE,) if kind is int else (float(_NONSENSE), math.nan):
            refuses(lambda name=name, value=value: _with(plugin, name, value), f"{name}={value}")  # type: ignore[misc]
        if kind is int:
            _zero(plugin, name, runs)


def numeric_options(cls: type) -> Iterator[tuple[str, type]]:
    """The options that hold a number, with int or float; also those that may be none."""
    for name, hint in specs.option_types(cls).items():
        kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
        for kind in (int, float):
            if kind in kinds:
                yield name, kind
                break


def prints_back(plugin: Any, read: Callable[[str], object]) -> None:
    """The plugin's spec string reads back to an equal plugin."""
    if read(str(plugin)) != plugin:
        raise LawError(f"{plugin} reads back as {read(str(plugin))}")


def _zero(plugin: Any, name: str, runs: Callable[[Any], bool]) -> None:
    try:
        zero = _with(plugin, name, 0)
    except UserError:
        return
    if not runs(zero):
        raise LawError(f"{name}=0 was accepted, and leaves nothing to run")


def _with(plugin: Any, name: str, value: float) -> Any:
    return dataclasses.replace(plugin, **{name: value})


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
