"""The security curve, point by point."""

import pandas as pd
import pytest

from robustbench_lite.results.curve import COLUMNS, goal_of, security_curve
from robustbench_lite.results.statistics import clopper_pearson


def points(curve, attack):
    own = curve[curve["attack"] == attack]
    return list(zip(own["eps"], own["robust_acc"], strict=True))


def test_several_eps_make_a_curve_that_begins_at_clean_accuracy(make_records):
    records = [make_records({"fgsm": "RRBW", "pgd": "RBBW"}, threat="Linf:0.2")]
    records += [make_records({"fgsm": "RRRW", "pgd": "RRBW"}, threat="Linf:0.1")]
    curve = security_curve(pd.concat(records))
    assert tuple(curve.columns) == COLUMNS
    assert points(curve, "fgsm") == [(0, 3 / 4), (0.1, 3 / 4), (0.2, 2 / 4)]
    assert points(curve, "pgd") == points(curve, "worst-case") == [(0, 3 / 4), (0.1, 2 / 4), (0.2, 1 / 4)]
    assert tuple(curve.iloc[2][["low", "high"]]) == clopper_pearson(2, 4)


def test_one_eps_makes_no_curve(make_records):
    records = pd.concat([make_records({"pgd": "RB"}), make_records({"pgd": "RB"}, threat="L2:0.5")])
    assert security_curve(records).empty


def test_a_failed_point_has_only_its_bounds(make_records):
    records = [make_records({"pgd": "RRFW"}, threat="Linf:0.1"), make_records({"pgd": "RBBW"}, threat="Linf:0.2")]
    curve = security_curve(pd.concat(records))
    bounds = curve[(curve["attack"] == "pgd") & (curve["eps"] == 0.1)].iloc[0]
    assert bounds[["robust_acc", "low", "high"]].tolist()[1:] == [2 / 4, 3 / 4]
    assert pd.isna(bounds["robust_acc"])


def test_one_minimum_norm_run_gives_the_whole_curve(make_records):
    columns = {"fmn": {"l2": [0.5, 0.25, 0.0, 0.0, 0.25]}, "ddn": {"l2": [0.75, 0.125, 0.0, 0.0, 0.5]}}
    curve = security_curve(make_records({"fmn": "BBRWB", "ddn": "BBRWB"}, threat="L2", columns=columns))
    assert points(curve, "fmn") == [(0, 4 / 5), (0.25, 2 / 5), (0.5, 1 / 5)]
    assert points(curve, "worst-case") == [(0, 4 / 5), (0.125, 3 / 5), (0.25, 2 / 5), (0.5, 1 / 5)]
    assert set(curve["norm"]) == {"L2"}


def test_a_failed_minimum_norm_run_has_no_curve(make_records):
    assert security_curve(make_records({"fmn": "BBF"}, threat="L2")).empty


def test_a_long_minimum_norm_curve_is_thinned_and_keeps_its_ends(make_records):
    n = 1000
    distances = [(place + 1) / n for place in range(n)]
    curve = security_curve(make_records({"fmn": "B" * n}, threat="L2", columns={"fmn": {"l2": distances}}))
    fmn = points(curve, "fmn")
    assert len(fmn) == 200
    assert (fmn[0], fmn[-1]) == ((0, 1), (1, 0))
    assert all(accuracy == pytest.approx(1 - eps) for eps, accuracy in fmn)


@pytest.mark.parametrize(
    "threat, goal",
    [
        ("Linf:8/255", ""),
        ("L2", ""),
        ("Linf:0.1,goal=targeted,target=next", ",goal=targeted,target=next"),
        ("L2:goal=targeted", ",goal=targeted"),
    ],
)
def test_what_a_threat_says_besides_its_eps(threat, goal):
    assert goal_of(threat) == goal


def test_curves_of_different_goals_do_not_join(make_records):
    def records(threat, eps):
        return make_records({"pgd": "RB"}, threat="Linf:0.1", columns={"pgd": {"threat": threat, "eps": eps}})

    mixed = [records("Linf:0.1", 0.1), records("Linf:0.2,goal=targeted", 0.2)]
    assert security_curve(pd.concat(mixed)).empty
    curve = security_curve(pd.concat([*mixed, records("Linf:0.4,goal=targeted", 0.4)]))
    assert set(curve["norm"]) == {"Linf,goal=targeted"}
