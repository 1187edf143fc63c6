"""Text from outside: no name moves a cursor, ends a row of a table, or is calculated."""

import html
import io
import random

import pandas as pd
import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import (
    csv_text,
    for_markdown,
    markdown_code,
    printable,
    printable_frame,
    printable_lines,
    read_csv,
    refuse_control,
)

ODD = {
    "a\rb": r"a\x{d}b",
    "\x1b[2J": r"\x{1b}[2J",
    "a\nb\tc": r"a\x{a}b\x{9}c",
    "\u202egnp.exe": r"\x{202e}gnp.exe",
    "a\u2028b": r"a\x{2028}b",
    "zero\u200bwidth": r"zero\x{200b}width",
    "\udcff": r"\x{dcff}",
    "\x9b31m": r"\x{9b}31m",
}


@pytest.mark.parametrize("text", ODD)
def test_control_characters_are_shown_as_what_they_are(text: str) -> None:
    assert printable(text) == ODD[text]
    printable(text).encode()  # can be written
    with pytest.raises(UserError, match="has a control character"):
        refuse_control("attack", text)


@pytest.mark.parametrize(
    "text", ["pgd:steps=40", "Ä ö 漢字 ±30 ∞ 👍", "chien\xa0loup", "a_b-c.d/e", "", "[red]x[/red]"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable_lines(text) == text
    refuse_control("attack", text)


def test_a_line_end_of_windows_is_called_so() -> None:
    with pytest.raises(UserError) as error:
        refuse_control("attack", "pgd\r")
    told = r"attack 'pgd\x{d}' has a control character, \x{d} (a line end of Windows?); write it without"
    assert str(error.value) == told


def test_of_many_lines_only_the_ends_stay() -> None:
    assert printable_lines("a\tb\nc\x1b[2J\r\n") == "a\tb\nc\\x{1b}[2J\\x{d}\n"


FORMULAS = ("=1+1", "+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "'=1", "''=1", "-x", "=\r", "=")


def test_no_cell_is_a_formula_and_every_text_comes_back() -> None:
    texts = [*FORMULAS, "-", "'", "'a", "", "NA", "nan", "1,5", 'say "x"', "a\rb", "True", " =1", "1e5"]
    frame = pd.DataFrame({"model": texts, "value": range(len(texts)), "share": [0.1 + 0.2] * len(texts)})
    written = csv_text(frame)
    for line in written.splitlines()[1:]:
        cell = line.strip('"')
        assert cell[:1] not in ("=", "+", "@") or cell[1:2] == ","
    back = read_csv(io.StringIO(written), dtype={"model": str})
    assert back["model"].tolist() == texts
    pd.testing.assert_frame_equal(back[["value", "share"]], frame[["value", "share"]])


def test_texts_at_random_come_back() -> None:
    chance = random.Random(0)
    letters = "=+-@'\"\r\n\t, ;aZ0é\x1b\u2028"
    texts = ["".join(chance.choices(letters, k=chance.randint(0, 6))) for _ in range(3000)]
    back = read_csv(io.StringIO(csv_text(pd.DataFrame({"name": texts, "at": range(3000)}))), dtype={"name": str})
    assert back["name"].tolist() == texts


def test_numbers_and_flags_are_written_as_pandas_writes_them() -> None:
    frame = pd.DataFrame({"a": [-1.5, float("nan")], "b": [True, False], "c": [-3, 4], "d": [pd.NA, True]})
    assert csv_text(frame) == frame.to_csv(index=False, lineterminator="\n")
    pd.testing.assert_frame_equal(printable_frame(frame), frame)


def test_markdown_shows_the_text_and_keeps_its_row() -> None:
    shown = for_markdown("a|b`c<b>*d*[e](f)\\")
    assert html.unescape(shown) == "a|b`c<b>*d*[e](f)\\"
    assert not set(shown) & set("|`<>*[]\\")
    assert for_markdown("small_cnn") == "small_cnn"
    assert "_" not in for_markdown("_x_")
    assert "\n" not in for_markdown("a\nb")
    assert markdown_code("pgd:steps=40") == "`pgd:steps=40`"
    assert markdown_code("a|b") == r"`a\|b`"
    assert markdown_code("a``b`") == "``` a``b` ```"


@pytest.mark.parametrize("name", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f373"])
def test_the_joiners_of_persian_and_of_emoji_are_letters(name: str) -> None:
    refuse_control("the class", name)
    assert printable(name) == name
