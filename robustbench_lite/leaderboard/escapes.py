"""Names that could do something where they are shown: escaped for a terminal, a cell of a CSV, Markdown, and XML.

A model is called what its user typed, and a leaderboard is read by other people's spreadsheets, pages and terminals.
"""

import re
import unicodedata

#: a spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection")
_FORMULA = ("=", "+", "-", "@", "'")
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
    return "".join(f"\\x{{{ord(mark):x}}}" if _controls(mark) else mark for mark in text)


def to_cell(text: str) -> str:
    r"""A text as a cell of a CSV: no control characters, and nothing that a spreadsheet would run; `from_cell` undoes it.

    >>> to_cell("=1+1"), to_cell("a\rb"), from_cell(to_cell("'=\x00"))
    ("'=1+1", 'a\\x{d}b', "'=\x00")
    """
    plain = printable(_ESCAPE.sub(r"\\x{5c}x{\1}", text))
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


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


def _controls(mark: str) -> bool:
    """Whether a character moves the cursor, ends a line, changes the direction, or is none (C0, C1, format, surrogate)."""
    return unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Zl", "Zp") or mark in "\ufffe\uffff"


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code <= 0x10FFFF else found[0]
