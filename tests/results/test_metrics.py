"""The summary of small records, counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.results.metrics import COLUMNS, WORST_CASE, summarise
from robustbench_lite.results.statistics import clopper_pearson

FIRST = (
    "dataset,model,defense,threat,attack,needs,adaptive,n,clean_acc,robust_acc,robust_acc_low,robust_acc_high,"
    "success_rate,targeted_success,median_norm,invalid,forwards,backwards,seconds,flags"
)


def row(summary, attack):
    (found,) = [one for _, one in summary.iterrows() if one["attack"] == attack]
    return found


def timing(records, attack, **values):
    first = records[records["attack"] == attack].iloc[0]
    names = ["dataset", "model", "defense", "threat", "attack", "key"]
    given = {"seconds": 1.0, "setup_seconds": 0.0, "setup_queries": 0, "batch_size": 32, "failed": ""} | values
    return first[names].to_dict() | given


def test_the_first_columns_are_those_of_the_issue(make_records):
    summary = summarise(make_records({"fgsm": "RB"}))
    assert ",".join(summary.columns[:20]) == FIRST
    assert tuple(summary.columns) == COLUMNS


def test_accuracies_are_shares_of_all_samples_and_success_of_the_initially_right(make_records):
    summary = summarise(make_records({"fgsm": "RRRBW", "pgd": "RBBRW"}))
    fgsm, pgd, worst = (row(summary, attack) for attack in ("fgsm", "pgd", WORST_CASE))
    assert list(summary["attack"]) == ["fgsm", "pgd", WORST_CASE]
    assert (fgsm["n"], fgsm["clean_acc"], fgsm["robust_acc"], fgsm["success_rate"]) == (5, 4 / 5, 3 / 5, 1 / 4)
    assert (pgd["robust_acc"], pgd["success_rate"]) == (2 / 5, 2 / 4)
    assert (worst["n"], worst["robust_acc"], worst["success_rate"]) == (5, 1 / 5, 3 / 4)
    assert (fgsm["robust_acc_low"], fgsm["robust_acc_high"]) == clopper_pearson(3, 5)
    assert (fgsm["clean_acc_low"], fgsm["clean_acc_high"]) == clopper_pearson(4, 5)


def test_queries_are_means_over_the_attacked_and_the_worst_case_sums_them(make_records):
    columns = {"pgd": {"forwards": [30, 10, 0], "backwards": [20, 10, 0]}}
    summary = summarise(make_records({"fgsm": "RBW", "pgd": "RBW"}, columns=columns))
    assert row(summary, "fgsm")[["forwards", "backwards"]].tolist() == [10, 5]
    assert row(summary, "pgd")[["forwards", "backwards"]].tolist() == [20, 15]
    assert row(summary, WORST_CASE)[["forwards", "backwards"]].tolist() == [30, 20]


def test_an_invalid_example_is_counted_and_breaks_nothing(make_records):
    records = make_records({"pgd": "RII"}, columns={"pgd": {"broken": [False, True, False]}})  # even if a row says so
    pgd = row(summarise(records), "pgd")
    assert (pgd["invalid"], pgd["robust_acc"], pgd["success_rate"]) == (2, 1, 0)


def test_left_out_samples_are_in_the_worst_case_by_the_other_attacks(make_records):
    summary = summarise(make_records({"targeted:target=0": "LRBB", "fgsm": "BRRB"}))
    targeted, worst = row(summary, "targeted:target=0"), row(summary, WORST_CASE)
    assert (targeted["n"], targeted["left_out"], targeted["robust_acc"]) == (3, 1, 1 / 3)
    assert (worst["n"], worst["left_out"], worst["robust_acc"]) == (4, 0, 1 / 4)


def test_a_sample_that_every_attack_left_out_is_nowhere(make_records):
    summary = summarise(make_records({"targeted:target=0": "LRB"}))
    assert list(summary["n"]) == [2, 2]
    assert list(summary["left_out"]) == [1, 1]


def test_targets_hit_are_a_share_of_the_attacked_with_a_target(make_records):
    columns = {"targeted": {"target": [1, 2, 3, -1], "target_hit": [True, False, True, False]}}
    summary = summarise(make_records({"targeted": "BRBW", "fgsm": "RRRW"}, columns=columns))
    assert row(summary, "targeted")["targeted_success"] == pytest.approx(2 / 3)
    assert math.isnan(row(summary, "fgsm")["targeted_success"])


@pytest.mark.parametrize("bad, low, high", [("F", 1 / 4, 2 / 4), ("N", 1 / 4, 1 / 4)])
def test_a_failed_sample_leaves_only_bounds_and_a_nan_answer_is_a_break(make_records, bad, low, high):
    pgd = row(summarise(make_records({"pgd": f"RBW{bad}"})), "pgd")
    if bad == "N":
        assert pgd["robust_acc"] == low
        return
    assert math.isnan(pgd["robust_acc"])
    assert math.isnan(pgd["success_rate"])
    assert (pgd["robust_acc_low"], pgd["robust_acc_high"], pgd["failed"]) == (low, high, 1)


def test_a_nan_answer_to_the_clean_image_is_wrong_there(make_records):
    columns = {"pgd": {"linf": [0.0, 0.1], "clean_prediction": [0, 1], "label": [0, 1]}}
    pgd = row(summarise(make_records({"pgd": "NN"}, columns=columns)), "pgd")
    assert (pgd["clean_acc"], pgd["robust_acc"], pgd["success_rate"]) == (1 / 2, 0, 1)


def test_the_worst_case_of_a_failed_sample_is_known_where_another_attack_broke_it(make_records):
    known = row(summarise(make_records({"fgsm": "RB", "pgd": "RF"})), WORST_CASE)
    assert (known["robust_acc"], known["failed"]) == (1 / 2, 0)
    unknown = row(summarise(make_records({"fgsm": "RR", "pgd": "RF"})), WORST_CASE)
    assert math.isnan(unknown["robust_acc"])
    assert (unknown["robust_acc_low"], unknown["robust_acc_high"]) == (1 / 2, 1)


def test_a_crash_before_the_clean_answer_takes_it_from_the_other_attacks(make_records):
    columns = {"pgd": {"clean_prediction": [-1, -1, -1]}}
    both = summarise(make_records({"fgsm": "RBW", "pgd": "FFF"}, columns=columns))
    assert row(both, "pgd")[["clean_acc", "robust_acc_low", "robust_acc_high"]].tolist() == [2 / 3, 0, 2 / 3]
    alone = row(summarise(make_records({"pgd": "FFF"}, columns=columns)), "pgd")
    assert math.isnan(alone["clean_acc"])
    assert alone[["robust_acc_low", "robust_acc_high"]].tolist() == [0, 1]


def test_a_cell_with_fewer_rows_than_expected_is_unfinished(make_records):
    records = make_records({"fgsm": "RRRW", "pgd": "RB"})
    cell = ("digits", "small-cnn", "none", "Linf:0.2")
    expected = {(*cell, "pgd"): 4, (*cell, "fgsm"): 4, (*cell, "bim"): 4}
    summary = summarise(records, expected=expected)
    assert list(summary["attack"]) == ["pgd", "fgsm", "bim", WORST_CASE]
    assert list(summary["n"]) == [4, 4, 4, 4]
    assert list(summary["failed"]) == [1, 0, 3, 2]  # the fourth is wrong on its clean image: fgsm's rows tell
    assert list(summary["robust_acc"].isna()) == [True, False, True, True]
    pgd = row(summary, "pgd")
    assert (pgd["robust_acc_low"], pgd["robust_acc_high"]) == (1 / 4, 2 / 4)


def test_samples_that_no_attack_reached_count_as_unfinished_too(make_records):
    cell = ("digits", "small-cnn", "none", "Linf:0.2", "pgd")
    summary = summarise(make_records({"pgd": "RB"}), expected={cell: 10})
    for _, one in summary.iterrows():
        assert (one["n"], one["failed"]) == (10, 8)
        assert (one["robust_acc_low"], one["robust_acc_high"]) == (1 / 10, 9 / 10)


def test_a_run_in_which_everything_failed_has_a_summary_without_numbers(make_records):
    none = make_records({"pgd": "R"}).iloc[:0]
    summary = summarise(none, expected={("digits", "mlp", "none", "Linf:0.2", "pgd"): 3})
    assert list(summary["n"]) == [3, 3]
    assert summary["robust_acc"].isna().all()


def test_a_sample_that_only_some_attacks_saw_has_no_worst_case_unless_it_is_broken(make_records):
    worst = row(summarise(make_records({"fgsm": "RRB", "pgd": "R  "})), WORST_CASE)
    assert math.isnan(worst["robust_acc"])
    assert (worst["robust_acc_low"], worst["robust_acc_high"]) == (1 / 3, 2 / 3)


def test_the_median_norm_is_over_the_initially_right_with_failures_infinite(make_records):
    columns = {"deepfool": {"l2": [0.1, 0.3, 0.0, 0.2, 9.0]}, "fmn": {"l2": [0.2, 0.2, 0.0, 0.4, 0.7]}}
    records = make_records({"deepfool": "BBWBR", "fmn": "BBWBB"}, threat="L2", columns=columns)
    summary = summarise(records)
    assert row(summary, "deepfool")["median_norm"] == pytest.approx(0.25)  # 0.1 0.2 0.3 inf
    assert row(summary, "fmn")["median_norm"] == pytest.approx(0.3)  # 0.2 0.2 0.4 0.7
    assert row(summary, WORST_CASE)["median_norm"] == pytest.approx(0.2)  # 0.1 0.2 0.2 0.7


@pytest.mark.parametrize("letters, median", [("RRB", math.inf), ("RB", math.inf), ("W", math.nan), ("BF", math.nan)])
def test_the_median_norm_is_infinite_or_unknown_rather_than_wrong(make_records, letters, median):
    found = row(summarise(make_records({"fmn": letters}, threat="L2")), "fmn")["median_norm"]
    assert found == pytest.approx(median, nan_ok=True)


def test_a_fixed_eps_run_has_no_median_norm(make_records):
    assert summarise(make_records({"pgd": "BBB"}))["median_norm"].isna().all()


def test_breaks_that_rounding_undoes_are_told(make_records):
    columns = {"pgd": {"broken_8bit": [True, False, False, False]}, "bim": {"broken_8bit": [False, True, False, False]}}
    summary = summarise(make_records({"pgd": "BBRR", "bim": "BBRR"}, columns=columns))
    assert list(summary["broken_8bit"]) == [1 / 4, 1 / 4, 2 / 4]


def test_seconds_come_from_the_timings_of_the_cell(make_records):
    records = pd.concat([make_records({"pgd": "RB", "fgsm": "RB"}), make_records({"pgd": "RB"}, defense="x")])
    none = records[records["defense"] == "none"]
    timings = pd.DataFrame(
        [timing(none, "pgd", seconds=2.0), timing(none, "pgd", seconds=3.0), timing(none, "fgsm", seconds=1.5)]
    )
    summary = summarise(records, timings)
    assert summary["seconds"].tolist()[:3] == [5.0, 1.5, 6.5]
    assert summary["seconds"].isna().tolist() == [False, False, False, True, True]


def test_a_crash_told_by_the_timings_alone_is_in_the_summary(make_records):
    records = make_records({"fgsm": "RRB"})
    lost = timing(records, "fgsm", failed="RuntimeError: no") | {"attack": "pgd", "key": "k"}
    summary = summarise(records, pd.DataFrame([timing(records, "fgsm"), lost]))
    pgd, worst = row(summary, "pgd"), row(summary, WORST_CASE)
    assert (pgd["n"], pgd["failed"], pgd["failure"]) == (3, 3, "RuntimeError: no")
    assert math.isnan(worst["robust_acc"])
    assert (worst["robust_acc_low"], worst["robust_acc_high"]) == (0, 2 / 3)


def test_a_crash_that_a_later_run_made_up_for_is_forgotten(make_records):
    records = make_records({"fgsm": "RRB"})
    summary = summarise(records, pd.DataFrame([timing(records, "fgsm", failed="OSError"), timing(records, "fgsm")]))
    assert list(summary["failure"]) == ["", ""]
    assert summary["robust_acc"].notna().all()


def test_needs_come_from_a_mapping_or_a_column_of_the_timings(make_records):
    records = make_records({"pgd": "RB", "noise": "RB"})
    timings = pd.DataFrame([timing(records, "pgd", needs="gradients"), timing(records, "noise", needs="labels")])
    assert list(summarise(records, timings)["needs"]) == ["gradients", "labels", "-"]
    assert list(summarise(records, needs={"pgd": "gradients"})["needs"]) == ["gradients", "", "-"]


def test_flags_name_what_fired_and_question_what_was_not_checked(make_records):
    system = {"dataset": "digits", "model": "small-cnn", "defense": "none", "threat": "Linf:0.2"}
    said = [("zero-gradients", "fired"), ("nan-scores", "clear"), ("invalid-examples", "unchecked")]
    diagnostics = pd.DataFrame([system | {"diagnostic": name, "status": status} for name, status in said])
    records = pd.concat([make_records({"pgd": "RB"}), make_records({"pgd": "RB"}, defense="x")])
    summary = summarise(records, diagnostics=diagnostics)
    assert list(summary["flags"]) == ["zero-gradients;invalid-examples?"] * 2 + [""] * 2


def test_rows_come_in_the_order_of_first_appearance(make_records):
    second, first = make_records({"pgd": "R", "fgsm": "R"}, defense="b"), make_records({"pgd": "R"}, defense="a")
    summary = summarise(pd.concat([second, first, make_records({"pgd": "R"}, threat="L2:1", defense="b")]))
    assert list(summary["defense"]) == ["b"] * 3 + ["a"] * 2 + ["b"] * 2
    assert list(summary["attack"]) == ["pgd", "fgsm", WORST_CASE, "pgd", WORST_CASE, "pgd", WORST_CASE]


def test_an_attack_that_ran_plain_and_adaptive_has_two_rows(make_records):
    records = pd.concat([make_records({"pgd": "RRR"}), make_records({"pgd": "RBB"}, adaptive=True)])
    summary = summarise(records)
    assert list(summary["adaptive"]) == [False, True, True]
    assert list(summary["robust_acc"]) == [1, 1 / 3, 1 / 3]


def test_bad_records_are_refused_in_a_sentence(make_records):
    records = make_records({"pgd": "RB"})
    with pytest.raises(UserError, match="there are no records"):
        summarise(records.iloc[:0])
    with pytest.raises(UserError, match="columns broken, valid are missing"):
        summarise(records.drop(columns=["valid", "broken"]))
    with pytest.raises(UserError, match="sample 0 occurs twice for pgd on small-cnn"):
        summarise(pd.concat([records, records.iloc[:1].assign(seed=1)]))


def test_the_records_are_left_alone(make_records):
    records = make_records({"pgd": "RBWF", "fgsm": "RB L"})
    before = records.copy(deep=True)
    summarise(records)
    pd.testing.assert_frame_equal(records, before)


def test_an_index_is_a_position_in_the_split_not_in_the_slice(make_records):
    columns = {"pgd": {"index": [7, 3, 900]}, "fgsm": {"index": np.array([3, 900, 7])}}
    worst = row(summarise(make_records({"pgd": "RRB", "fgsm": "BRR"}, columns=columns)), WORST_CASE)
    assert worst["robust_acc"] == 1 / 3  # 7 is kept; 3 and 900 are broken
