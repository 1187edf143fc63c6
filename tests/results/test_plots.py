"""The pictures are made, of the right size, without touching matplotlib's global state."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from robustbench_lite.results.curve import security_curve
from robustbench_lite.results.metrics import as_shown, summarise
from robustbench_lite.results.plots import _scale, plot_bars, plot_curve, plot_examples


@pytest.fixture
def records(make_records):
    runs = [(e, d, text) for e, text in ((0.1, "RRBW"), (0.2, "RBBW")) for d in ("none", "x")]
    frames = [make_records({"pgd": text, "fgsm": "RRRW"}, defense=d, threat=f"Linf:{e}") for e, d, text in runs]
    return pd.concat(frames, ignore_index=True)


def colours(path):
    image = matplotlib.image.imread(path)
    return image.shape[:2], len(np.unique(image.reshape(-1, image.shape[2]).round(2), axis=0))


def test_curve_and_bars_are_drawn_and_the_callers_settings_left_alone(records, tmp_path):
    before = dict(mpl.rcParams)
    for path in (
        plot_curve(security_curve(records), tmp_path / "curve.png"),
        plot_bars(summarise(records), tmp_path / "bars.png"),
    ):
        (height, width), shades = colours(path)
        assert width >= 1200
        assert height >= 500
        assert shades > 10
    assert dict(mpl.rcParams) == before


def test_a_cell_without_a_verdict_is_drawn_by_its_bounds(make_records, tmp_path):
    assert plot_bars(summarise(make_records({"pgd": "RFB"})), tmp_path / "bars.png").exists()


def test_of_a_plain_and_an_adaptive_run_pictures_show_the_lower(make_records, tmp_path):
    frames = [
        make_records({"pgd": text}, defense="d", threat=f"Linf:{eps}").assign(adaptive=adaptive)
        for eps in (0.1, 0.2)
        for adaptive, text in ((False, "RRRW"), (True, "RBBW"))
    ]
    records = pd.concat(frames, ignore_index=True)
    shown = as_shown(summarise(records))
    assert shown.loc[shown["attack"] == "pgd", ["adaptive", "robust_acc"]].values.tolist() == [[True, 0.25]] * 2
    curve = security_curve(records)
    assert set(curve.loc[(curve["attack"] == "pgd") & (curve["eps"] > 0), "robust_acc"]) == {0.25}
    assert plot_bars(summarise(records), tmp_path / "bars.png").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_are_drawn_grey_and_in_colour(channels, tmp_path):
    clean = np.full((2, channels, 8, 8), 0.5)
    numbers = {"labels": [0, 1], "clean_predictions": [0, 1], "predictions": [1, 1]}
    path = plot_examples(tmp_path / "e.png", clean=clean, adversarial=clean + 0.1, rows=["a", "b"], **numbers)
    assert colours(path)[1] > 3


def test_the_same_picture_is_the_same_bytes(records, tmp_path):
    curve = security_curve(records)
    first, second = plot_curve(curve, tmp_path / "a.png"), plot_curve(curve, tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("largest, scale", [(0.0, 1), (1.0, 1), (0.25, 2), (0.2, 2), (8 / 255, 10), (1 / 255, 100)])
def test_perturbations_are_enlarged_as_far_as_grey_reaches(largest, scale):
    assert _scale(np.array([0.0, -largest])) == scale


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8), (1, 8, 8)])
def test_examples_of_other_shapes_are_refused(shape, tmp_path):
    zeros = np.zeros(shape)
    with pytest.raises(ValueError, match="examples need"):
        plot_examples(
            tmp_path / "e.png", clean=zeros, adversarial=zeros, labels=[], clean_predictions=[], predictions=[]
        )


def test_nothing_to_draw_is_refused(make_records, tmp_path):
    nearest = make_records({"fmn": "RF"}, threat="L2")
    for draw, numbers in ((plot_bars, summarise(nearest)), (plot_curve, security_curve(nearest))):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(numbers, tmp_path / "none.png")


def test_three_models_with_different_defenses_are_drawn_in_panels(make_records, tmp_path):
    runs = [("a", "none"), ("b", "none"), ("b", "x"), ("c", "x")]
    frames = [make_records({"pgd": "RB"}, model=m, defense=d, threat=t) for m, d in runs for t in ("L2:1", "L2:2")]
    records = pd.concat(frames)
    assert plot_curve(security_curve(records), tmp_path / "curve.png").exists()
    assert plot_bars(summarise(records), tmp_path / "bars.png").exists()


def test_results_import_neither_torch_nor_matplotlib():
    modules = ", ".join(f"robustbench_lite.results.{name}" for name in ("diagnostics", "tables", "plots", "compare"))
    code = f"import sys, {modules}; assert not {{'torch', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
