"""The options of a plugin that is a plain function: a model's builder, a dataset's reader."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from robustbench_lite import specs
from robustbench_lite.errors import UserError, nearest


def call(function: Callable[..., Any], options: Mapping[str, str], *, name: str, **given: Any) -> Any:
    """`function(**given, **options)`, the options read by `options_of`.

    Raises:
        UserError: an option that it does not have, a value that does not fit, or one that is missing.
    """
    return function(**given, **options_of(function, options, name=name, given=given))


def options_of(
    function: Callable[..., Any], options: Mapping[str, str], *, name: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The option texts as values, by the type hints of the function's keyword-only parameters.

    Args:
        options: the texts, by option name; `-` and `_` are the same in a name.
        name: what messages call the function. given: the parameters that are no options.

    Raises:
        UserError: an option that it does not have, a value that does not fit, or one that is missing.
    """
    known = {
        key: item
        for key, item in inspect.signature(function, eval_str=True).parameters.items()
        if item.kind is inspect.Parameter.KEYWORD_ONLY and key not in given
    }
    values = {}
    for written, text in options.items():
        key = written.replace("-", "_")
        if key not in known:
            raise _strange(name, written, known)
        kind = str if known[key].annotation is inspect.Parameter.empty else known[key].annotation
        values[key] = specs.coerce(kind, text, f"{name}: {key}")
    for key, item in known.items():
        if item.default is inspect.Parameter.empty and key not in values:
            raise UserError(f"{name} needs the option {key!r}; write {name}:{key}=…")
    return values


def _strange(name: str, written: str, known: Mapping[str, Any]) -> UserError:
    guess = nearest(written, known)
    has = f"it has {', '.join(known)}" if known else "it has no options"
    return UserError(f"{name} has no option {written!r}; {has}{f'; did you mean {guess}?' if guess else ''}")
