"""Copies and duplicates."""

import pytest
import torch
from torch import Tensor

from robustbench_lite import data
from robustbench_lite.generators.quality.judges import usefulness
from robustbench_lite.generators.quality.manifolds import nearest
from robustbench_lite.generators.quality.memorisation import copy_figures, same_distance, support


def uniform(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


TRAIN, REAL = uniform(500, 0), uniform(400, 1)
UNSEEN = nearest(REAL, TRAIN)


def test_copies_of_the_training_images_are_told_from_new_ones():
    copied = copy_figures(TRAIN[:100], TRAIN, UNSEEN)
    assert copied["memorised"] == 1
    assert copied["nearest_train"] < 0.01
    new = copy_figures(uniform(400, 2), TRAIN, UNSEEN)
    assert new["memorised"] < 0.06
    assert new["nearest_train"] == pytest.approx(new["nearest_train_real"], rel=0.1)
    half = torch.cat((TRAIN[:50], uniform(50, 3)))
    assert copy_figures(half, TRAIN, UNSEEN)["memorised"] == pytest.approx(0.5, abs=0.06)


def test_one_in_a_hundred_unseen_images_is_as_near_as_a_duplicate():
    assert float((same_distance(UNSEEN) >= UNSEEN).double().mean()) == pytest.approx(0.01, abs=0.005)


def test_the_support_of_a_generator_that_repeats_itself_is_counted():
    rows = torch.randint(0, 50, (600,), generator=torch.Generator().manual_seed(0))
    assert support(TRAIN[rows], 1e-3) == pytest.approx(50, rel=0.15)
    assert support(TRAIN[rows] + 1e-5 * uniform(600, 4), 1e-3) == pytest.approx(50, rel=0.15)
    assert support(TRAIN[:1].repeat(40, 1, 1, 1), 1e-3) == 1


def test_without_duplicates_the_number_of_pairs_is_the_bound():
    assert support(TRAIN[:200], 1e-6) == 200 * 199 / 2


def test_a_classifier_learns_from_right_labels_and_not_from_wrong_ones():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, y = train.batch(range(400)), train.labels_at(range(400))
    assert usefulness(x, y, test, seed=0, model="linear") > 0.7
    assert usefulness(x, (y + 1) % 10, test, seed=0, model="linear") < 0.1
