"""What holds of every summary, whatever the records."""

import math

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.results.compare import compare_rows
from robustbench_lite.results.fates import CELL
from robustbench_lite.results.metrics import WORST_CASE, summarise

ATTACKS = ("noise", "fgsm", "pgd:steps=40", "targeted")


@st.composite
def outcomes(draw, letters="RBWNI", clean=True):
    """Attack -> letters; a sample that is wrong on its clean image is so for every attack."""
    n = draw(st.integers(1, 12))
    attacks = draw(st.lists(st.sampled_from(ATTACKS), min_size=1, max_size=4, unique=True))
    rows = {attack: draw(st.text(letters, min_size=n, max_size=n)) for attack in attacks}
    first = rows[attacks[0]]
    if clean:
        rows = {a: "".join("W" if f == "W" else "B" if c == "W" else c for f, c in zip(first, text, strict=True))
                for a, text in rows.items()}  # fmt: skip
    return rows


@settings(max_examples=30, deadline=None)
@given(outcomes())
def test_the_worst_case_is_at_most_every_attack(make_records, rows):
    summary = summarise(make_records(rows))
    worst = summary["robust_acc"][summary["attack"] == WORST_CASE].item()
    assert worst <= summary["robust_acc"].min()
    assert worst >= summary["clean_acc"].max() - (1 - summary["robust_acc"][:-1]).sum() - 1e-9


@settings(max_examples=30, deadline=None)
@given(outcomes("RBWNIF"))
def test_bounds_hold_whatever_a_failed_sample_would_have_been(make_records, rows):
    summary = summarise(make_records(rows))
    as_broken = summarise(make_records({a: t.replace("F", "B") for a, t in rows.items()}))
    as_robust = summarise(make_records({a: t.replace("F", "R") for a, t in rows.items()}))
    for place, row in summary.iterrows():
        if math.isnan(row["robust_acc"]):
            assert row["robust_acc_low"] == as_broken["robust_acc"][place]
            assert row["robust_acc_high"] == as_robust["robust_acc"][place]
        else:
            assert row["robust_acc"] == as_broken["robust_acc"][place] == as_robust["robust_acc"][place]


@settings(max_examples=30, deadline=None)
@given(outcomes("RBWNILF"))
def test_an_interval_contains_its_estimate_and_shares_are_shares(make_records, rows):
    for _, row in summarise(make_records(rows)).iterrows():
        for name in ("clean_acc", "robust_acc"):
            if not math.isnan(row[name]):
                assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1
        if not math.isnan(row["success_rate"]):
            assert abs(row["robust_acc"] - row["clean_acc"] * (1 - row["success_rate"])) < 1e-9


@settings(max_examples=30, deadline=None)
@given(outcomes("RBWNILF"), outcomes("RBWNILF"), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(make_records, first, second, random):
    records = pd.concat([make_records(first), make_records(second, defense="other")], ignore_index=True)
    order = list(range(len(records)))
    random.shuffle(order)
    one, two = (_sorted(summarise(frame)) for frame in (records, records.iloc[order]))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


@settings(max_examples=30, deadline=None)
@given(outcomes(), outcomes())
def test_swapping_two_defenses_changes_only_the_sign(make_records, first, second):
    a, b = make_records(first), make_records(second, defense="other")
    there, back = compare_rows(pd.concat([a, b])), compare_rows(pd.concat([b, a]))
    assert there["difference"].tolist() == [-value for value in back["difference"]]
    assert there["p"].tolist() == back["p"].tolist()


def _sorted(summary):
    # Two attacks of equal name cannot be; the order of appearance is the only thing that may differ.
    return summary.sort_values(list(CELL)).reset_index(drop=True)
