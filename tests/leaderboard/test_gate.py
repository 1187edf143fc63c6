"""The gate: planted losses are caught, chance is not."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard import gate_files
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.checks import counted
from robustbench_lite.leaderboard.comparison import Comparison, Judgement, Limits
from robustbench_lite.leaderboard.gate import judge
from robustbench_lite.leaderboard.samples import packed
from robustbench_lite.results.thresholds import THRESHOLDS

LIMITS = Limits()


def kinds(judgement) -> list[str]:
    return [alarm.kind for alarm in judgement.alarms]


def test_the_same_is_no_alarm(make_board):
    board = make_board({"none": {"pgd": "RBBW"}, "x": {"pgd": "RRRB"}})
    judgement = judge(board, board, LIMITS)
    assert (judgement.alarms, judgement.rows, judgement.notes) == ((), 2, ())
    assert judgement.tests == 2 * 4  # clean, worst case down; worst case up, one attack up


def test_a_loss_is_caught_and_told(make_board):
    before = make_board({"none": {"pgd": "R" * 40}})
    after = make_board({"none": {"pgd": "R" * 30 + "B" * 10}})
    (alarm,) = judge(before, after, LIMITS).alarms
    assert (alarm.kind, alarm.what, alarm.before, alarm.after) == ("less robust", "worst_case", 1.0, 0.75)
    assert alarm.p == pytest.approx(4 * 2 / 2**10)
    assert "100.0 % -> 75.0 % (10 images against 0" in str(alarm)


def test_a_loss_of_clean_accuracy_is_caught(make_board):
    before, after = make_board({"none": {"pgd": "B" * 40}}), make_board({"none": {"pgd": "B" * 30 + "W" * 10}})
    assert kinds(judge(before, after, LIMITS)) == ["less accurate"]


def test_an_attack_that_became_weaker_is_caught_on_the_same_system_alone(make_board):
    before, after = make_board({"none": {"pgd": "B" * 40}}), make_board({"none": {"pgd": "B" * 28 + "R" * 12}})
    assert set(kinds(judge(before, after, LIMITS))) == {"weaker attack"}
    other = make_board({"none": {"pgd": "B" * 28 + "R" * 12}}, told={"none": {"digest": "other"}})
    judgement = judge(before, other, LIMITS)
    assert judgement.alarms == ()
    assert "other weights or parts" in judgement.notes[0]


def test_a_weaker_attack_behind_a_strong_one_is_caught(make_board):
    """The worst case does not show it: another attack still breaks everything."""
    before = make_board({"none": {"pgd": "B" * 40, "square": "B" * 40}})
    after = make_board({"none": {"pgd": "B" * 40, "square": "R" * 15 + "B" * 25}})
    (alarm,) = judge(before, after, LIMITS).alarms
    assert (alarm.kind, alarm.what) == ("weaker attack", "square")


def test_tolerance_lets_a_small_change_pass(make_board):
    before, after = make_board({"none": {"pgd": "R" * 40}}), make_board({"none": {"pgd": "R" * 30 + "B" * 10}})
    assert judge(before, after, Limits(tolerance=0.25)).alarms == ()
    assert kinds(judge(before, after, Limits(tolerance=0.24))) == ["less robust"]


def test_other_images_are_compared_by_intervals(make_board):
    before = make_board({"none": {"pgd": "R" * 40}})
    slight = make_board({"none": {"pgd": "R" * 34 + "B" * 6}}, slice="two")
    judgement = judge(before, slight, LIMITS)
    assert judgement.alarms == ()
    assert "other images" in judgement.notes[0]
    assert kinds(judge(before, make_board({"none": {"pgd": "B" * 40}}, slice="two"), LIMITS)) == ["less robust"]


def test_a_row_that_is_gone_a_new_flag_and_more_queries_are_alarms(make_board):
    before = make_board({"none": {"pgd": "RB"}, "x": {"pgd": "RB"}})
    after = make_board(
        {"none": {"pgd": "RB"}}, flags={"none": "not-converged"}, columns={"pgd": {"forwards": 30, "backwards": 15}}
    )
    judgement = judge(before, after, LIMITS)
    assert sorted(kinds(judgement)) == ["flag", "missing", "queries"]
    assert "grew 3.00 times, 1.5 allowed" in gate_files.text(judgement)
    assert sorted(kinds(judge(before, after, Limits(queries=None)))) == ["flag", "missing"]


def test_a_cheap_attack_that_asks_more_does_not_hide_behind_a_dear_one(make_board):
    """All together ask 1.1 times as much."""
    dear = {"forwards": 450, "backwards": 0}
    before, after = (
        make_board(
            {"none": {"pgd": "RB", "square": "RB"}}, columns={"pgd": {"forwards": n, "backwards": n}, "square": dear}
        )
        for n in (25, 50)
    )
    (alarm,) = judge(before, after, LIMITS).alarms
    assert (alarm.kind, alarm.what, alarm.before, alarm.after) == ("queries", "pgd", 50, 100)
    assert "pgd 50 -> 100 a sample (grew 2.00 times, 1.5 allowed)" in str(alarm)


def test_queries_are_compared_by_row_where_an_attack_has_none_of_its_own(make_board):
    board = make_board({"none": {"pgd": "RB"}})
    unknown = replace(board, samples=board.samples.assign(queries=math.nan))
    dearer = make_board({"none": {"pgd": "RB"}}, columns={"pgd": {"forwards": 30, "backwards": 15}})
    assert [alarm.what for alarm in judge(unknown, dearer, LIMITS).alarms] == ["queries"]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_every_check_either_counts_images_or_has_nothing_to_do_with_chance(name):
    """A limit of 0 forgives nothing; one above it is a share or a number of images, but for what slopes are."""
    slopes = ("gradients-mislead", "detector-without-slope")
    assert counted(name) == (THRESHOLDS[name].limit > 0 and name not in slopes)


def test_a_check_that_is_over_its_limit_by_an_image_is_a_note_and_one_far_over_it_an_alarm(make_board):
    """3 of 100 where 2 are allowed comes from another seed every third time."""
    before = make_board({"x": {"pgd": "RB"}})
    slight, far = (make_board({"x": {"pgd": "RB"}}, flags={"x": "doubling-breaks-more"}, fires=f) for f in (0.03, 0.12))
    judgement = judge(before, slight, LIMITS)
    assert judgement.alarms == ()
    assert "doubling-breaks-more counts 3 of 100, limit 2 %, and did not fire before" in judgement.notes[0]
    assert "that may be chance" in judgement.notes[0]
    (alarm,) = judge(before, far, LIMITS).alarms
    assert (alarm.kind, alarm.what, alarm.before, alarm.after) == ("flag", "doubling-breaks-more", 2, 12)
    tail = sum(math.comb(100, k) * 0.02**k * 0.98 ** (100 - k) for k in range(12, 101))
    assert alarm.p == pytest.approx(5 * tail)  # times the tests of this gate
    assert "| flag: doubling-breaks-more | small-cnn, x · digits · Linf:0.2 | limit 2 | 12 |" in gate_files.markdown(
        judge(before, far, LIMITS), "Gate"
    )
    assert kinds(judge(before, slight, Limits(flags="any"))) == ["flag"]


def test_a_check_that_fired_before_may_fire_again(make_board):
    flagged = make_board({"x": {"pgd": "RB"}}, flags={"x": "doubling-breaks-more"}, fires=0.5)
    assert judge(flagged, flagged, LIMITS).alarms == ()


@pytest.mark.parametrize("n", [1, 7, 30, 40, 99])
def test_one_image_of_few_is_forgiven_by_the_gate_as_by_the_check(make_board, n):
    """`not-converged` forgives 1 of 100, and of fewer images one as well: a run beside itself has nothing to say."""
    clear = make_board({"x": {"pgd": "RB"}}, flags={"x": "not-converged"}, fires=1 / n)
    checks = clear.checks.assign(status="clear", n=n)
    board = replace(clear, rows=clear.rows.assign(flags=""), checks=checks)
    judgement = judge(board, board, LIMITS)
    assert (judgement.alarms, judgement.notes) == ((), ())


def test_a_check_that_counts_nothing_alarms_at_once(make_board):
    before = make_board({"x": {"pgd": "RB"}})
    for name in ("zero-gradients", "invalid-examples", "gradients-mislead", "answers-vary"):
        after = make_board({"x": {"pgd": "RB"}}, flags={"x": name}, fires=0.06)
        assert kinds(judge(before, after, LIMITS)) == ["flag"]


def test_an_attack_that_did_not_run_is_an_alarm(make_board):
    before, after = make_board({"x": {"pgd": "RB", "square": "RB"}}), make_board({"x": {"pgd": "RB"}})
    (alarm,) = judge(before, after, LIMITS).alarms
    assert (alarm.kind, alarm.how) == ("missing", "square ran in the baseline and not in this run")


def test_clocks_are_compared_only_when_asked(make_board):
    before, after = make_board({"x": {"pgd": "RB"}}), make_board({"x": {"pgd": "RB"}}, seconds=9.0)
    assert judge(before, after, LIMITS).alarms == ()
    assert kinds(judge(before, after, Limits(seconds=2.0))) == ["time"]


def with_cost(board: Board, cost: float, device: str = "cpu") -> Board:
    return replace(board, timings=board.timings.assign(cost=cost, device=device))


def test_costs_are_compared_in_units_and_only_when_asked(make_board):
    """Ten times the seconds at the same cost is a slow machine, twice the cost at the same seconds a slow engine."""
    board = make_board({"x": {"pgd": "RB"}})
    slow = make_board({"x": {"pgd": "RB"}}, seconds=10.0)
    assert judge(with_cost(board, 2.0), with_cost(slow, 2.1), Limits(cost=1.5)).alarms == ()
    assert judge(with_cost(board, 2.0), with_cost(board, 4.2), LIMITS).alarms == ()
    (alarm,) = judge(with_cost(board, 2.0), with_cost(board, 4.2), Limits(cost=1.5)).alarms
    assert (alarm.kind, alarm.what, alarm.before, alarm.after) == ("speed", "cost", 2.0, 4.2)
    assert str(alarm).endswith("cost 2 -> 4.2 bare forwards and gradients (grew 2.10 times, 1.5 allowed)")


def test_what_was_not_measured_is_not_passed_over(make_board):
    board = make_board({"x": {"pgd": "RB"}})
    bare = replace(board, timings=board.timings.iloc[:0])
    with pytest.raises(UserError, match="--time: the baseline tells no seconds of small-cnn, x"):
        judge(bare, board, Limits(seconds=2.0))
    with pytest.raises(UserError, match="--speed: the run tells no cost of small-cnn, x"):
        judge(with_cost(board, 2.0), board, Limits(cost=1.5))
    with pytest.raises(UserError, match="ran on cpu in the baseline and on NVIDIA H200 now"):
        judge(with_cost(board, 2.0), with_cost(board, 2.0, "NVIDIA H200"), Limits(cost=1.5))


def test_a_run_with_fewer_images_is_refused_unless_that_is_allowed(make_board):
    before, one = make_board({"x": {"pgd": "R" * 60}}), make_board({"x": {"pgd": "R"}}, slice="one image")
    with pytest.raises(UserError, match=r"the run has 1 image of small-cnn, x .*, the baseline 60 images"):
        judge(before, one, LIMITS)
    judgement = judge(before, one, Limits(fewer=True))
    assert judgement.alarms == ()
    assert "1 images, 60 in the baseline): compared by intervals" in judgement.notes[0]


def test_images_that_both_have_seen_are_paired(make_board):
    """Nine of the baseline's twenty, among others; all nine fell."""
    before = replace(make_board({"x": {"pgd": "R" * 20}}), images={"one": tuple(range(100, 120))})
    after = make_board({"x": {"pgd": "B" * 9 + "R" * 3}}, slice="two")
    after = replace(after, images={"two": (*range(101, 119, 2), 207, 208, 209)})
    (alarm,) = judge(before, after, Limits(fewer=True)).alarms
    assert (alarm.kind, alarm.before, alarm.after) == ("less robust", 1.0, 0.0)
    assert "9 images against 0 of 9 in common" in alarm.how
    assert "compared on the 9 in common" in judge(before, after, Limits(fewer=True)).notes[0]
    more = replace(make_board({"x": {"pgd": "B" * 9 + "R" * 41}}, slice="more"), images={"more": tuple(range(90, 140))})
    other = replace(more, data="of another dataset")  # where the same positions are of other images
    assert "compared by intervals" in judge(before, other, LIMITS).notes[0]
    # all of the baseline's images are there: those from 100 on, none of which fell
    judgement = judge(before, more, LIMITS)
    assert judgement.alarms == ()
    assert "compared on the 20 in common" in judgement.notes[0]


