r"""Text from outside on its way to a terminal, a Markdown page or a spreadsheet.

Names come from file names, class folders, plugins and exceptions of user code. None of them may move the cursor, colour a
terminal, end a table's row, or be calculated by a spreadsheet. HTML is escaped by the page's template.
"""

import re
from typing import TYPE_CHECKING, Any

from robustbench_lite.errors import UserError, cut

if TYPE_CHECKING:
    import pandas as pd

#: control characters, line separators, marks that change the direction of writing or are invisible, halves of characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
#: what begins a formula in a spreadsheet, behind the apostrophes that say "this is a text"
_FORMULA = re.compile(r"'*[=+\-@].", re.DOTALL)
_GUARDED = re.compile(r"'+[=+\-@].", re.DOTALL)
_MARKDOWN = re.compile(r"[\\`*\[\]|]|<(?=[A-Za-z/!?])|(?<![^\W_])_|_(?![^\W_])")


def visible(text: str) -> str:
    r"""The text with every control character as its escape: a carriage return as `\r`, an escape character as `\x1b`.

    Examples:
        >>> print(visible("a\rb\x1b[31m"))
        a\rb\x1b[31m
    """
    return text if text.isprintable() else _CONTROL.sub(_escape, text)


def visible_lines(text: str) -> str:
    """As `visible`, of a text of many lines: line ends and tabs are kept."""
    return re.sub(r"[^\n\t]+", lambda part: visible(part[0]), text)


def refuse_control(what: str, name: str) -> None:
    r"""Refuse a name with control characters, which nobody types on purpose.

    Raises:
        UserError: it has some; `\r` is what a file with Windows line ends leaves behind.
    """
    if not name.isprintable() and (odd := _CONTROL.search(name)):
        written = visible(odd[0])
        why = " (a line end of Windows?)" if odd[0] == "\r" else ""
        raise UserError(f"{what} '{visible(cut(name))}' has a control character, {written}{why}; write it without")


def markdown(text: str) -> str:
    r"""The text as it is, where Markdown stands, also in a cell of a table.

    Examples:
        >>> print(markdown("a|b <i> [x](y) `z` small_cnn"))
        a\|b &lt;i> \[x\](y) \`z\` small_cnn
    """
    # a backslash before < is no escape where MkDocs reads the page
    return _MARKDOWN.sub(lambda found: "&lt;" if found[0] == "<" else "\\" + found[0], visible(text))


def markdown_code(text: str) -> str:
    """The text as a code span, also in a cell of a table."""
    shown = visible(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"


def visible_frame(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table with its texts as `visible` shows them."""
    return _mapped(frame, visible)


def to_cell(text: str) -> str:
    """The text as a cell of a CSV: control characters shown, and an apostrophe before what begins like a formula (= + - @)."""
    text = visible(text)
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """The text of a cell that `to_cell` wrote."""
    return cell[1:] if _GUARDED.match(cell) else cell


def csv_text(frame: "pd.DataFrame") -> str:
    """A table as CSV, a line a row; no cell is a formula, and `read_csv` reads it back.

    A text that begins like a formula (= + - @) gets an apostrophe before it, and one more if it has some already.
    """
    return str(_mapped(frame, to_cell).to_csv(index=False, lineterminator="\n"))


def read_csv(source: Any, **options: Any) -> "pd.DataFrame":
    """What `csv_text` wrote; options are those of `pandas.read_csv`.

    Raises:
        OSError, ValueError: it cannot be read, or is no CSV.
    """
    import pandas as pd

    return _mapped(pd.read_csv(source, **{"keep_default_na": False, **options}), from_cell)


def _escape(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _mapped(frame: "pd.DataFrame", change: Any) -> "pd.DataFrame":
    """The table with its texts changed; numbers and flags stay as they are."""
    texts = [name for name in frame.columns if frame[name].dtype == object or str(frame[name].dtype).startswith("str")]
    changed = {name: [change(value) if isinstance(value, str) else value for value in frame[name]] for name in texts}
    return frame.assign(**changed) if changed else frame
