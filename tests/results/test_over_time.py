"""The course of an attack, corner by corner, and the claims beside it."""

import math

import pandas as pd
import pytest
from paging import run_of, timings_of

from robustbench_lite.results.claimed import Claimed
from robustbench_lite.results.metrics import summarise
from robustbench_lite.results.over_time import QUERIES, TIME, over_queries, over_time


def course(frame, x, attack="pgd"):
    own = frame[frame["attack"] == attack]
    return list(zip(own[x], own["robust_acc"], strict=True))


def test_every_break_is_a_corner_from_clean_accuracy_to_robust_accuracy(make_records):
    columns = {"pgd": {"break_forward": [3, -1, 3, 7, 0], "forwards": [3, 20, 3, 7, 0]}}
    found = over_queries(make_records({"pgd": "BRBBW"}, columns=columns))
    assert tuple(found.columns) == QUERIES
    assert course(found, "forwards") == [(0, 4 / 5), (3, 2 / 5), (7, 1 / 5), (20, 1 / 5)]


def test_a_break_at_an_unknown_moment_counts_at_the_end_of_its_search(make_records):
    columns = {"pgd": {"break_forward": [-1, -1], "forwards": [9, 20]}}
    assert course(over_queries(make_records({"pgd": "BR"}, columns=columns)), "forwards") == [
        (0, 1),
        (9, 0.5),
        (20, 0.5),
    ]


def test_the_end_is_the_robust_accuracy_of_the_summary(make_records):
    run = run_of(make_records)
    last = run.queries.groupby(["defense", "threat", "attack", "adaptive"])["robust_acc"].last()
    rows = run.summary[run.summary["attack"] != "worst-case"]
    assert len(last) == len(rows)
    for row in rows.to_dict("records"):
        assert last[row["defense"], row["threat"], row["attack"], row["adaptive"]] == row["robust_acc"]


@pytest.mark.parametrize("letters, threat", [("RBF", "Linf:0.1"), ("RBB", "L2")])
def test_a_cell_without_all_verdicts_and_a_search_for_the_nearest_have_no_course(make_records, letters, threat):
    records = make_records({"pgd": letters}, threat=threat)
    assert over_queries(records).empty
    assert over_time(records, timings_of(records)).empty


def test_seconds_add_up_and_what_is_left_is_the_worst_case_so_far(make_records):
    records = make_records({"fgsm": "RBRW", "pgd": "RRBW"})
    timings = timings_of(records).assign(seconds=[1.5, 2.0], setup_seconds=[0.0, 0.25])
    found = over_time(records, timings)
    assert tuple(found.columns) == TIME
    assert found[["attack", "seconds", "robust_acc"]].values.tolist() == [
        ["", 0.0, 0.75],
        ["fgsm", 1.5, 0.5],
        ["pgd", 3.75, 0.25],
    ]


def test_who_is_left_out_by_the_first_attack_is_still_there(make_records):
    records = make_records({"aimed": "LLRB", "pgd": "RBRR"})
    assert over_time(records, timings_of(records))["robust_acc"].tolist() == [1.0, 0.75, 0.5]


def test_without_clocks_there_is_no_course(make_records):
    records = make_records({"fgsm": "RB", "pgd": "RB"})
    assert over_time(records, None).empty
    half = over_time(records, timings_of(records).query("attack == 'fgsm'"))
    assert half["attack"].tolist() == ["", "fgsm"]


def test_what_is_claimed_and_by_whom(make_records):
    def rows(attack, letters, **more):
        return make_records({attack: letters}, defense="guard", **more)

    plain, knowing = rows("pgd", "RRR"), rows("pgd:eot=10", "RBB", adaptive=True)
    both = summarise(pd.concat([plain, knowing, rows("noise", "RRR")], ignore_index=True))
    found = Claimed(both, {("small-cnn", "guard")})
    by_name = {row["attack"]: row for row in both.to_dict("records")}
    assert found.plain(by_name["pgd"])  # an average over draws is the same attack
    assert found.actual(by_name["pgd"], "robust_acc") == pytest.approx(1 / 3)
    assert not found.plain(by_name["noise"])  # the same for everybody
    assert not found.plain(by_name["pgd:eot=10"])
    assert not found.only(by_name["pgd"])
    alone = summarise(plain)
    assert Claimed(alone, {("small-cnn", "guard")}).only(alone.iloc[0])
    assert not Claimed(alone, set()).plain(alone.iloc[0])
    assert math.isnan(Claimed(alone, set()).actual(alone.iloc[0], "robust_acc"))
