"""Two defenses of the same model, paired by image."""

import math

import pandas as pd
import pytest

from robustbench_lite.results.compare import COLUMNS, compare_rows, lines
from robustbench_lite.results.statistics import mcnemar_exact


def test_defenses_of_a_model_are_compared_by_their_worst_case(make_records):
    none = make_records({"fgsm": "RRBBBBBB", "pgd": "BRRRRRRW"})  # kept: 1
    other = make_records({"fgsm": "RBRRRRRR", "pgd": "RRRRRRRW"}, defense="trained")  # kept: all but 1 and 7
    frame = compare_rows(pd.concat([none, other]))
    (row,) = frame.to_dict("records")
    assert tuple(frame.columns) == COLUMNS
    assert (row["first"], row["second"], row["n"]) == ("none", "trained", 8)
    assert (row["only_first"], row["only_second"]) == (1, 6)
    assert row["difference"] == pytest.approx(5 / 8)
    assert row["p"] == row["p_holm"] == mcnemar_exact(1, 6)


def test_three_defenses_make_three_pairs_corrected_together(make_records):
    letters = {"none": "BBBBBBBB", "a": "RRRRRRRB", "b": "RRRRRRRR"}
    frame = compare_rows(pd.concat([make_records({"pgd": text}, defense=name) for name, text in letters.items()]))
    assert [tuple(pair) for pair in frame[["first", "second"]].to_numpy()] == [("none", "a"), ("none", "b"), ("a", "b")]
    assert frame["p"].tolist() == pytest.approx([2 / 2**7, 2 / 2**8, 1])
    assert frame["p_holm"].tolist() == pytest.approx([4 / 2**7, 6 / 2**8, 1])


def test_other_models_datasets_and_threats_are_not_compared(make_records):
    frames = [make_records({"pgd": "RB"}), make_records({"pgd": "RB"}, model="mlp", defense="a")]
    frames += [make_records({"pgd": "RB"}, dataset="mnist", defense="b")]
    frames += [make_records({"pgd": "RB"}, threat="L2:1", defense="c")]
    assert compare_rows(pd.concat(frames)).empty


def test_a_crash_is_not_evidence(make_records):
    frame = compare_rows(pd.concat([make_records({"pgd": "RFB"}), make_records({"pgd": "RRR"}, defense="x")]))
    assert math.isnan(frame["p"].item())
    assert "not compared" in lines(frame, "digits", "Linf:0.2")[1]


def test_only_images_that_both_saw_are_compared(make_records):
    frame = compare_rows(pd.concat([make_records({"pgd": "RBBB"}), make_records({"pgd": "RR"}, defense="x")]))
    assert frame["n"].item() == 2


def test_the_lines_say_what_was_tested(make_records):
    none, trained = make_records({"pgd": "B" * 20}), make_records({"pgd": "R" * 20}, defense="x")
    assert lines(compare_rows(pd.concat([none, trained])), "digits", "Linf:0.2") == (
        "Worst case, paired by image; p of the exact McNemar test:",
        "small-cnn: x minus none: +100.0 points, p < 0.0001 (n = 20)",
    )
    assert lines(compare_rows(none), "digits", "Linf:0.2") == ()
