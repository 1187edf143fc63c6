"""The ring and the grid: points in the plane, as images."""

import math

import numpy as np
import pytest
import torch

from robustbench_lite import data
from robustbench_lite.data.points import GRID, RING, mixture_of, to_images, to_points
from robustbench_lite.errors import UserError

SMALL = {"ring": "ring:points=8000", "grid": "grid:points=25000"}
MIXTURES = {"ring": RING, "grid": GRID}


@pytest.mark.parametrize("name, modes", [("ring", 8), ("grid", 25)])
def test_the_default_sets_hold_100000_and_10000_points_as_images_of_one_pixel(name, modes):
    train, test = data.load(name, "train"), data.load(name, "test")
    assert (len(train), len(test), train.shape, train.num_classes) == (100_000, 10_000, (2, 1, 1), modes)
    assert (train.name, len(train.class_names), mixture_of(train)) == (name, modes, MIXTURES[name])
    x = test.batch(range(len(test)))
    assert x.dtype == torch.float32
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


@pytest.mark.parametrize("name", SMALL)
def test_points_scatter_around_the_centre_of_their_label_as_the_mixture_says(name):
    train, mixture = data.load(SMALL[name], "train"), MIXTURES[name]
    points = to_points(train.batch(range(len(train)))).double().numpy()
    rest = (points - np.array(mixture.means)[train.labels]) / mixture.std
    assert np.abs(rest.mean(0)).max() < 0.05
    assert np.abs(np.cov(rest.T) - np.eye(2)).max() < 0.05
    assert abs((np.linalg.norm(rest, axis=1) < 3).mean() - (1 - math.exp(-4.5))) < 0.005  # chi squared, two degrees
    counts = np.bincount(train.labels, minlength=len(mixture.means))
    assert counts.min() > 800
    assert counts.max() < 1200


def test_the_centres_are_those_of_the_papers():
    assert RING.centres.norm(dim=1).sub(1).abs().max() < 1e-12
    assert sorted({x for x, _ in GRID.means}) == [-4, -2, 0, 2, 4]
    assert len(set(GRID.means)) == 25


def test_points_and_images_go_over_into_each_other():
    points = torch.tensor([[-6.0, 6.0], [0.0, 1.0], [4.2, -4.2]])
    x = to_images(points)
    assert x.shape == (3, 2, 1, 1)
    torch.testing.assert_close(x[0].flatten(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(to_points(x), points)


def test_the_seed_and_the_split_decide_the_points():
    digests = {
        data.load(text, split).digest()
        for text in ("ring:points=800", "ring:points=800,seed=1")
        for split in ("train", "test")
    }
    assert len(digests) == 4
    again = data.load("ring:seed=1,points=800", "train")
    assert again.name == "ring:points=800,seed=1"
    assert again.digest() in digests
    assert mixture_of(again) is RING
    assert mixture_of(data.load("digits")) is None


@pytest.mark.parametrize("text, message", [("ring:points=79", "points=79"), ("grid:seed=-1", "seed=-1")])
def test_options_that_make_no_set_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        data.load(text)
