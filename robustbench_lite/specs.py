"""Spec strings: how a user writes a plugin and its options in one word.

pgd:steps=40,restarts=5                          NAME[:KEY=VALUE[,KEY=VALUE...]]
adversarial-training:attack=(pgd:steps=7)        a value with , or : stands in parentheses
adversarial-training+feature-squeezing           + chains defenses, left to right
timm:resnet18;pretrained=true                    sources: the rest of the word is the name, options follow ;
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from robustbench_lite.errors import UserError, cut, nearest

T = TypeVar("T")
Resolve = Callable[[type, str], object]
_OPEN, _CLOSE = "(", ")"


@dataclass(frozen=True)
class Spec:
    """A name with options; `str` prints it back so that `parse(str(spec)) == spec`."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    separator: str = ":"

    def __str__(self) -> str:
        if not self.options:
            return self.name
        between = "," if self.separator == ":" else ";"
        pairs = (f"{key}={_protect(value)}" for key, value in self.options.items())
        return self.name + self.separator + between.join(pairs)


def parse(text: str) -> Spec:
    """Read `NAME[:KEY=VALUE[,KEY=VALUE...]]`.

    Examples:
        >>> parse("adversarial-training:attack=(pgd:steps=7),epochs=5").options
        {'attack': 'pgd:steps=7', 'epochs': '5'}

    Raises:
        UserError: an empty name, an option without `=` or without a value, one given twice, or parentheses that do not
            match.
    """
    name, _, rest = text.strip().partition(":")
    name = name.strip()
    if not name or set(name) & set("(),=+;"):
        raise UserError(f"cannot read {cut(text)!r}; write NAME or NAME:key=value,key=value")
    return Spec(name, _pairs(_split(rest, ","), text))


def parse_source(text: str) -> Spec:
    """Read a source such as `timm:resnet18;pretrained=true`: the name goes up to the first `;` outside parentheses.

    Examples:
        >>> str(parse_source("timm:resnet18;pretrained=true;std=(0.2,0.2,0.2)"))
        'timm:resnet18;pretrained=true;std=(0.2,0.2,0.2)'

    Raises:
        UserError: as `parse`.
    """
    name, *options = _split(text.strip(), ";") or [""]
    if not name.strip():
        raise UserError(f"cannot read {cut(text)!r}; write NAME or NAME;key=value;key=value")
    return Spec(name.strip(), _pairs(options, text), ";")


def head(text: str) -> str:
    """The name that a spec begins with, up to its first colon; of another library's attack the library's."""
    return text.partition(":")[0].strip()


def parse_chain(text: str) -> tuple[Spec, ...]:
    """Read specs joined by `+`, left to right.

    Examples:
        >>> [spec.name for spec in parse_chain("adversarial-training:attack=(pgd:steps=7)+bit-depth")]
        ['adversarial-training', 'bit-depth']
    """
    return tuple(parse(part) for part in _split(text, "+") or [""])


def norm_name(text: str) -> str | None:
    """`Linf`, `L2`, `L1` or `L0`, however it is written: l_inf, inf, infinity, 2; None for anything else.

    Examples:
        >>> norm_name("l_inf"), norm_name("2"), norm_name("L3")
        ('Linf', 'L2', None)
    """
    short = text.strip().lower().replace("_", "").replace("-", "").replace(" ", "").removeprefix("l")
    short = {"infinity": "inf", "∞": "inf", "max": "inf"}.get(short, short)
    return f"L{short}" if short in ("inf", "2", "1", "0") else None


