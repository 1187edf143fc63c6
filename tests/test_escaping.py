"""Text from outside: no name moves a cursor, ends a row of a table, or is calculated."""

import io
import itertools
import random

import pandas as pd
import pytest

from robustbench_lite import escaping
from robustbench_lite.errors import UserError
from robustbench_lite.escaping import (
    csv_text,
    markdown,
    markdown_code,
    read_csv,
    refuse_control,
    visible,
    visible_frame,
    visible_lines,
)

ODD = {
    "a\rb": r"a\rb",
    "\x1b[2J": r"\x1b[2J",
    "a\nb\tc": r"a\nb\tc",
    "\u202egnp.exe": r"\u202egnp.exe",
    "a\u2028b": r"a\u2028b",
    "zero\u200bwidth": r"zero\u200bwidth",
    "\udcff": r"\udcff",
    "\x9b31m": r"\x9b31m",
}


@pytest.mark.parametrize("text", ODD)
def test_control_characters_are_shown_as_what_they_are(text: str) -> None:
    assert visible(text) == ODD[text]
    visible(text).encode()  # can be written
    with pytest.raises(UserError, match="has a control character"):
        refuse_control("attack", text)


@pytest.mark.parametrize(
    "text", ["pgd:steps=40", "Ä ö 漢字 ±30 ∞ 👍", "chien\xa0loup", "a_b-c.d/e", "", "[red]x[/red]"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == visible_lines(text) == text
    refuse_control("attack", text)


def test_a_line_end_of_windows_is_called_so() -> None:
    with pytest.raises(UserError) as error:
        refuse_control("attack", "pgd\r")
    told = r"attack 'pgd\r' has a control character, \r (a line end of Windows?); write it without"
    assert str(error.value) == told


def test_of_many_lines_only_the_ends_stay() -> None:
    assert visible_lines("a\tb\nc\x1b[2J\r\n") == "a\tb\nc\\x1b[2J\\r\n"


FORMULAS = ("=1+1", "+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "'=1", "''=1", "-x", "=\r", "=")


def test_no_cell_is_a_formula_and_every_text_comes_back() -> None:
    texts = [*FORMULAS, "-", "'", "'a", "", "NA", "nan", "1,5", 'say "x"', "a\rb", "True", " =1", "1e5"]
    frame = pd.DataFrame({"model": texts, "value": range(len(texts)), "share": [0.1 + 0.2] * len(texts)})
    written = csv_text(frame)
    for line in written.splitlines()[1:]:
        cell = line.strip('"')
        assert cell[:1] not in ("=", "+", "@") or cell[1:2] == ","
    back = read_csv(io.StringIO(written), dtype={"model": str})
    assert back["model"].tolist() == [visible(text) for text in texts]
    pd.testing.assert_frame_equal(back[["value", "share"]], frame[["value", "share"]])


def test_texts_at_random_come_back() -> None:
    chance = random.Random(0)
    letters = "=+-@'\"\r\n\t, ;aZ0é\x1b\u2028"
    texts = ["".join(chance.choices(letters, k=chance.randint(0, 6))) for _ in range(3000)]
    back = read_csv(io.StringIO(csv_text(pd.DataFrame({"name": texts, "at": range(3000)}))), dtype={"name": str})
    assert back["name"].tolist() == [visible(text) for text in texts]


def test_numbers_and_flags_are_written_as_pandas_writes_them() -> None:
    frame = pd.DataFrame({"a": [-1.5, float("nan")], "b": [True, False], "c": [-3, 4], "d": [pd.NA, True]})
    assert csv_text(frame) == frame.to_csv(index=False, lineterminator="\n")
    pd.testing.assert_frame_equal(visible_frame(frame), frame)


def test_markdown_shows_the_text_and_keeps_its_row() -> None:
    assert markdown("a|b`c<b>*d*[e](f)\\") == r"a\|b\`c&lt;b>\*d\*\[e\](f)" + "\\\\"
    assert markdown("small_cnn _x_ p < 0.05, 3*4") == r"small_cnn \_x\_ p < 0.05, 3\*4"
    assert markdown("a\nb") == r"a\\nb"
    assert markdown_code("pgd:steps=40") == "`pgd:steps=40`"
    assert markdown_code("a|b") == r"`a\|b`"
    assert markdown_code("a``b`") == "``` a``b` ```"


def test_the_pattern_of_control_characters_is_what_unicode_says() -> None:
    import unicodedata

    odd = {chr(code) for code in itertools.chain(range(0x3000), range(0xD800, 0xE000), [0xFEFF])}
    controls = {c for c in odd if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {
        c
        for c in odd
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    }
    assert all(escaping._CONTROL.fullmatch(c) for c in controls | turning)
