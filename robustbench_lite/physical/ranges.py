"""A range of numbers, and the ways to write one: 5, -30..30, ±30, +-30."""

from robustbench_lite.errors import UserError
from robustbench_lite.specs import fraction_text, number

#: the lowest and the highest value, both possible
Range = tuple[float, float]


def parse_range(text: str, what: str) -> Range:
    """Read a range.

    Raises:
        UserError: the text is none, or ends below its beginning.
    """
    text = text.strip()
    for sign in ("±", "+-"):
        if text.startswith(sign):
            reach = _end(text.removeprefix(sign), text, what)
            return checked((-reach, reach), what, text)
    low, dots, high = text.partition("..")
    first = _end(low, text, what)
    return checked((first, _end(high, text, what) if dots else first), what, text)


def checked(found: Range, what: str, text: object = None) -> Range:
    """The range, if it does not end below its beginning.

    Raises:
        UserError: it does.
    """
    if found[0] > found[1]:
        given = range_text(found) if text is None else text
        raise UserError(f"{what}={given} ends below its beginning; write it as low..high or ±reach")
    return found


def range_text(found: Range) -> str:
    """How a range is written; it reads back to the same numbers."""
    low, high = (fraction_text(end) for end in found)
    return low if found[0] == found[1] else f"{low}..{high}"


def _end(text: str, whole: str, what: str) -> float:
    try:
        return number(text.strip(), what)
    except UserError:
        raise UserError(f"{what}={whole} is no range; write it as -30..30, ±30 or 5") from None
