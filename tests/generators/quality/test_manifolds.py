"""Precision, recall, density and coverage on points whose balls can be drawn by hand."""

import pytest
import torch

from robustbench_lite.generators.quality.manifolds import density_coverage, nearest, precision_recall, reach

#: on a line; with one neighbour the radii are 1, 1, 2, and 7
REAL = torch.tensor([[0.0], [1.0], [3.0], [10.0]])


def test_a_ball_reaches_to_the_kth_nearest_other():
    assert reach(REAL, 1).sqrt().tolist() == [1, 1, 2, 7]
    assert reach(REAL, 2).sqrt().tolist() == [3, 2, 3, 9]
    many = torch.randn(2500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = torch.cdist(many, many).sort(1).values[:, 3]
    torch.testing.assert_close(reach(many, 3).sqrt(), known)


def test_precision_and_recall_by_hand():
    fake = torch.tensor([[0.5], [-1.5], [2.5], [20.0]])  # radii 2, 2, 2, 17.5
    found = precision_recall(REAL, fake, neighbours=1)
    assert found["precision"] == 0.5  # -1.5 and 20 are in no ball of a real one
    assert found["recall"] == 1
    assert precision_recall(fake, REAL, neighbours=1) == {"precision": 1, "recall": 0.5}


def test_density_and_coverage_by_hand():
    fake = torch.tensor([[0.5], [0.5], [2.0], [30.0]])
    # 0.5 lies in the balls of 0 and of 1; 2 in those of 1 and of 3; 30 in none; 10 reaches down to 3
    assert density_coverage(REAL, fake, neighbours=1) == {"density": 6 / 4, "coverage": 0.75}


def test_the_same_rows_are_inside_and_far_ones_are_outside():
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert precision_recall(rows, rows) == {"precision": 1, "recall": 1}
    assert density_coverage(rows, rows)["coverage"] == 1
    assert precision_recall(rows, rows + 100) == {"precision": 0, "recall": 0}
    assert density_coverage(rows, rows + 100) == {"density": 0, "coverage": 0}


def test_an_outlier_deceives_precision_but_not_density():
    rows = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = torch.cat((rows, torch.tensor([[60.0, 0.0]]).double()))
    far = torch.tensor([[30.0, 0.0]]).double() + 0.1 * rows
    assert precision_recall(real, far)["precision"] == 1
    assert density_coverage(real, far)["density"] <= 0.2


def test_the_nearest_is_found_over_images_in_blocks():
    x = torch.rand(2300, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    others = torch.rand(50, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    known = torch.cdist(x.flatten(1).double(), others.flatten(1).double()).amin(1).float()
    torch.testing.assert_close(nearest(x, others), known, rtol=1e-3, atol=1e-3)
    assert float(nearest(x, x).max()) == pytest.approx(0, abs=2e-3)
