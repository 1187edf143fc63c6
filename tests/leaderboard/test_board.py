"""From records to a ranked table, to files, and back."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.build import built_from
from robustbench_lite.leaderboard.columns import NOT_ADAPTIVE
from robustbench_lite.leaderboard.page import markdown, page_of, shown
from robustbench_lite.leaderboard.plan import BoardPlan, External
from robustbench_lite.leaderboard.samples import packed, unpacked
from robustbench_lite.leaderboard.validate import changes, faults
from robustbench_lite.results import tables
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.plan import Plan

PLAN = BoardPlan(plan=Plan(), title="A board")


def row(board: Board, defense: str) -> dict[str, object]:
    (found,) = board.rows[board.rows["defense"] == defense].to_dict("records")
    return {str(name): value for name, value in found.items()}


@given(st.lists(st.booleans(), max_size=40))
def test_samples_come_back(bits):
    left = np.array(bits, dtype=bool)
    assert np.array_equal(unpacked(packed(left), len(left)), left)


@pytest.mark.parametrize("text, n", [("8", 8), ("g0", 8), ("81", 7), ("", 1)])
def test_the_text_of_other_samples_is_refused(text, n):
    with pytest.raises(UserError, match="is not the text of"):
        unpacked(text, n)


def test_a_row_says_what_the_records_say(make_board):
    board = make_board({"none": {"fgsm": "RRRBW", "pgd": "RBRRW"}}, told={"none": {"architecture": "small-cnn"}})
    found = row(board, "none")
    assert (found["rank"], found["mark"], found["n"], found["clean"]) == (1, "", 5, 0.8)
    assert (found["fgsm"], found["pgd"], found["worst_case"]) == (0.6, 0.6, 0.4)
    assert (found["worst_low"], found["worst_high"]) == pytest.approx(clopper_pearson(2, 5), abs=1e-6)
    assert (found["claimed"], found["adaptive"], found["best_known"]) == (0.4, 0.4, 0.4)
    assert found["queries"] == 2 * 4 * 15 / 5  # ten forwards and five backwards of each attack on four of five images
    assert (found["parameters"], found["digest"], found["architecture"]) == (7, "none", "small-cnn")
    assert board.attacks == ["fgsm", "pgd"]


def test_plain_and_adaptive_forms_of_an_attack_share_a_column(make_board):
    board = make_board(
        {"hiding": {"pgd": "RRRR", "pgd,eot=4*": "RBBR"}}, told={"hiding": {"hides": True, "audited": True}}
    )
    found = row(board, "hiding")
    assert board.attacks == ["pgd"]
    assert (found["claimed"], found["adaptive"], found["pgd"], found["worst_case"]) == (1.0, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("told", [{"hides": True, "audited": True}, {"hides": False, "audited": False}])
def test_a_defense_without_an_adaptive_result_is_marked_and_stands_below(make_board, told):
    board = make_board({"hiding": {"pgd": "R" * 20}, "none": {"pgd": "R" + "B" * 19}}, told={"hiding": told})
    assert board.rows["defense"].tolist() == ["none", "hiding"]
    assert row(board, "hiding")["mark"] == NOT_ADAPTIVE
    assert math.isnan(float(str(row(board, "hiding")["adaptive"])))
    assert (row(board, "none")["rank"], row(board, "hiding")["rank"]) == (1, 2)


def test_a_flag_puts_a_row_below_all_without_one(make_board):
    letters = {"none": {"pgd": "B" * 20}, "good": {"pgd": "R" * 15 + "B" * 5}, "masked": {"pgd": "R" * 20}}
    board = make_board(letters, flags={"masked": "not-converged"})
    assert board.rows["defense"].tolist() == ["good", "none", "masked"]
    assert board.rows["rank"].tolist() == [1, 2, 3]
    assert (row(board, "masked")["mark"], row(board, "masked")["flags"]) == ("flagged", "not-converged")


def test_what_only_a_plain_attacker_is_blind_to_is_no_mark(make_board):
    board = make_board({"x": {"pgd": "RB"}}, flags={"x": "plain-gradients-vanish"})
    assert (row(board, "x")["mark"], row(board, "x")["flags"]) == ("", "plain-gradients-vanish")


def test_a_rank_counts_those_that_are_significantly_better(make_board):
    """20 against 15 of 20 is p = 2/2^5, which is not below 5 %; against 2 is, 15 against 2 too."""
    letters = {name: {"pgd": "R" * kept + "B" * (20 - kept)} for name, kept in {"a": 20, "b": 15, "c": 2}.items()}
    board = make_board(letters)
    assert dict(zip(board.rows["defense"], board.rows["rank"], strict=True)) == {"a": 1, "b": 1, "c": 3}


def test_an_unfinished_row_is_marked(make_board):
    board = make_board({"x": {"pgd": "RRF"}, "y": {"pgd": "RBB"}})
    assert board.rows["defense"].tolist() == ["y", "x"]
    assert (row(board, "x")["mark"], str(row(board, "x")["worst_case"])) == ("unfinished", "nan")


def test_files_come_back_and_give_the_same_bytes(make_board, tmp_path: Path):
    board = make_board({"none": {"pgd": "RBBW"}, "x": {"pgd": "RRRB", "fgsm": "RRRR"}})
    path = tmp_path / "board.csv"
    board.write(path, markdown(board, PLAN, "board"))
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(first) == {"board.csv", "board.samples.csv", "board.timings.csv", "board.md"}
    again = Board.read(path)
    again.merged([again]).write(path, markdown(again, PLAN, "board"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first


def test_detectors_and_a_camera_have_their_figures_beside_the_ranks(make_board, tmp_path: Path):
    """Two of four examples are wrong; one of these scores above every clean image."""
    scores = {"pgd": {"clean_score": [0.1, 0.2, 0.3, 0.4], "score": [0.1, 0.9, 0.25, 0.1]}}
    seen = {"dataset": "digits", "model": "small-cnn", "defense": "guard", "threat": "Linf:0.2", "attack": "pgd"}
    camera = seen | {"adaptive": True, "n": 4, "draws": 20, "right_without_camera": 0.5, "accuracy": 0.625}
    camera |= {"adversariality": 0.375, "destruction": 0.25, "destruction_low": 0.1, "destruction_high": 0.7}
    board = make_board({"guard": {"pgd*": "RBBR"}}, columns=scores, physical=pd.DataFrame([camera]))
    page, path = markdown(board, PLAN, "board"), tmp_path / "board.csv"
    assert "| small-cnn | guard | pgd | knows it | 0.750 | 50.0 | 0.0 | 50.0 | 0.0 | 50.0 |" in page
    assert "| small-cnn | guard | pgd | knows it | 4 | 20 | 50.0 | 62.5 | 37.5 | 25.0 [10.0, 70.0] |" in page
    board.write(path, page)
    again = Board.read(path)
    assert markdown(again, PLAN, "board") == page
    assert list(again.beside) == ["detection", "physical"]
    assert "Behind the camera" in tables.text(shown(again), 160)
    assert list(again.merged([make_board({"none": {"pgd": "RBBR"}})]).beside) == ["detection", "physical"]
    assert make_board({"guard": {"pgd": "RBBR"}}).beside == {}
    path.with_suffix(".toml").write_text("[leaderboard]\ntitle = 'A board'\n")
    assert not [fault for fault in faults(path) if "is not what" in fault]
    beside = tmp_path / "board.detection.csv"
    beside.write_text(beside.read_text().replace("0.75", "0.99"))
    assert [fault for fault in faults(path) if "is not what" in fault]


def test_merging_ranks_all_together_and_takes_the_last(make_board):
    one = make_board({"none": {"pgd": "B" * 20}, "x": {"pgd": "R" * 10 + "B" * 10}})
    two = make_board({"x": {"pgd": "R" * 20}, "y": {"fgsm": "R" * 20}})
    both = one.merged([two])
    assert both.rows["defense"].tolist() == ["x", "y", "none"]
    assert row(both, "x")["worst_case"] == 1.0
    assert both.rows["rank"].tolist() == [1, 1, 3]
    assert both.attacks == ["pgd", "fgsm"]


def test_other_images_are_not_merged(make_board):
    one, two = make_board({"x": {"pgd": "RB"}}), make_board({"y": {"pgd": "RB"}}, slice="two")
    with pytest.raises(UserError, match="evaluated on different images"):
        one.merged([two])


def test_a_sound_leaderboard_has_no_fault(make_board, tmp_path: Path):
    board = make_board({"none": {"pgd": "RBBW", "fgsm": "RRBW"}, "x": {"pgd": "RRRB"}}, flags={"x": "not-converged"})
    board.write(tmp_path / "board.csv", page_of(board, "board", "A board", "Made by hand;"))
    assert faults(tmp_path / "board.csv") == []


@pytest.mark.parametrize(
    "column, value, fault",
    [
        ("worst_case", "0.75", "worst_case: 0.75, and its samples give 0.25"),
        ("clean", "1.0", "clean: 1, and its samples give 0.75"),
        ("clean_low", "0.3", "clean_low: 0.3, and the exact interval has 0.194"),
        ("worst_high", "0.3", "worst_high: 0.3, and the exact interval has 0.80588"),
        ("rank", "2", "rank: 2, and the samples give 1"),
        ("rank", "", "rank: nothing, and the samples give 1"),
        ("pgd", "0.0", "pgd: 0, and its samples give 0.25"),
        ("pgd", "", "pgd: nothing, and there are samples of it"),
        ("claimed", "0.5", "claimed: 0.5, and the worst case is 0.25"),
        ("adaptive", "0.5", "adaptive: 0.5, and the worst case is 0.25"),
        ("best_known", "0.9", "best_known: 0.9, above the worst case, 0.25"),
        ("best_known", "0.1", "best_known and best_known_source: 0.1 from 'here' is not told right"),
        ("flags", "not-converged", "mark and flags: the mark is '', and what the flags say is 'flagged'"),
        ("flags", "order-dependent", "mark and flags: the mark is '', and what the flags say is 'order-dependent'"),
        (
            "mark",
            "no adaptive result",
            "mark and adaptive: the mark is 'no adaptive result', and the adaptive figure 0.25",
        ),
        ("mark", "flagged", "mark and flags: the mark is 'flagged', and what the flags say is ''"),
        ("queries", "12.0", "queries: 12, and its attacks have asked 22.4"),
        ("n", "5", "n: 5, and there are samples of 4 images"),
        ("seeds", "2", "seeds: not what was written when the leaderboard was built"),
        ("seed_spread", "0.01", "seed_spread: not what was written"),
        ("training", "trades", "training: not what was written"),
        ("architecture", "mlp", "architecture: not what was written"),
        ("parameters", "8", "parameters: not what was written"),
        ("digest", "other", "digest: not what was written"),
        ("slice", "other", "slice: not what was written"),
        ("plan", "other", "plan: not what was written"),
        ("best_known_source", "a paper", "best_known and best_known_source: 0.25 from 'a paper' is not told right"),
        ("evidence", "", "evidence: not what was written"),
    ],
)
def test_an_edited_leaderboard_is_caught(make_board, tmp_path: Path, column: str, value: str, fault: str):
    board, path = make_board({"none": {"pgd": "RBBW", "fgsm": "RRBW"}}), tmp_path / "board.csv"
    board.write(path, "")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[0, column] = value
    table.to_csv(path, index=False, lineterminator="\n")
    assert any(fault in found for found in faults(path)), faults(path)


@pytest.mark.parametrize(
    "line, column, value, fault",
    [
        (0, "left", "f", "clean: 0.75, and its samples give 1"),
        (1, "left", "c", "worst_case: 0.25, and its samples give 0.5"),
        (2, "left", "c", "pgd: 0.25, and its samples give 0.5"),
        (2, "left", "9", "left: pgd leaves an image that is misclassified untouched"),
        (2, "n", "3", "n: 4, and there are samples of 3 and 4 images"),
        (2, "attack", "bim", "bim: the samples tell of bim, which is no column"),
        (2, "adaptive", "true", "whether an attack knew the defense"),
        (2, "queries", "99", "queries: 22.5, and its attacks have asked 110.2"),
        (
            2,
            "model",
            "mlp",
            "mlp, none · digits · Linf:0.2: dataset and threat and model and defense: it has lines here",
        ),
    ],
)
def test_an_edit_of_the_samples_is_caught(make_board, tmp_path: Path, line: int, column: str, value: str, fault: str):
    board, path = make_board({"none": {"pgd": "RBBW", "fgsm": "RRBW"}}), tmp_path / "board.csv"
    board.write(path, "")
    beside = tmp_path / "board.samples.csv"
    table = pd.read_csv(beside, dtype=str, keep_default_na=False)
    table.loc[line, column] = value
    table.to_csv(beside, index=False, lineterminator="\n")
    assert any(fault in found for found in faults(path)), faults(path)
    assert any(f"board.samples.csv, line {line + 2} (" in found and f"{column}: " in found for found in faults(path))


def test_what_a_plan_says_of_a_leaderboard_is_held_against_it(make_board, tmp_path: Path):
    board, path = make_board({"none": {"pgd": "RBBW"}}), tmp_path / "board.csv"
    board = replace(board, rows=board.rows.assign(plan=""))
    toml = 'models = ["small-cnn"]\ndefenses = ["none"]\nthreats = ["Linf:0.2"]\n'
    path.with_suffix(".toml").write_text(toml)
    board.write(path, markdown(board, BoardPlan.load(path.with_suffix(".toml")), "board"))
    assert faults(path) == []
    external = '[[external]]\nmodel = "small-cnn"\nrobust = 0.1\nsource = "a paper"\n'
    for text, fault in {
        toml.replace('"none"', '"none", "trades"'): "trades · digits · Linf:0.2: it is in board.toml, and has no row",
        toml.replace("small-cnn", "mlp"): "none · digits · Linf:0.2: model: board.toml has no such system",
        toml + "[leaderboard]\nseeds = [0, 1]\n": "seeds: 1, and board.toml has 2",
        toml + external: "best_known and best_known_source: board.toml and the worst case give 0.1 and a paper",
        toml + '[leaderboard]\ntitle = "Other"\n': "board.md is not what board.csv and board.toml give",
        toml + "[leaderboard]\ntitel = 1\n": "did you mean 'title'?",
    }.items():
        path.with_suffix(".toml").write_text(text)
        assert any(fault in one for one in faults(path)), (fault, faults(path))


def test_a_system_that_answers_by_place_is_last_and_has_no_rank(make_board, tmp_path: Path):
    letters = {"none": {"pgd": "B" * 20}, "placed": {"pgd": "R" * 20}, "masked": {"pgd": "R" * 19 + "B"}}
    flags = {"placed": "order-dependent", "masked": "stateful"}
    board, path = make_board(letters, flags=flags), tmp_path / "board.csv"
    assert board.rows["defense"].tolist() == ["none", "masked", "placed"]
    assert board.rows["rank"].tolist() == [1, 2, ""]
    assert board.rows["mark"].tolist() == ["", "flagged", "order-dependent"]
    page = markdown(board, PLAN, "board")
    assert "| - | placed | 7 | 100.0 | 100.0 | 100.0 [83.2, 100.0] | 15 | order-dependent |" in page
    assert "A row marked order-dependent has no rank" in page
    assert "no rank" not in markdown(make_board({"none": {"pgd": "RB"}}), PLAN, "board")
    board.write(path, page)
    assert faults(path) == []
    again = Board.read(path)
    assert again.merged([again]).rows["rank"].tolist() == [1, 2, ""]
    assert markdown(again, PLAN, "board") == page


@pytest.mark.parametrize(
    "flag", ["clean-accuracy", "stateful", "mode-dependent", "denied-by-verdict", "detector-without-slope"]
)
def test_a_check_that_says_something_against_a_figure_is_a_mark(make_board, flag: str):
    assert row(make_board({"x": {"pgd": "RB"}}, flags={"x": flag}), "x")["mark"] == "flagged"


ODD = [
    *("=1+1", "+x", "-x", "@x", "'x", "a|b", "`a`", "<img src=x>", "a\rb", "a\nb", "\x1b[2Jx", "a,b", 'a"b', "[x](y)"),
    *("\\x{d}", " x ", "a\u2028b", "\u202eabc"),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_come_back_and_do_nothing_where_they_are_shown(make_board, tmp_path: Path, name: str):
    board, path = make_board({name: {"pgd": "RBBW"}, "none": {"pgd": "RRRR"}}), tmp_path / "board.csv"
    page = markdown(board, PLAN, "board")
    board.write(path, page)
    again = Board.read(path)
    assert again.rows["defense"].tolist() == board.rows["defense"].tolist()
    assert faults(path) == []
    assert markdown(again, PLAN, "board") == page
    assert len(path.read_text().splitlines()) == 3
    for file in (path, tmp_path / "board.samples.csv"):
        with file.open(newline="") as lines:
            for line in csv.DictReader(lines):
                assert not line["defense"].startswith(("=", "+", "-", "@", "\t", "\r")), line["defense"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]|<img|\]\(y\)|`a`|a\|b", page)
    assert "\x1b" not in tables.text(shown(board), 160)


def test_differences_are_told(make_board):
    before = make_board({"none": {"pgd": "RBBW"}, "gone": {"pgd": "RRRR"}})
    after = make_board({"none": {"pgd": "RRBW"}, "new": {"pgd": "RRRR"}})
    found = changes(before, after)
    assert set(found["what"]) == {"gone", "new", "changed"}
    (worst,) = found[found["column"].eq("worst_case") & found["what"].eq("changed")].to_dict("records")
    assert (worst["before"], worst["after"]) == (0.25, 0.5)
    assert changes(before, before).empty


def test_a_page_shows_rank_interval_and_marks(make_board):
    board = make_board({"none": {"pgd": "RBBW"}, "x": {"pgd": "RRRB"}}, flags={"x": "not-converged"})
    page = markdown(board, PLAN, "board")
    assert "## digits · Linf:0.2 · n = 4 · small-cnn\n" in page  # the model of all rows
    assert "| 1 | none | 7 | 75.0 | 25.0 | 25.0 [0.6, 80.6] | 11 |  |" in page
    assert "| 2 | x | 7 | 100.0 | 75.0 | 75.0 [19.4, 99.4] | 15 | flagged; not-converged |" in page
    assert "Claimed" not in page
    assert "`rbl leaderboard build board.toml`" in page
    assert "not-converged" in tables.text(shown(board), 160)


def test_no_leaderboard_is_refused(tmp_path: Path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no leaderboard: it has no column 'rank'"):
        Board.read(tmp_path / "other.csv")
    with pytest.raises(UserError, match="there is no leaderboard"):
        Board.read(tmp_path / "absent.csv")


def test_a_plan_with_its_own_table_is_read(tmp_path: Path):
    path = tmp_path / "board.toml"
    path.write_text(
        'dataset = "digits"\nmodels = ["mlp"]\n[leaderboard]\ntitle = "T"\nseeds = [0, 1]\n'
        '[[external]]\nmodel = "mlp"\nrobust = 0.25\nsource = "a paper"\n'
    )
    plan = BoardPlan.load(path)
    assert (plan.title, plan.seeds, plan.plan.models) == ("T", (0, 1), ("mlp",))
    assert plan.external == (External(model="mlp", robust=0.25, source="a paper"),)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[leaderboard]\ntitel = "T"\n', "did you mean 'title'"),
        ("[leaderboard]\nseeds = []\n", "accepted: a list of whole numbers"),
        ("[leaderboard]\nseeds = [1, 1]\n", "holds a number twice"),
        ('[[external]]\nmodel = "mlp"\nrobust = 47.2\nsource = "a"\n', "accepted: a share from 0 to 1"),
        ('[[external]]\nmodel = "mlp"\nrobust = 0.2\n', "has no source"),
        ("modles = []\n", "did you mean 'models'"),
        ("[", "is not TOML"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        BoardPlan.load(tmp_path / "board.toml")


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no run"):
        built_from(PLAN, [tmp_path])
