"""An edit of any cell of any leaderboard is noticed, and told by row and column."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard import generator_table, generators, validate
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import EVIDENCE
from robustbench_lite.leaderboard.evidence import edited, seal
from robustbench_lite.leaderboard.files import belongs_to_another

FOLDER = Path(__file__).parents[2] / "leaderboards"
BOARDS = sorted(path for path in FOLDER.glob("*.csv") if not belongs_to_another(path))
SEALED = ("", ".samples", ".detection", ".physical")
TABLES = [(path.stem, what) for path in BOARDS for what in SEALED if path.with_name(f"{path.stem}{what}.csv").exists()]


def faults(path: Path) -> list[str]:
    return list(generators.faults(path)) if generator_table.is_table(path) else validate.faults(path)


def copied(stem: str, folder: Path) -> Path:
    for path in FOLDER.glob(f"{stem}.*"):
        shutil.copy(path, folder)
    return folder / f"{stem}.csv"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def write(path: Path, table: pd.DataFrame) -> None:
    path.write_text(table.to_csv(index=False, lineterminator="\n"))


def other(cell: str) -> str:
    """Something else that could stand in the cell: a number near it, another truth, one bit, another word."""
    if cell in ("true", "false"):
        return "false" if cell == "true" else "true"
    if len(cell) > 40 and set(cell) <= set("0123456789abcdef"):
        return f"{int(cell[0], 16) ^ 8:x}{cell[1:]}"
    try:
        value = float(cell)
    except ValueError:
        return "" if ";" in cell or cell in ("flagged", "none") else f"{cell}x"
    return str(int(value) + 1) if value == int(value) and "." not in cell else f"{abs(value - 0.001):.6f}"


def mutations(table: pd.DataFrame) -> Iterator[list[tuple[int, str, str]]]:
    """One cell of every column: its row, its column, and what it becomes; filled cells where there are any.

    In batches of different rows, so that a file is read once for many.
    """
    left = list(table.columns)
    while left:
        batch: dict[int, tuple[int, str, str]] = {}
        for column in left:
            places = [place for place, cell in enumerate(table[column]) if cell] or list(range(len(table)))
            free = [place for place in places if place not in batch]
            if free:
                batch[free[0]] = free[0], str(column), other(table.at[free[0], column]) or "0.5"
        yield list(batch.values())
        left = [column for column in left if column not in {column for _, column, _ in batch.values()}]


@pytest.mark.parametrize("stem, what", TABLES, ids=[f"{stem}{what}" for stem, what in TABLES])
def test_every_column_of_every_committed_table_is_protected(stem: str, what: str, tmp_path: Path) -> None:
    """A cell in every column is changed: all are noticed, by row and column."""
    path = copied(stem, tmp_path)
    file = path.with_name(f"{stem}{what}.csv")
    whole, table, seen = file.read_text(), read(file), set()
    for batch in mutations(table):
        changed = table.copy()
        for place, column, cell in batch:
            changed.at[place, column] = cell
        write(file, changed)
        told = faults(path)
        for place, column, cell in batch:
            row = changed.iloc[place]
            names = [row["model"], row["defense"], row["threat"]] if "model" in row else [row["generator"], row["data"]]
            whose = [fault for fault in told if all(name in fault for name in names)]
            named = re.compile(rf"(?:: | and ){re.escape(column)}(?: and [^:]+)*: ")
            assert any(named.search(fault) for fault in whose), (column, table.at[place, column], cell, told)
            seen.add(column)
    assert seen == set(table.columns)
    file.write_text(whole)
    assert faults(path) == []


@pytest.mark.parametrize("what", ["samples", "detection"])
@pytest.mark.parametrize("edit", ["lost", "twice"])
def test_lines_that_come_or_go_are_noticed(what: str, edit: str, tmp_path: Path) -> None:
    path = copied("detectors-mnist", tmp_path)
    file = path.with_name(f"{path.stem}.{what}.csv")
    table = read(file)
    last = len(table) - 1
    write(file, table.drop(index=last) if edit == "lost" else pd.concat([table, table.iloc[[last]]]))
    assert any(f"{path.stem}.{what}.csv" in one and "magnet" in one for one in faults(path)) or any(
        table.at[last, "defense"] in one for one in faults(path)
    )
    file.unlink()
    assert faults(path)


def test_rows_that_go_with_all_their_lines_are_missed(tmp_path: Path) -> None:
    path = copied("digits-linf", tmp_path)
    for file in (path, path.with_name("digits-linf.samples.csv")):
        table = read(file)
        write(file, table[table["defense"] != "trades"])
    assert any("trades" in one and "it is in digits-linf.toml, and has no row" in one for one in faults(path))


def test_an_edited_leaderboard_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied("digits-linf", tmp_path)
    table = read(path)
    table["flags"] = ""
    write(path, table)
    with pytest.raises(UserError, match=r"cannot be trusted: small-cnn, bit-depth .* flags"):
        Board.read(path)
    for words in (["show", str(path)], ["merge", str(path), str(path), "--out", str(tmp_path / "x.csv")]):
        assert main(["leaderboard", *words]) == 2
        assert "flags: not what was written when the leaderboard was built" in capsys.readouterr().err
    assert main(["check", "--baseline", str(path)]) == 2
    assert main(["leaderboard", "diff", str(FOLDER / path.name), str(path)]) == 1  # that is what it is for
    assert "flags plain-gradients-vanish -> " in capsys.readouterr().out


def test_a_number_that_is_only_written_otherwise_is_no_edit(tmp_path: Path) -> None:
    """As a spreadsheet writes it."""
    path = copied("mnist-l2", tmp_path)
    table = read(path)
    table["queries"] = [f"{float(cell):.2f}" for cell in table["queries"]]
    table["clean"] = [f"{float(cell):.6f}" for cell in table["clean"]]
    write(path, table)
    assert faults(path) == []


def test_a_sealed_leaderboard_is_sealed_again_only_for_what_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied("digits-linf", tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert main(["leaderboard", "seal", str(path)]) == 0
    assert "its evidence is in order" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    table = read(path)
    table["digest"] = "0123456789abcdef"
    write(path, table)
    assert main(["leaderboard", "seal", str(path)]) == 2
    assert "digest: not what was written" in capsys.readouterr().err
    assert main(["leaderboard", "seal", str(path), "--changed", "digest"]) == 0
    assert faults(path) == []
    table = read(path)
    table["digest"], table["flags"] = "fedcba9876543210", ""
    write(path, table)
    assert main(["leaderboard", "seal", str(path), "--changed", "digest"]) == 2
    assert "flags" in capsys.readouterr().err


def test_a_leaderboard_without_evidence_is_told_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied("digits-linf", tmp_path)
    for file in (path, path.with_name("digits-linf.samples.csv")):
        write(file, read(file).drop(columns=EVIDENCE))
    assert [fault for fault in faults(path) if "rbl leaderboard seal" in fault] == faults(path)
    assert main(["check", "--baseline", str(path)]) == 2
    assert "add it: rbl leaderboard seal" in capsys.readouterr().err
    assert main(["leaderboard", "seal", str(path)]) == 0
    assert path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_an_unsound_leaderboard_is_not_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied("digits-linf", tmp_path)
    table = read(path).drop(columns=EVIDENCE)
    table.at[0, "worst_case"] = "0.9"
    write(path, table)
    assert main(["leaderboard", "seal", str(path)]) == 2
    assert "worst_case: 0.9, and its samples give 0.406667" in capsys.readouterr().err


def test_evidence_names_all_columns_that_were_edited() -> None:
    cells = {"a": "1", "b": "2", "c": "x", "model": "m"}
    evidence = seal(cells)
    assert edited(evidence, cells) == []
    assert edited(evidence, cells | {"a": "1.0"}) == []
    assert edited(evidence, dict(reversed(cells.items()))) == []  # columns may stand in another order
    assert edited(evidence, cells | {"a": "3", "model": "n"}) == ["a", "model"]
    assert edited(evidence[:-1] + "!", cells) == [EVIDENCE]
    assert edited("0" + evidence[1:], cells) == [EVIDENCE]
    assert edited(evidence, cells | {"more": "1"}) == [EVIDENCE]
    assert edited("", cells) == [EVIDENCE]


def test_evidence_of_a_row_covers_the_lines_beside_it() -> None:
    evidence = seal({"a": "1"}, {"samples": ["x", "y"], "physical": []})
    assert edited(evidence, {"a": "1"}, {"samples": ["y", "x"], "physical": []}) == []
    assert edited(evidence, {"a": "1"}, {"samples": ["x"], "physical": []}) == ["samples"]
    assert edited(evidence, {"a": "1"}, {"samples": ["x", "y"], "physical": ["z"]}) == ["physical"]


def test_odd_cells_are_told_not_guessed(tmp_path: Path) -> None:
    path = copied("digits-linf", tmp_path)
    table = read(path)
    for column, cell in {
        "n": "450.5",
        "clean": "nan",
        "pgd": "1_0",
        "queries": "-1",
        "seeds": "0",
        "rank": "inf",
    }.items():
        changed = table.copy()
        changed.at[1, column] = cell
        write(path, changed)
        assert any(f"{column}: {cell!r}; accepted: " in fault for fault in faults(path)), column
        with pytest.raises(UserError, match="accepted: "):
            Board.read(path)


def test_the_table_of_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = copied("digits-linf", tmp_path)
    whole = path.read_text()
    for cut in (whole[:-200], whole + "1,2,3\n", whole.replace("\n", "\n\x00", 1), '"' + whole):
        path.write_text(cut)
        with pytest.raises(UserError):
            Board.read(path)
    path.write_bytes(b"\xef\xbb\xbf" + whole.encode())  # as a spreadsheet begins a file
    assert len(Board.read(path).rows) == len(read(FOLDER / path.name))
    assert io.StringIO(whole).readline()


@pytest.mark.parametrize("what", ["samples", "detection"])
def test_a_file_that_is_gone_is_said_to_be_missing(what: str, tmp_path: Path) -> None:
    path = copied("detectors-mnist", tmp_path)
    path.with_name(f"{path.stem}.{what}.csv").unlink()
    told = [one for one in faults(path) if "is missing" in one]
    assert told == [f"detectors-mnist.{what}.csv: the file is missing; put it back, or build the leaderboard again"]
    with pytest.raises(UserError, match=rf"detectors-mnist\.{what}\.csv: the file is missing"):
        Board.read(path)


def test_a_page_that_is_gone_is_said_to_be_missing(tmp_path: Path) -> None:
    path = copied("digits-linf", tmp_path)
    path.with_suffix(".md").unlink()
    assert faults(path) == ["there is no digits-linf.md beside it; build the leaderboard again"]


def test_a_system_has_one_line_of_clocks(tmp_path: Path) -> None:
    """Of two, nobody could say which one costs are compared with."""
    path = copied("gate-digits", tmp_path)
    file = path.with_name("gate-digits.timings.csv")
    table = read(file)
    write(file, pd.concat([table, table.iloc[[0]].assign(cost="9")]))
    (told,) = faults(path)
    assert told.startswith("gate-digits.timings.csv, checkpoint:")
    assert told.endswith("dataset and threat and model and defense: it has more than one line")


@pytest.mark.parametrize(
    "name, message",
    [
        ("digits-linf.toml", r"digits-linf\.toml' is no leaderboard, which is a CSV; give '.*digits-linf\.csv'"),
        ("digits-linf.md", "give '.*digits-linf\\.csv'"),
        (".", "is a folder; give the leaderboard's file NAME.csv"),
        ("empty.csv", "is no leaderboard: the file is empty"),
        ("wide.csv", "is no leaderboard: a row has more cells than there are columns"),
    ],
)
def test_what_is_no_table_is_told_in_our_own_words(name: str, message: str, tmp_path: Path) -> None:
    copied("digits-linf", tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "wide.csv").write_text("a\n1,2\n")
    with pytest.raises(UserError, match=message):
        Board.read(tmp_path / name)


def test_a_column_that_is_not_there_was_not_changed_on_purpose(tmp_path: Path) -> None:
    path = copied("digits-linf", tmp_path)
    with pytest.raises(UserError, match=r"unknown column 'digset'.*did you mean .?digest"):
        validate.seal(path, ["digset"])
