"""What stands for a value in RobustBench's files: percentages as texts, eps as a fraction, booleans as words.

Every function raises a `UserError` that names the place (`what`) where the value means nothing.
"""

from typing import Any

from robustbench_lite import specs
from robustbench_lite.errors import UserError

_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "no", "n", "0"), False),
    **dict.fromkeys(("", "unknown", "none", "null"), None),
}
#: how files say that a figure is not known
_NOTHING = ("", "-", "n/a", "none", "null", "unknown")


def share(value: Any, what: str) -> float | None:
    """A percentage, as text or number, as a share; None where there is none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{what} = {value!r}; accepted: a percentage such as 84.92")
    figure = specs.number(str(value).strip().removesuffix("%"), what)
    if not 0 <= figure <= 100:
        raise UserError(f"{what} = {value}; accepted: a percentage from 0 to 100")
    return round(figure / 100, 8)


def percent(accuracy: float) -> str:
    """A share as RobustBench writes it: 84.92, with more digits where there are more."""
    whole, _, digits = f"{100 * accuracy:.6f}".partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}"


def eps(value: Any, what: str) -> str | None:
    """eps as it is written; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{what} = {value!r}; accepted: a number such as 8/255 or 0.031")
    written = value.strip() if isinstance(value, str) else specs.fraction_text(specs.number(str(value), what))
    if specs.number(written, what) < 0:
        raise UserError(f"{what} = {written}; accepted: 0 and more")
    return written


def truth(value: Any, what: str) -> bool | None:
    """True or false, also as words; None where nobody knows."""
    word = "" if value is None else str(value).strip().lower()
    if word not in _WORDS:
        raise UserError(f"{what} = {value!r}; accepted: true or false")
    return _WORDS[word]


def count(value: Any, what: str) -> int | None:
    """A whole number, also as text."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise UserError(f"{what} = {value!r}; accepted: a whole number")
    return int(value)


def text(value: Any, what: str) -> str:
    """A text; nothing for null."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"{what} = {value!r}; accepted: a text")
    return value or ""
