"""How well a detector tells examples from clean images: against hand counts and scikit-learn."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from robustbench_lite.results.detection import COLUMNS, ROC, auc, curve, detection, roc, scores_of, table, tpr_at
from robustbench_lite.results.detection_plot import plot_detection
from robustbench_lite.results.tables import text


@pytest.fixture
def guarded(make_records) -> pd.DataFrame:
    """Eight samples: two robust ones (one answered wrongly and rejected), three that pass, one wrong and one rejected on its
    clean image, one left out."""
    scores = {
        "score": [0.1, 0.9, 0.3, 0.4, 0.2, math.nan, 0.8, math.nan],
        "clean_score": [0.1, 0.2, 0.0, 0.3, 0.2, 0.7, 0.8, 0.1],
        "rejected": [False, True, False, False, False, False, True, False],
    }
    frame = make_records({"pgd": "RRBBBWWL"}, defense="safetynet", adaptive=True, columns={"pgd": scores})
    frame.loc[1, "prediction"] = frame.loc[1, "label"] + 1
    frame.loc[6, "clean_prediction"] = frame.loc[6, "label"]
    return frame


def test_the_figures_are_those_counted_by_hand(guarded):
    (row,) = detection(guarded).to_dict("records")
    assert (row["n"], row["negatives"], row["positives"]) == (7, 7, 4)
    negative, positive = [0.1, 0.2, 0.0, 0.3, 0.2, 0.8, 0.1], [0.9, 0.3, 0.4, 0.2]
    pairs = [(p > q) + (p == q) / 2 for p in positive for q in negative]
    assert row["auc"] == pytest.approx(np.mean(pairs))
    assert row["tpr_at_5"] == row["tpr_at_1"] == 1 / 4  # no negative may lie above: the threshold is 0.8
    assert row["clean_rejected"] == 1 / 7
    assert row["robust_acc"] == 2 / 7
    assert row["wrong_accepted"] == 3 / 7
    assert row["wrong_rejected"] == 1 / 7


def test_a_system_without_detector_has_no_figures(make_records):
    records = make_records({"pgd": "RRB"})
    assert list(detection(records).columns) == list(COLUMNS)
    assert detection(records).empty
    assert roc(records).empty
    with pytest.raises(ValueError, match="no system has a detector"):
        plot_detection(records, None)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_curve_are_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    negative, positive = random.integers(0, 12, 40) / 4, random.integers(3, 15, 25) / 4
    labels, scores = np.repeat((0, 1), (40, 25)), np.concatenate((negative, positive))
    assert auc(negative, positive) == pytest.approx(roc_auc_score(labels, scores))
    _, alarms, hits = curve(negative, positive)
    theirs = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(alarms, theirs[0])
    assert np.allclose(hits, theirs[1])
    for rate in (0.01, 0.05, 0.5):
        assert tpr_at(rate, negative, positive) == pytest.approx(hits[alarms <= rate + 1e-9].max())


def test_without_positives_there_is_no_area(make_records):
    records = make_records({"fgsm": "RR"}, defense="kde", columns={"fgsm": {"score": 0.5, "clean_score": 0.5}})
    (row,) = detection(records).to_dict("records")
    assert math.isnan(row["auc"])
    assert math.isnan(row["tpr_at_5"])
    assert roc(records).empty


def test_plain_and_adaptive_rows_stand_apart(guarded, tmp_path):
    plain = guarded.assign(adaptive=False, broken=False, rejected=True)
    both = pd.concat((plain, guarded), ignore_index=True)
    assert list(detection(both)["adaptive"]) == [False, True]
    corners = roc(both)
    assert list(corners.columns) == list(ROC)
    for _, own in corners.groupby("adaptive"):
        assert own["tpr"].is_monotonic_increasing
        assert own["fpr"].is_monotonic_increasing
        assert (own["fpr"].iloc[-1], own["tpr"].iloc[-1]) == (1, 1)
    shown = text(table(detection(both)))
    assert "pgd (plain)" in shown
    assert "safetynet" in shown
    path = plot_detection(both, tmp_path / "roc.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_invalid_examples_are_no_positives(guarded):
    guarded.loc[2, "valid"] = False
    assert len(scores_of(guarded)[1]) == 3
