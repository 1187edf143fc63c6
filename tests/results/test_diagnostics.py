"""Each rule on numbers by hand: when it fires, when it is clear, and when it could not be checked."""

import math
from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.results import diagnostics as d
from robustbench_lite.results.metrics import summarise
from robustbench_lite.results.thresholds import THRESHOLDS, threshold_table

DOCS = Path(__file__).parents[2] / "docs" / "diagnostics.md"


def test_invalid_examples_fire_from_one_on(make_records):
    found = d.invalid_examples(make_records({"pgd": "RII", "fgsm": "RFL"}))
    assert (found.status, found.value, found.n, found.detail) == ("fired", 2, 4, "2 outside-threat")
    assert d.invalid_examples(make_records({"pgd": "RBW"})).status == "clear"


def test_nan_scores_fire_from_one_on(make_records):
    assert d.nan_scores(make_records({"pgd": "RN"})).status == "fired"
    assert d.nan_scores(make_records({"pgd": "RB"})).status == "clear"


@pytest.mark.parametrize("only_noise, status", [(0, "clear"), (1, "clear"), (2, "fired")])
def test_noise_beats_gradient_above_half_a_percent(make_records, only_noise, status):
    n = 200
    noise = "B" * only_noise + "R" * (n - only_noise)
    found = d.noise_beats_gradient(make_records({"noise:draws=9": noise, "fgsm": "R" * n, "pgd": "R" * n}))
    assert (found.status, found.value, found.n) == (status, only_noise / n, n)
    assert found.detail == "noise:draws=9 against fgsm, pgd"


def test_noise_does_not_beat_gradients_that_break_the_same_samples(make_records):
    assert d.noise_beats_gradient(make_records({"noise": "BBR", "fgsm": "BRR", "pgd": "RBR"})).value == 0


def test_noise_beats_gradient_takes_gradient_attacks_from_needs(make_records):
    records = make_records({"noise": "BB", "mine": "RR", "square": "BB"})
    assert d.noise_beats_gradient(records).status == "unchecked"
    found = d.noise_beats_gradient(records, {"mine": "gradients", "square": "scores", "noise": "labels"})
    assert (found.status, found.value) == ("fired", 1)


@pytest.mark.parametrize("attacks", [{"noise": "BB"}, {"pgd": "BB"}])
def test_noise_beats_gradient_is_unchecked_without_both_kinds(make_records, attacks):
    found = d.noise_beats_gradient(make_records(attacks))
    assert found.status == "unchecked"
    assert math.isnan(found.value)
    assert "was run" in found.detail


def test_one_step_beats_iterative_only_where_no_iterative_attack_breaks(make_records):
    found = d.one_step_beats_iterative(make_records({"fgsm": "BBBR", "bim": "BRRR", "pgd": "RBRR"}))
    assert (found.status, found.value, found.n) == ("fired", 1 / 4, 4)


def test_one_step_of_pgd_is_a_one_step_attack(make_records):
    found = d.one_step_beats_iterative(make_records({"pgd:steps=1": "BR", "pgd:steps=10": "RR"}))
    assert found.value == 1 / 2


def test_one_step_is_not_set_against_a_cascade_that_follows_no_gradient(make_records):
    cascade = "autoattack:components=square"
    records = make_records({"fgsm": "BB", cascade: "RR"})
    found = d.one_step_beats_iterative(records, {"fgsm": "gradients", cascade: "scores"})
    assert (found.status, found.detail) == ("unchecked", "no iterative gradient attack at fixed eps was run")
    assert d.one_step_beats_iterative(records, {"fgsm": "gradients", cascade: "gradients"}).status == "fired"


def test_samples_without_a_verdict_or_left_out_are_not_compared(make_records):
    found = d.one_step_beats_iterative(make_records({"fgsm": "BBBR", "pgd": "FRBR", "targeted": "RLRR"}))
    assert (found.value, found.n) == (0, 2)


def test_minimum_norm_runs_are_not_compared(make_records):
    assert d.one_step_beats_iterative(make_records({"fgsm": "B", "pgd": "R"}, threat="L2")).status == "unchecked"