def test_a_baseline_by_which_nothing_could_fail_is_refused(make_board):
    board = make_board({"x": {"pgd": "RB"}})
    empty = replace(board, rows=board.rows.iloc[:0])
    with pytest.raises(UserError, match="the baseline has no rows"):
        judge(empty, board, LIMITS)
    with pytest.raises(UserError, match="the run has no rows"):
        judge(board, empty, LIMITS)
    unfinished = make_board({"x": {"pgd": "RF"}})
    with pytest.raises(UserError, match="the baseline has no worst_case of small-cnn, x"):
        judge(unfinished, board, LIMITS)
    for column, value in (("dataset", "mnist"), ("threat", "L2:1")):
        other = replace(board, rows=board.rows.assign(**{column: value}))
        with pytest.raises(UserError, match=f"no row in common with the run: its .* is {value}"):
            judge(other, board, LIMITS)


def test_rows_of_the_same_data_that_are_all_gone_are_alarms(make_board):
    board = make_board({"x": {"pgd": "RB"}})
    renamed = replace(board, rows=board.rows.assign(model="mlp"))
    assert kinds(judge(renamed, board, LIMITS)) == ["missing"]


def test_a_row_of_which_nothing_could_be_compared_is_an_alarm(make_board):
    before, after = make_board({"x": {"pgd": "RB"}}), make_board({"x": {"pgd": "FF"}})
    judgement = judge(before, replace(after, rows=after.rows.assign(clean=math.nan)), LIMITS)
    assert "nothing of it could be compared" in gate_files.text(judgement)
    assert judgement.tests == 0