def as_list(text: str) -> tuple[str, ...]:
    """The specs that somebody has joined by commas, as other tools want it; the text alone where it is one spec.

    Examples:
        >>> as_list("pgd:steps=40,restarts=2,fgsm"), as_list("pgd:steps=40,restarts=2")
        (('pgd:steps=40,restarts=2', 'fgsm'), ('pgd:steps=40,restarts=2',))
    """
    found: list[str] = []
    try:
        parts = _split(text, ",")
    except UserError:  # parentheses that do not match are told where the spec is read
        return (text,)
    for part in parts:
        if found and "=" in part.partition(":")[0]:
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    plain = all(re.fullmatch(r"[\w.-]+(:.*)?", one, re.DOTALL) for one in found)
    return tuple(found) if plain and len(found) > 1 else (text,)


def joined(text: str) -> tuple[str, ...]:
    """The texts that `+` joins, each without the parentheses around it."""
    return tuple(_unprotect(part) for part in _split(text, "+"))


def number(text: str, what: str) -> float:
    """A finite number written as `8/255`, `0.03` or `1e-3`.

    Raises:
        UserError: the text is none of these.
    """
    try:
        top, slash, bottom = text.partition("/")
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{what}={cut(text)} is not a number; write it as 0.03 or 8/255") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"{what}={cut(text)} is not a finite number; write it as 0.03 or 8/255")
    return value


def fraction_text(value: float) -> str:
    """A short way to write a number that reads back to the same float: `8/255` where that is exact, else `repr`.

    Examples:
        >>> fraction_text(8 / 255), fraction_text(1 / 3), fraction_text(0.1), fraction_text(2.0)
        ('8/255', '85/255', '0.1', '2')
    """
    plain = repr(float(value))
    if len(plain) <= 8:
        return plain.removesuffix(".0")
    levels = value * 255
    if round(levels) / 255 == value:
        return f"{round(levels)}/255"
    simple = Fraction(value).limit_denominator(1000)
    exact = f"{simple.numerator}/{simple.denominator}"
    return exact if simple.numerator / simple.denominator == value else plain


def build(cls: type[T], options: Mapping[str, str], *, name: str = "", resolve: Resolve | None = None) -> T:
    """Make the frozen dataclass `cls` from option texts, coerced by its type hints.

    Args:
        cls: a dataclass with keyword-only fields.
        options: the texts, by option name; `-` and `_` are the same in a name. The field `from_` is the option `from`,
            which Python keeps for itself.
        name: what messages call it; the class's own `name` if left out.
        resolve: makes an inner plugin, `resolve(type, text)`, for a field whose type is itself a plugin.

    Raises:
        UserError: an option that it does not have, or a value that does not fit.
    """
    name = name or str(getattr(cls, "name", cls.__name__))
    types_of = option_types(cls)
    kinds, fields = {}, {}
    for field_name, kind in types_of.items():
        kinds[field_name.rstrip("_")], fields[field_name.rstrip("_")] = kind, field_name
    values: dict[str, Any] = {}
    for given, text in options.items():
        key = given.replace("-", "_")
        if key not in kinds:
            guess = nearest(key, kinds)
            has = f"it has {', '.join(kinds)}" if kinds else "it has no options"
            also = f"; did you mean {guess}?" if guess else ""
            raise UserError(f"{cut(name)} has no option {cut(given)!r}; {has}{also}")
        values[fields[key]] = coerce(kinds[key], text, f"{name}: {key}", resolve)
    return cls(**values)


def options_of(plugin: object) -> dict[str, str]:
    """The options of a dataclass instance that differ from their defaults, as texts that `build` reads back."""
    found = {}
    for item in dataclasses.fields(plugin):  # type: ignore[arg-type]  # any dataclass instance
        value = getattr(plugin, item.name)
        if item.init and value != _default(item):
            found[item.name.rstrip("_")] = text_of(value)
    return found