@pytest.mark.parametrize("only_square, status", [(1, "clear"), (2, "fired")])
def test_a_black_box_attack_may_break_one_of_a_hundred_alone(make_records, only_square, status):
    square = "B" * only_square + "R" * (100 - only_square)
    found = d.black_box_beats_gradient(make_records({"square": square, "pgd": "R" * 100, "noise": "B" * 100}))
    assert (found.status, found.value) == (status, only_square / 100)
    assert found.detail == "square against pgd"


@pytest.mark.parametrize("n", [3, 20, 92, 100, 1000])
@pytest.mark.parametrize("name, forgiven", [("black-box-beats-gradient", 1), ("doubling-breaks-more", 2)])
def test_of_fewer_than_a_hundred_samples_as_many_are_forgiven(name, forgiven, n):
    forgiven *= max(1, n // 100)
    assert d.judged(name, forgiven / n, n).status == "clear"
    assert d.judged(name, (forgiven + 1) / n, n).status == "fired"
    assert d.judged("noise-beats-gradient", 1 / n, n).status == ("clear" if n == 1000 else "fired")


def test_what_is_a_black_box_attack_follows_from_needs(make_records):
    records = make_records({"mine": "BB", "pgd": "RR", "noise": "BB", "transfer": "BB"})
    assert d.black_box_beats_gradient(records).status == "unchecked"
    needs = {"mine": "labels", "pgd": "gradients", "noise": "labels", "transfer": "nothing"}
    assert d.black_box_beats_gradient(records, needs).detail == "mine against pgd"
    assert d.transfer_beats_gradient(records, needs).detail == "transfer against pgd"


def late(make_records, letters, break_forward, budget=100):
    records = make_records(letters)
    return records.assign(forwards=budget, break_forward=break_forward)


def test_breaks_in_the_last_tenth_of_the_budget_are_late(make_records):
    found = d.not_converged(late(make_records, {"pgd": "BBBR"}, [90, 91, 91, -1]))
    assert (found.status, found.value, found.n) == ("fired", 2 / 4, 4)
    assert d.not_converged(late(make_records, {"pgd": "BBBR"}, [90, 10, 91, -1])).status == "clear"  # one is forgiven
    assert d.not_converged(late(make_records, {"pgd": "BBRR"}, [90, 10, -1, -1])).value == 0


def test_a_late_break_of_what_another_attack_broke_is_forgiven(make_records):
    records = late(make_records, {"pgd": "BBR", "fgsm": "BRR"}, [95, 96, -1, 1, -1, -1])
    assert d.not_converged(records).value == pytest.approx(1 / 3)


def test_convergence_is_unchecked_without_an_iterative_attack(make_records):
    assert d.not_converged(make_records({"fgsm": "BR", "noise": "BR"})).status == "unchecked"


def denied(make_records, letters, counts, **columns):
    return make_records({"pgd": letters}, columns={"pgd": {"denied": counts, **columns}})


def test_breaks_that_the_verdict_denies_count_where_the_sample_ends_unbroken(make_records):
    found = d.denied_by_verdict(denied(make_records, "RRRBW", [3, 1, 0, 5, 0]))
    assert (found.status, found.value, found.n) == ("fired", 2 / 4, 4)
    assert d.denied_by_verdict(denied(make_records, "RRRBW", [1, 0, 0, 5, 0])).status == "clear"  # one is forgiven
    assert d.denied_by_verdict(denied(make_records, "BB", [3, 1])).value == 0


def test_a_denied_break_that_another_attack_confirms_does_not_count(make_records):
    records = make_records({"pgd": "RR", "fgsm": "BR"}, columns={"pgd": {"denied": [1, 0]}})
    assert d.denied_by_verdict(records).value == 0
    rows = summarise(records).set_index("attack")["denied"]
    assert rows.to_dict() == {"pgd": 1 / 2, "fgsm": 0, "worst-case": 0}


@pytest.mark.parametrize("columns", [{"draws": 20}, {"eps": math.nan}, {"denied": math.nan}])
def test_denied_breaks_mean_nothing_where_answers_vary_or_the_norm_is_sought(make_records, columns):
    records = make_records({"pgd": "RR"}, columns={"pgd": {"denied": 1, **columns}})
    assert d.denied_by_verdict(records).status == "unchecked"


@pytest.mark.parametrize("fraction, status", [(0.0, "clear"), (0.001, "fired"), (None, "unchecked")])
def test_zero_gradients(fraction, status):
    assert d.zero_gradients(fraction, 100).status == status


def at(make_records, letters):
    return pd.concat([make_records({"pgd": text}, threat=threat) for threat, text in letters.items()])


@pytest.mark.parametrize(
    "low, high, rise, status",
    [("RBBB", "BBBB", 0, "clear"), ("RBBB", "RRBB", 1, "clear"), ("RBBB", "RRRB", 2, "fired")],
)
def test_robust_accuracy_may_rise_by_one_sample(make_records, low, high, rise, status):
    found = d.not_monotone_in_eps(at(make_records, {"Linf:0.2": high, "Linf:0.1": low}))
    assert (found.status, found.value, found.n) == (status, pytest.approx(rise), 4)


def test_a_rise_counts_from_the_lowest_point_before_it(make_records):
    letters = {"Linf:0.1": "RRRR", "Linf:0.2": "BBBB", "Linf:0.3": "RBBB", "Linf:0.4": "RRBB"}
    assert d.not_monotone_in_eps(at(make_records, letters)).value == pytest.approx(2)


def test_eps_zero_must_give_the_clean_accuracy(make_records):
    assert d.not_monotone_in_eps(at(make_records, {"Linf:0": "RRW"})).status == "clear"
    assert d.not_monotone_in_eps(at(make_records, {"Linf:0": "RBW"})).status == "fired"


def test_a_single_eps_is_unchecked_unless_a_probe_measured_more(make_records):
    records = at(make_records, {"Linf:0.1": "RB"})
    assert d.not_monotone_in_eps(records).status == "unchecked"
    assert (
        d.not_monotone_in_eps(records, curve=[(0, 0.9), (0.1, 0.5), (0.2, 0.1)], n=10, clean_acc=0.9).status == "clear"
    )
    assert d.not_monotone_in_eps(curve=[(0.2, 0.5), (0.1, 0.1)], n=10).status == "fired"
    assert d.not_monotone_in_eps(curve=[(0, 0.8), (0.1, 0.1)], n=10, clean_acc=0.9).value == math.inf


@pytest.mark.parametrize("robust_acc, status", [(0.0, "clear"), (0.1, "clear"), (0.11, "fired"), (None, "unchecked")])
def test_an_unbounded_adversary_must_reach_the_class_prior(robust_acc, status):
    assert d.survives_unbounded_eps(robust_acc, 0.1, 100).status == status


@pytest.mark.parametrize("found, status", [(True, "fired"), (False, "clear"), (None, "unchecked")])
def test_probabilities_are_told_from_logits(found, status):
    assert d.outputs_are_probabilities(found, 100).status == status


def test_what_records_can_answer_becomes_the_flags_of_the_summary(make_records):
    records = pd.concat(
        [
            make_records({"noise": "BRR", "fgsm": "RBR", "pgd": "RRR"}),
            make_records({"pgd": "III"}, defense="x"),
            make_records({"pgd": "RRR"}, defense="x", threat="Linf:0.3"),
        ]
    )
    frame = d.frame(d.from_records(records))
    assert tuple(frame.columns) == d.COLUMNS
    assert len(frame) == 3 * 9
    flags = summarise(records, diagnostics=frame).groupby(["defense", "threat"], sort=False)["flags"].first()
    weak = "noise-beats-gradient?;black-box-beats-gradient?;transfer-beats-gradient?;one-step-beats-iterative?"
    assert flags.tolist() == [
        "noise-beats-gradient;black-box-beats-gradient?;transfer-beats-gradient?;one-step-beats-iterative;"
        "not-monotone-in-eps?",
        f"invalid-examples;{weak}",
        weak,
    ]


def test_no_records_make_an_empty_table(make_records):
    assert d.frame(d.from_records(make_records({"pgd": "R"}).iloc[:0])).empty


def test_the_documentation_holds_the_threshold_table_and_explains_each():
    text = DOCS.read_text(encoding="utf-8")
    assert threshold_table() in text
    for name in THRESHOLDS:
        assert f"\n## {name}\n" in text


def test_the_texts_of_the_limits_are_the_limits():
    for threshold in THRESHOLDS.values():
        number = float(threshold.limit_text.split()[0]) / (100 if "%" in threshold.limit_text else 1)
        assert number == threshold.limit
