"""Leaderboards of generators: a plan of trainings becomes a table and a page, and the table is held to both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.generators.quality.published import Row, table
from robustbench_lite.leaderboard import generators
from robustbench_lite.leaderboard.files import sealed
from robustbench_lite.leaderboard.generator_table import csv_of, parts, read, read_text
from robustbench_lite.leaderboard.generators import GeneratorPlan, faults

PLAN = """
[leaderboard]
title = "Two on a grid"
about = "What this is."
[measure]
repeats = 2
[[training]]
generator = "gan"
dataset = "grid"
seeds = [0, 1]
epochs = 2
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A table with a row of ours and those of papers, its plan and its page."""
    path = tmp_path / "two.csv"
    mine = Row(
        generator="gan",
        data="grid",
        figures={"modes": 20.5, "modes_sd": 0.71},
        setting="2 epochs of batches of 100, 2 seeds",
    )
    path.write_text(csv_of(sealed(read_text(csv_of(table([mine]))))))
    path.with_suffix(".toml").write_text(PLAN)
    plan = GeneratorPlan.load(path.with_suffix(".toml"))
    assert plan is not None
    path.with_suffix(".md").write_text(plan.page(read(path), "two"))
    return path


def test_a_page_shows_ours_beside_those_of_papers(board: Path):
    told = board.with_suffix(".md").read_text()
    assert "| gan | 20.5 ± 0.7 |" in told
    assert "| pacgan2 | 23.8 ± 0.7 |" in told
    assert "Built from [two.toml](two.toml) by `rbl leaderboard build two.toml`" in told
    assert list(faults(board)) == []


@pytest.mark.parametrize(
    "edit, fault",
    [
        (lambda text: text.replace("20.5", "25"), "two.md is not what two.csv and two.toml give"),
        (
            lambda text: text.replace("23.8", "25"),
            "pacgan2 on grid: Lin et al. 2018, arXiv 1712.04086 does not tell that",
        ),
        (
            lambda text: text.replace("\ngan,grid,measured", "\nvae,grid,measured"),
            "gan on grid (2 seeds, epochs 2) is in the plan and not in",
        ),
        (
            lambda text: text.replace("2 epochs of", "3 epochs of"),
            "gan on grid (3 epochs of batches of 100, 2 seeds) is in the table and not in the plan",
        ),
    ],
)
def test_an_edited_table_is_caught(board: Path, edit: Callable[[str], str], fault: str):
    board.write_text(edit(board.read_text()))
    assert any(fault in one for one in faults(board))


def test_the_commands_know_the_kind(board: Path, capsys: pytest.CaptureFixture[str]):
    (board.parent / "two.timings.csv").write_text("generator,data,kind,setting,training_seconds\n")
    assert main(["leaderboard", "validate", str(board), str(board.parent / "two.timings.csv")]) == 0
    assert capsys.readouterr().out == f"{board}: sound\n"
    assert main(["leaderboard", "show", str(board)]) == 0
    assert "20.5 ± 0.7" in capsys.readouterr().out


def test_the_plan_of_an_evaluation_is_another_kind(tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_text('dataset = "digits"\n')
    assert GeneratorPlan.load(path) is None


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("epochs", "epoch", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("repeats", "repeat", "unknown key 'repeat'; did you mean 'repeats'?"),
        ("[0, 1]", "3", "seeds = 3; accepted: a list of whole numbers"),
        ('generator = "gan"\n', "", "has no generator"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(UserError) as caught:
        GeneratorPlan.load(path)
    assert message in str(caught.value)


def test_a_plan_is_trained_measured_and_written_and_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "two.toml"
    path.write_text(PLAN.replace('"gan"', '"gan:width=8,discriminator_width=8"'))
    plan = GeneratorPlan.load(path)
    assert plan is not None
    written = generators.build(plan, tmp_path / "two.csv", tmp_path / "runs")
    assert {one.name for one in written} == {"two.csv", "two.md", "two.timings.csv"}
    before = {one: one.read_bytes() for one in written}
    assert generators.build(plan, tmp_path / "two.csv", tmp_path / "runs") == written
    assert {one: one.read_bytes() for one in written} == before
    found = read(tmp_path / "two.csv")
    assert "training_seconds" not in found.columns
    assert found["setting"].iloc[0].endswith("2 seeds")
    assert list(faults(tmp_path / "two.csv")) == []
    assert pd.read_csv(tmp_path / "two.timings.csv")["training_seconds"].iloc[0] >= 0


def test_tables_built_apart_become_one(board: Path, capsys: pytest.CaptureFixture[str]):
    """The last of two rows of the same training counts; what no training of the plan gives is left out."""
    folder = board.parent
    other, third = folder / "other.csv", folder / "third.csv"
    again = Row(
        generator="gan",
        data="grid",
        figures={"modes": 24.0, "seen": 1.0},
        setting="2 epochs of batches of 100, 2 seeds",
    )
    stray = Row(
        generator="gan",
        data="ring",
        figures={"modes": 7.0, "rare": 1.0},
        setting="5 epochs of batches of 100, seed 0",
    )
    other.write_text(table([again, stray]).to_csv(index=False, float_format="%.6g"))
    (folder / "other.timings.csv").write_text(
        f'generator,data,kind,setting,training_seconds\ngan,grid,measured,"{again.setting}",12.5\n'
    )
    third.write_text(table([stray], published=()).to_csv(index=False))
    assert main(["leaderboard", "merge", str(board), str(other), str(third), "--out", str(board)]) == 0
    assert "24" in capsys.readouterr().out
    found = read(board)
    ours = found[found["kind"] == "measured"]
    assert ours[["data", "modes", "modes_sd", "seen"]].to_numpy().tolist() == [["grid", "24", "", "1"]]
    assert set(found["data"]) == {"grid"}
    assert "rare" not in found
    assert (found["kind"] == "published").sum() == (read(board.parent / "other.csv")["data"] == "grid").sum() - 1
    assert pd.read_csv(folder / "two.timings.csv")["training_seconds"].tolist() == [12.5]
    assert list(faults(board)) == []


def test_without_a_plan_all_rows_are_kept(board: Path):
    other, out = board.parent / "other.csv", board.parent / "both.csv"
    more = Row(generator="vae", data="digits", figures={"frechet": 7.0}, setting="5 epochs of batches of 100, seed 0")
    other.write_text(table([more], published=()).to_csv(index=False))
    assert main(["leaderboard", "merge", str(board), str(other), "--out", str(out)]) == 0
    found = read(out)
    assert found["data"].tolist() == [*read(board)["data"], "digits"]
    assert "Merged from two.csv, other.csv" in out.with_suffix(".md").read_text()


def test_what_is_different_is_told(board: Path, capsys: pytest.CaptureFixture[str]):
    other = board.parent / "other.csv"
    other.write_text(board.read_text())
    assert main(["leaderboard", "diff", str(board), str(other)]) == 0
    assert capsys.readouterr().out == "nothing is different\n"
    other.write_text(board.read_text().replace("20.5", "21.5").replace("\npacgan4", "\npacgan5"))
    assert main(["leaderboard", "diff", str(board), str(other)]) == 1
    out = capsys.readouterr().out
    assert "changed: gan · grid · 2 epochs of batches of 100, 2 seeds: modes 20.5 -> 21.5" in out
    assert "gone: pacgan4 · grid · Lin et al. 2018" in out
    assert "new: pacgan5 · grid · Lin et al. 2018" in out


def test_two_kinds_are_not_put_together(board: Path, capsys: pytest.CaptureFixture[str]):
    other = board.parent / "other.csv"
    other.write_text("rank,model\n1,small-cnn\n")
    for words in (["diff", str(board), str(other)], ["merge", str(other), str(board), "--out", str(board)]):
        assert main(["leaderboard", *words]) == 2
        assert "is a table of generators and" in capsys.readouterr().err


def test_a_judge_is_told_once_and_figures_are_short(tmp_path: Path):
    rows = [
        Row(
            generator="vae", data="digits", figures={"frechet": 24.7959, "frechet_sd": 2.72883, "precision": 0.714526},
            setting="476 epochs of batches of 128, 3 seeds, judge small-cnn",
        ),
        Row(
            generator="gan", data="digits", figures={"frechet": 1234.5},
            setting="286 epochs of batches of 64, seed 0, judge small-cnn",
        ),
    ]  # fmt: skip
    ((title, part),) = parts(read_text(table(rows).to_csv(index=False)))
    assert title == "digits, judge small-cnn"
    assert part["frechet"].tolist() == ["24.8 ± 3", "1234"]
    assert part["precision"].tolist() == ["0.715", ""]
    assert part["how, or who"].tolist() == ["476 epochs of 128, 3 seeds", "286 epochs of 64, seed 0"]
    rows[1] = replace(rows[1], setting="286 epochs of batches of 64, seed 0, judge mlp")
    ((title, part),) = parts(read_text(table(rows).to_csv(index=False)))
    assert title == "digits"
    assert part["how, or who"].iloc[1] == "286 epochs of 64, seed 0, judge mlp"


def test_a_published_row_says_what_sets_it_apart_from_others_of_its_paper():
    rows = [
        Row(
            generator="dcgan", data="stacked-mnist", figures={"modes": found}, kind="published", source="Lin et al. 2018",
            setting=setting,
        )
        for found, setting in ((78.9, "of 1000 modes"), (78.5, "of 1000 modes; D a quarter of G's size"))
    ]  # fmt: skip
    ((_, part),) = parts(read_text(table(rows, published=[]).to_csv(index=False)))
    assert part["how, or who"].tolist() == ["Lin et al. 2018", "Lin et al. 2018; D a quarter of G's size"]