def text_of(value: object) -> str:
    """How an option's value is written: `true`, `none`, `8/255`, or an inner plugin's spec."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return fraction_text(value)
    return str(value)


def coerce(kind: Any, text: str, what: str, resolve: Resolve | None = None) -> Any:
    """Turn `text` into the type `kind`: int, float, bool, str, a Literal, a union of these, or an inner plugin."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_fit(typing.get_args(kind), text, what, resolve)
    if origin is typing.Literal:
        return _one_of(typing.get_args(kind), text, what)
    if kind is type(None):
        return _literal_none(text, what)
    if kind is bool:
        return _boolean(text, what)
    if kind is int:
        return _integer(text, what)
    if kind is float:
        return number(text, what)
    if kind is str:
        return text
    if resolve is None:
        raise UserError(f"{what}={cut(text)} cannot be given as text")
    return resolve(kind, text)


def option_types(cls: type) -> dict[str, Any]:
    """The options of a plugin class and their types, in the order of declaration."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls) if item.init}


def _default(item: dataclasses.Field[Any]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _first_fit(kinds: tuple[Any, ...], text: str, what: str, resolve: Resolve | None) -> Any:
    # None first and str last, so that "none" is None and a text is taken as text only where nothing else fits.
    ordered = sorted(kinds, key=lambda kind: (kind is not type(None), kind is str))
    trouble: UserError | None = None
    for kind in ordered:
        try:
            return coerce(kind, text, what, resolve)
        except UserError as error:
            trouble = error
    assert trouble is not None
    raise trouble


def _one_of(accepted: tuple[Any, ...], text: str, what: str) -> Any:
    for value in accepted:
        if str(value).lower() == text.strip().lower():
            return value
    words = [str(value) for value in accepted]
    guess = nearest(text, words)
    also = f"; did you mean {guess}?" if guess else ""
    raise UserError(f"{what}={cut(text)}; accepted: {', '.join(words)}{also}")


def _literal_none(text: str, what: str) -> None:
    if text.strip().lower() not in ("none", ""):
        raise UserError(f"{what}={cut(text)}; accepted: none")


def _boolean(text: str, what: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    try:
        return words[text.strip().lower()]
    except KeyError:
        raise UserError(f"{what}={cut(text)}; accepted: true, false") from None


def _integer(text: str, what: str) -> int:
    try:
        return int(text.strip())
    except ValueError:
        raise UserError(f"{what}={cut(text)} is not a whole number") from None


def _protect(value: str) -> str:
    return f"({value})" if set(value) & set(",:;+=()") else value


def _unprotect(value: str) -> str:
    value = value.strip()
    if value.startswith(_OPEN) and _matching(value) == len(value) - 1:
        return value[1:-1]
    return value


def _matching(value: str) -> int:
    """Where the parenthesis that opens at 0 closes."""
    depth = 0
    for place, letter in enumerate(value):
        depth += (letter == _OPEN) - (letter == _CLOSE)
        if depth == 0:
            return place
    return -1


def _split(text: str, separator: str) -> list[str]:
    """Split at the separators outside parentheses; an empty text has no parts."""
    parts, depth, begin = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == _OPEN) - (letter == _CLOSE)
        if depth < 0:
            break
        if letter == separator and depth == 0:
            parts.append(text[begin:place])
            begin = place + 1
    if depth != 0:
        raise UserError(f"the parentheses in {cut(text)!r} do not match")
    parts.append(text[begin:])
    return parts if parts != [""] else []


def _pairs(parts: list[str], text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"cannot read the option {cut(part.strip())!r} in {cut(text)!r}; write key=value")
        if key in options:
            raise UserError(f"the option {cut(key)!r} is given twice in {cut(text)!r}")
        options[key] = _unprotect(value)
        if not options[key].strip():
            raise UserError(
                f"the option {cut(key)!r} is empty in {cut(text)!r}; write {cut(key)}=VALUE, or leave it out"
            )
    return options


def system_name(model: str, defense: str) -> str:
    """A model and its defense in words; a model without one by its name alone.

    >>> system_name("linear", "none"), system_name("linear", "jpeg")
    ('linear', 'linear, jpeg')
    """
    return model if defense == "none" else f"{model}, {defense}"
