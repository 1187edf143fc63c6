"""Call a plugin that is a plain function (a model's builder, a dataset's reader) with the options of a spec."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from robustbench_lite import specs
from robustbench_lite.errors import UserError

_EMPTY = inspect.Parameter.empty


def call(function: Callable[..., Any], options: Mapping[str, str], *, name: str, **fixed: Any) -> Any:
    """`function(**fixed, **options)`, the texts coerced by the type hints of its keyword-only parameters.

    Args:
        function: its keyword-only parameters, but for `fixed`, are the options; `tuple[float, ...]` reads `0.5,0.5`.
        options: the texts, by option name; `-` and `_` are the same in a name.
        name: what messages call it.

    Raises:
        UserError: an option that it does not have, a value that does not fit, or one that is missing.
    """
    chosen = specs.build(_options_class(function, frozenset(fixed)), options, name=name, resolve=_numbers)
    values = {item.name: getattr(chosen, item.name) for item in dataclasses.fields(chosen)}
    missing = [key for key, value in values.items() if value is _EMPTY]
    if missing:
        raise UserError(f"{name} needs the option {missing[0]!r}; write {name};{missing[0]}=…")
    return function(**fixed, **values)


def _options_class(function: Callable[..., Any], fixed: frozenset[str]) -> type[Any]:
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    options = [
        (item.name, hints.get(item.name, str), dataclasses.field(default=item.default))
        for item in inspect.signature(function).parameters.values()
        if item.kind is inspect.Parameter.KEYWORD_ONLY and item.name not in fixed
    ]
    return dataclasses.make_dataclass("Options", options, frozen=True, kw_only=True)


def _numbers(kind: type, text: str) -> object:
    if kind != tuple[float, ...]:
        raise UserError(f"{text!r} cannot be given as text")
    return tuple(specs.number(part.strip(), "a value of the list") for part in text.strip("()").split(","))
