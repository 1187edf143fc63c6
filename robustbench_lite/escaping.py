"""Names that could do something where they are shown: escaped for a terminal, a cell of a CSV, Markdown, and XML.

Names come from file names, class folders, plugins and exceptions of user code, and results are read by other people's
spreadsheets, pages and terminals. HTML is escaped by the page's template, and plots read no formulas.
"""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.errors import UserError, cut

if TYPE_CHECKING:
    import pandas as pd

#: a spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection"); a sign alone is none
_FORMULA = re.compile(r"[=+\-@].|'", re.DOTALL)
_ESCAPE = re.compile(r"\\x\{([0-9a-f]{1,6})\}")
_MARKDOWN = {mark: f"&#{ord(mark)};" for mark in "|`*[]~\\<>"}
_LEADING = re.compile(r"^[-=+@#]")
#: an underscore between letters is one; beside anything else it begins or ends italics
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def printable(text: str) -> str:
    r"""The text with every control character, line break and lone surrogate written as `\x{HEX}`; XML 1.0 takes it, too.

    >>> printable("a\rb")
    'a\\x{d}b'
    """
    if text.isprintable():
        return text
    return "".join(f"\\x{{{ord(mark):x}}}" if _controls(mark) else mark for mark in text)


def printable_lines(text: str) -> str:
    """As `printable`, of a text of many lines: line ends and tabs are kept."""
    return re.sub(r"[^\n\t]+", lambda part: printable(part[0]), text)


def refuse_control(what: str, name: str) -> None:
    r"""Refuse a name with control characters, which nobody types on purpose.

    Raises:
        UserError: it has some; `\x{d}` is what a file with Windows line ends leaves behind.
    """
    odd = next((mark for mark in name if _controls(mark)), None)
    if odd is not None:
        why = " (a line end of Windows?)" if odd == "\r" else ""
        raise UserError(
            f"{what} '{printable(cut(name))}' has a control character, {printable(odd)}{why}; write it without"
        )


def refuse_control_value(what: str, value: str, *, written: bool = False) -> None:
    r"""Refuse the value of an option with control characters, but where they are in the name of a file that is there.

    Args:
        value: `odd\r.py:make;weights=x.pt` may name several files. written: it names what is to be made, not read.

    Raises:
        UserError: it has some elsewhere; white space at an end would be cut off in silence otherwise.
    """
    if value.isprintable():
        return
    ends = [found.start() for found in re.finditer("[:;=]", value)]
    spans = [(begin, end) for begin in (0, *(at + 1 for at in ends)) for end in (*ends, len(value)) if begin < end]
    spans.sort(key=lambda span: span[0] - span[1])  # the longest first
    left = value
    for begin, end in () if written else spans:
        part = value[begin:end]
        as_read = part == value or part == part.strip()  # specs are read without white space around them
        if as_read and _is_there(part):
            left = left.replace(part, "")
    if any(map(_controls, left)):
        refuse_control(what, value)


def to_cell(text: str) -> str:
    r"""A text as a cell of a CSV: no control characters, and nothing that a spreadsheet would run; `from_cell` undoes it.

    >>> to_cell("=1+1"), to_cell("a\rb"), to_cell("-"), from_cell(to_cell("'=\x00"))
    ("'=1+1", 'a\\x{d}b', '-', "'=\x00")
    """
    plain = printable(_ESCAPE.sub(r"\\x{5c}x{\1}", text))
    return f"'{plain}" if _FORMULA.match(plain) else plain


def from_cell(cell: str) -> str:
    """The text that `to_cell` was given."""
    return _ESCAPE.sub(_character, cell.removeprefix("'"))


def for_markdown(text: str) -> str:
    """A text as a cell or a heading of a Markdown page: it shows as it is, and is no link, code, HTML or column.

    >>> for_markdown("a|b<i>`"), for_markdown("batch_size=64"), for_markdown("=x")
    ('a&#124;b&#60;i&#62;&#96;', 'batch_size=64', '&#61;x')
    """
    plain = printable(text).replace("&", "&amp;")
    plain = "".join(_MARKDOWN.get(mark, mark) for mark in plain)
    plain = _UNDERSCORE.sub("&#95;", plain)
    return _LEADING.sub(lambda found: f"&#{ord(found[0])};", plain)


def markdown_code(text: str) -> str:
    """The text as a code span, also in a cell of a table.

    >>> markdown_code("pgd:steps=40"), markdown_code("a|b`")
    ('`pgd:steps=40`', '`` a\\\\|b` ``')
    """
    shown = printable(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"


def printable_frame(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table with its texts as `printable` shows them."""
    return _mapped(frame, printable)


def csv_text(frame: "pd.DataFrame") -> str:
    """A table as CSV, a line a row, its texts by `to_cell`; `read_csv` reads it back."""
    return str(_mapped(frame, to_cell).to_csv(index=False, lineterminator="\n"))


def read_csv(source: Any, **options: Any) -> "pd.DataFrame":
    """What `csv_text` wrote; options are those of `pandas.read_csv`.

    Raises:
        OSError, ValueError: it cannot be read, or is no CSV.
    """
    import pandas as pd

    return _mapped(pd.read_csv(source, **{"keep_default_na": False, **options}), from_cell)


def _controls(mark: str) -> bool:
    """Whether a character moves the cursor, ends a line, changes the direction, or is none (C0, C1, format, surrogate).

    The two joiners are letters of Persian, of Indian scripts and of emoji.
    """
    if mark in "\u200c\u200d":
        return False
    return unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Zl", "Zp") or mark in "\ufffe\uffff"


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a null character, the home of nobody
        return False


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code <= 0x10FFFF else found[0]


def _mapped(frame: "pd.DataFrame", change: Callable[[str], str]) -> "pd.DataFrame":
    """The table with its texts changed; numbers and flags stay as they are."""
    texts = [name for name in frame.columns if frame[name].dtype == object or str(frame[name].dtype).startswith("str")]
    changed = {name: [change(value) if isinstance(value, str) else value for value in frame[name]] for name in texts}
    return frame.assign(**changed) if changed else frame