def test_a_system_that_was_not_there_is_a_note(make_board):
    judgement = judge(make_board({"x": {"pgd": "RB"}}), make_board({"x": {"pgd": "RB"}, "y": {"pgd": "RR"}}), LIMITS)
    assert judgement.alarms == ()
    assert "y · digits · Linf:0.2 is not in the baseline" in judgement.notes[0]


def simulated(board: Board, left: np.ndarray) -> Board:
    """The board with another worst case of its only row and only attack."""
    rows, samples = board.rows.copy(), board.samples.copy()
    rows[["worst_case", "pgd", "n"]] = [[float(left.mean()), float(left.mean()), len(left)]]
    rows["clean"] = 1.0
    told = samples["attack"].ne("clean")
    samples.loc[told, "left"] = packed(left)
    samples.loc[~told, "left"] = packed(np.ones(len(left), dtype=bool))
    samples["n"] = len(left)
    return Board(rows=rows, samples=samples, timings=board.timings)


def test_a_loss_of_three_points_of_a_thousand_images_is_caught_95_times_of_100(make_board):
    """With the noise of another attack seed: one image in a hundred changes sides either way."""
    base, generator = make_board({"none": {"pgd": "R"}}), np.random.default_rng(0)
    caught = 0
    for _ in range(100):
        left = generator.random(1000) < 0.5
        again = left ^ (generator.random(1000) < 0.01)
        lost = again & ~np.isin(np.arange(1000), generator.choice(np.flatnonzero(again), 30, replace=False))
        judgement = judge(simulated(base, left), simulated(base, lost), LIMITS)
        caught += "less robust" in kinds(judgement)
    assert caught >= 95


