"""Options of other libraries' classes: which their constructors take, and texts as the values that they want."""

import inspect
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from robustbench_lite import specs
from robustbench_lite.errors import UserError, nearest

_PLAIN = (bool, int, float, str, type(None))
_PART = re.compile(r"eps(?:([*/])(.+))?")


def options_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """What the constructor takes, by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # whatever class a library has
    return {name: item for name, item in list(found.items())[1:] if item.kind in kinds}


def told(cls: type | None, given: Collection[str]) -> list[tuple[str, str, str]]:
    """What a user may set: (name, type in words, default) of each option; a default that is no plain value is `default`."""
    rows = []
    for name, item in ({} if cls is None else options_of(cls)).items():
        if name in given:
            continue
        try:
            kind = _words(_type(cls, item))  # type: ignore[arg-type]  # there are none of None
        except UserError:  # an option that no text can set
            continue
        default = item.default
        if default is inspect.Parameter.empty:
            rows.append((name, kind, "required"))
        else:
            rows.append((name, kind, specs.text_of(default) if isinstance(default, _PLAIN) else "its own"))
    return rows


def _words(kind: Any) -> str:
    from robustbench_lite.describe import type_text

    return type_text(kind)


def values(
    cls: type, texts: Mapping[str, str], *, who: str, eps: float | None, given: Collection[str]
) -> dict[str, Any]:
    """The options as values; a number may be written as a share of the threat's radius: `eps`, `eps/4`, `eps*0.1`.

    Args:
        who: what messages call the attack. eps: the radius, or None without one.
        given: what the harness gives itself, from the threat and the model.

    Raises:
        UserError: an option that the constructor does not have, that is the harness's, or a value that does not fit.
    """
    takes = {name: item for name, item in options_of(cls).items() if name not in given}
    found = {}
    for name, text in texts.items():
        if name in given:
            raise UserError(f"{who}: {name} is not for you to say; it follows from the model, the images and --threat")
        if name not in takes:
            guess = nearest(name, takes)
            also = f"; did you mean {guess}?" if guess else ""
            raise UserError(f"{who} has no option {name!r}; it has {', '.join(takes) or 'none'}{also}")
        found[name] = _value(_type(cls, takes[name]), text, f"{who}: {name}", eps)
    missing = [name for name, item in takes.items() if item.default is inspect.Parameter.empty and name not in found]
    if missing:
        raise UserError(f"{who} needs the option {missing[0]!r}; write it as ;{missing[0]}=VALUE")
    return found


def _value(kind: Any, text: str, what: str, eps: float | None) -> Any:
    share = _PART.fullmatch(text.strip().replace(" ", ""))
    if share is None or kind is str:
        return specs.coerce(kind, text, what)
    if eps is None:
        raise UserError(f"{what}={text}, but the threat has no eps")
    by = 1.0 if share[2] is None else specs.number(share[2], what)
    if by == 0 and share[1] == "/":
        raise UserError(f"{what}={text} divides by 0")
    return eps / by if share[1] == "/" else eps * by


def _type(cls: type, item: inspect.Parameter) -> Any:
    """The plain types that the parameter takes: by its annotation, else by its default, else any."""
    try:
        hint = typing.get_type_hints(cls.__init__).get(item.name, Any)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # names that only their type checker imports
        hint = _by_words(str(item.annotation)) or Any
    plain = _plain(hint)
    if plain:
        return plain[0] if len(plain) == 1 else typing.Union[tuple(plain)]  # noqa: UP007  # as many as there are
    if isinstance(item.default, (bool, int, float, str)) and hint is Any:
        return type(item.default)
    if hint is Any:
        return typing.Union[int, float, bool, None, str]  # noqa: UP007
    raise UserError(f"{cls.__name__}: {item.name} cannot be given as text")


def _plain(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for one in typing.get_args(hint) for part in _plain(one)]
    return [hint] if hint in _PLAIN or typing.get_origin(hint) is typing.Literal else []


def _by_words(annotation: str) -> Any:
    """An annotation that cannot be looked up, such as `'int | float | np.ndarray'`, by the plain words in it."""
    words = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
    found = [words[word] for word in re.findall(r"\w+", annotation) if word in words]
    return typing.Union[tuple(found)] if found else None  # noqa: UP007
