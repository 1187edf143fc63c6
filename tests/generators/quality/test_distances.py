"""Fréchet distance, kernel distance and classifier score against closed forms; the digits through a real classifier."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from robustbench_lite import data
from robustbench_lite.generators.quality.distances import classifier_score, frechet, kernel_distance
from robustbench_lite.generators.quality.features import look
from robustbench_lite.generators.quality.judges import taught
from robustbench_lite.generators.quality.manifolds import density_coverage, precision_recall


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(mean: Tensor, covariance: Tensor, count: int = 200, seed: int = 0) -> Tensor:
    """Rows whose own mean and covariance are exactly these."""
    rows = random(count, len(mean), seed=seed)
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_identical_sets_are_at_no_distance_even_with_dead_features():
    rows = 50 * random(300, 40).clamp(min=0)
    rows[:, :7] = 0
    assert frechet(rows, rows) < 1e-4
    assert frechet(rows[:30], rows[:30].flip(0)) < 1e-4  # fewer rows than features


def test_the_distance_of_gaussians_is_the_closed_form():
    shift, one, other = (
        torch.tensor([3.0, 0, -1, 0]).double(),
        torch.tensor([1.0, 2, 3, 4]).double(),
        torch.tensor([4.0, 1, 3, 9]).double(),
    )
    known = 10 + float((one.sqrt() - other.sqrt()).pow(2).sum())
    found = frechet(exact(torch.zeros(4).double(), one.diag()), exact(shift, other.diag(), seed=1))
    assert found == pytest.approx(known, rel=1e-9)


def test_covariances_that_do_not_commute_agree_with_the_matrix_root():
    factors = random(5, 5), random(5, 5, seed=1)
    one, other = (factor @ factor.T + torch.eye(5) for factor in factors)
    known = float(one.trace() + other.trace() - 2 * np.trace(np.real(sqrtm((one @ other).numpy()))))
    zero = torch.zeros(5).double()
    assert frechet(exact(zero, one), exact(zero, other, seed=3)) == pytest.approx(known, rel=1e-8)


def test_the_kernel_distance_is_the_double_sum_without_the_diagonal():
    one, other = random(7, 3), random(5, 3, seed=1) + 0.5

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = np.mean([kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j])
    across = np.mean([kernel(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j])
    between = np.mean([kernel(a, b) for a in one for b in other])
    assert kernel_distance(one, other) == pytest.approx(within + across - 2 * between)


def test_the_kernel_distance_of_two_halves_is_zero_in_the_mean_at_any_size():
    for size in (20, 200):
        found = np.array([kernel_distance(*random(2 * size, 4, seed=seed).split(size)) for seed in range(60)])
        error = found.std(ddof=1) / math.sqrt(len(found))
        assert abs(found.mean()) < 4 * error
        assert found.min() < 0
    assert kernel_distance(random(200, 4), random(200, 4, seed=1) + 1) > 20 * error


def test_the_score_is_one_for_one_class_and_the_number_of_classes_for_all():
    sure = torch.eye(10).repeat(5, 1)
    assert classifier_score(sure) == pytest.approx(10)
    assert classifier_score(sure[:1].repeat(50, 1)) == pytest.approx(1)
    assert classifier_score(torch.full((50, 10), 0.1)) == pytest.approx(1)
    assert classifier_score(sure[sure[:, :4].any(1)]) == pytest.approx(4)


@pytest.fixture(scope="module")
def judge():
    return taught(data.load("digits", "train"), epochs=4)


@pytest.fixture(scope="module")
def halves():
    train = data.load("digits", "train")
    order = np.random.default_rng(0).permutation(len(train))
    return [(train.batch(rows), train.labels_at(rows)) for rows in (order[:670], order[670:1340])]


def test_growing_noise_moves_the_digits_away_step_by_step(judge, halves):
    (x, _), (other, _) = halves
    real = look(judge, x).features
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    seen = [look(judge, (other + sigma * noise).clamp(0, 1)).features for sigma in (0, 0.1, 0.2, 0.4, 0.8)]
    for distance in (frechet, kernel_distance):
        found = [distance(real, features) for features in seen]
        assert all(low < high for low, high in pairwise(found)), found
    assert frechet(real, real) < 1e-4


def test_lost_classes_lower_recall_and_coverage_and_not_precision(judge, halves):
    (x, _), (other, y) = halves
    real, whole = look(judge, x).features, look(judge, other).features
    part = whole[y < 5]
    full, dropped = precision_recall(real, whole), precision_recall(real, part)
    assert dropped["recall"] < full["recall"] - 0.2
    assert dropped["precision"] > full["precision"] - 0.05
    assert density_coverage(real, part)["coverage"] < density_coverage(real, whole)["coverage"] - 0.2
    assert density_coverage(real, whole)["density"] == pytest.approx(1, abs=0.15)