def test_another_attack_seed_is_an_alarm_5_times_of_100_at_most(make_board):
    """Images change sides by chance alone, either way; 11 of 100 is the 99 % bound of a binomial with 5 %."""
    base, generator = make_board({"none": {"pgd": "R"}}), np.random.default_rng(1)
    alarms = 0
    for _ in range(100):
        left = generator.random(1000) < 0.5
        again = left ^ (generator.random(1000) < 0.02)
        alarms += bool(judge(simulated(base, left), simulated(base, again), LIMITS).alarms)
    assert alarms <= 11


def test_machines_read_it(make_board):
    before = make_board({"none": {"pgd": "R" * 40}})
    judgement = judge(before, make_board({"none": {"pgd": "R" * 30 + "B" * 10}}), LIMITS)
    suite = ElementTree.fromstring(gate_files.junit(judgement, "a & b"))
    cases = {(case.get("classname"), str(case.get("name")).split(" · ")[-1]): case for case in suite.iter("testcase")}
    assert (suite.get("tests"), suite.get("failures"), suite.get("name")) == (str(len(cases)), "1", "a & b")
    assert set(cases) == {
        *(("rbl.check.less accurate", "clean"), ("rbl.check.less robust", "worst_case"), ("rbl.check.queries", "pgd")),
        *(("rbl.check.weaker attack", what) for what in ("worst_case", "pgd")), ("rbl.check.queries", "queries"),
        *(("rbl.check.missing", what) for what in ("missing", "pgd")), ("rbl.check.flag", "flag"),
    }  # fmt: skip
    failed = cases["rbl.check.less robust", "worst_case"]
    assert str(failed.find("failure").get("message")).startswith("less robust: small-cnn, none")
    assert str(failed.findtext("system-out")).startswith("before: 1\nafter: 0.75\np: 0.0078125\n10 images against 0")
    passed = cases["rbl.check.weaker attack", "pgd"]
    assert passed.find("failure") is None
    assert str(passed.findtext("system-out")).startswith("before: 1\nafter: 0.75\np: 1\n")
    (line,) = gate_files.annotations(judgement, "boards/x.csv")
    assert line.startswith("::error file=boards/x.csv,title=less robust::less robust: small-cnn")
    assert "100.0 %25 -> 75.0 %25" in line
    assert (
        "| less robust: worst_case | small-cnn, none · digits · Linf:0.2 | 100.0 % | 75.0 % |"
        in gate_files.markdown(judgement, "Gate")
    )
    passing = ElementTree.fromstring(gate_files.junit(judge(before, before, LIMITS), "x"))
    assert (passing.get("tests"), passing.get("failures")) == ("9", "0")
    assert json.dumps(gate_files.summary(judgement)) == '"1 alarm: 1 system, 4 tests"'


def test_a_check_is_told_with_its_limit_since_the_baseline_has_no_figure_of_it():
    who = ("digits", "small-cnn", "none", "Linf:0.2")
    check = Comparison(kind="flag", who=who, what="not-converged", before=2, after=1, p=1, how="counts 1 of 200")
    clean = Comparison(kind="less accurate", who=who, what="clean", before=1, after=1, p=1, how="0 images against 0")
    judgement = Judgement(comparisons=(check, clean), rows=1, notes=())
    suite = ElementTree.fromstring(gate_files.junit(judgement, "x"))
    told = [str(case.findtext("system-out")).splitlines()[:2] for case in suite.iter("testcase")]
    assert told == [["limit: 2", "after: 1"], ["before: 1", "after: 1"]]
    assert gate_files.summary(judgement) == "no alarm: 1 system, 2 tests"


def test_an_empty_table_of_samples_falls_back_on_intervals(make_board):
    board = make_board({"none": {"pgd": "R" * 40}})
    bare = Board(rows=board.rows, samples=pd.DataFrame(columns=board.samples.columns), timings=board.timings)
    worse = make_board({"none": {"pgd": "B" * 40}})
    (alarm,) = judge(bare, worse, LIMITS).alarms
    assert "exact intervals" in alarm.how


def test_a_system_that_is_never_right_is_told_so_and_not_that_it_has_no_cost(make_board):
    """Nothing of it was attacked, so that there is no cost."""
    board = make_board({"none": {"pgd": "R" * 60}})
    timed = replace(board, timings=board.timings.assign(cost=2.0))
    wrong = make_board({"none": {"pgd": "W" * 60}})
    limits = Limits(cost=1.5, queries=None)
    assert kinds(judge(timed, replace(wrong, timings=wrong.timings.assign(cost="")), limits))[:2] == [
        "less accurate", "less robust",
    ]  # fmt: skip


def test_an_attack_that_is_new_in_the_run_is_no_growth_of_queries(make_board):
    """All attacks together ask twice as much; the one that both ran asks the same."""
    before = make_board({"none": {"pgd": "RB"}})
    now = make_board({"none": {"pgd": "RB", "square": "RB"}})
    assert judge(before, now, LIMITS).alarms == ()
    gone = judge(now, before, LIMITS).alarms
    assert [(alarm.kind, alarm.what) for alarm in gone] == [("missing", "square")]


def test_the_queries_of_both_forms_of_an_attack_are_counted(make_board):
    """The one that knows the defense asks as much as before, and does not hide that the other asks three times as much."""
    before = make_board({"none": {"fgsm": "RB", "fgsm*": "RB"}})
    plain = (before.samples["attack"] == "fgsm") & (before.samples["adaptive"] == "false")
    asked = before.samples["queries"].astype(float).where(~plain, 45.0)
    (alarm,) = judge(before, replace(before, samples=before.samples.assign(queries=asked)), LIMITS).alarms
    assert (alarm.kind, alarm.what, alarm.before, alarm.after) == ("queries", "fgsm", 30, 60)
