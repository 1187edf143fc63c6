"""Stacks of three grey images."""

import tracemalloc

import numpy as np
import pytest
import torch
from shared_data import shared_data

from robustbench_lite import data
from robustbench_lite.data.stacked import is_stacked, label_of
from robustbench_lite.errors import UserError


def test_a_label_counts_the_channels_digits():
    assert label_of(np.array([[0, 0, 7], [1, 2, 3], [9, 9, 9]])).tolist() == [7, 123, 999]


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_channel_is_an_image_of_the_base_set_with_that_digit(split):
    base = data.load("digits", split)
    known = {
        image.numpy().tobytes(): label for image, label in zip(base.batch(range(len(base))), base.labels, strict=True)
    }
    stacked = data.load("stacked-digits", split)
    rows = np.random.default_rng(0).integers(0, len(stacked), 40)
    x, y = stacked.batch(rows), stacked.labels_at(rows)
    assert x.shape == (40, 3, 8, 8)
    assert x.dtype == torch.float32
    for stack, label in zip(x, y.tolist(), strict=True):
        assert [known[channel[None].numpy().tobytes()] for channel in stack] == [
            int(figure) for figure in f"{label:03d}"
        ]


def test_stacked_digits_are_26000_and_5200_of_a_thousand_classes():
    train, test = data.load("stacked-digits", "train"), data.load("stacked-digits", "test")
    assert (len(train), len(test), train.num_classes) == (26_000, 5_200, 1000)
    assert train.class_names[42] == "042"
    assert len(np.unique(train.labels)) == 1000
    assert is_stacked(train)
    assert not is_stacked(data.load("digits"))
    assert len({train.digest(), test.digest(), data.load("stacked-digits:seed=1").digest()}) == 3
    assert data.load("stacked-digits:triples=26000,seed=0").digest() == test.digest()
    assert len(data.choose(test)) == 1000


def test_stacked_mnist_is_put_together_batch_by_batch():
    root = shared_data()
    train = data.load("stacked-mnist", "train", root=root)
    assert (len(train), train.shape, train.name) == (128_000, (3, 28, 28), "stacked-mnist")
    tracemalloc.start()
    x = train.batch(range(64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape == (64, 3, 28, 28)
    assert peak < 64 * 3 * 28 * 28 * 20  # bytes: some copies of the batch, not of the set
    base = data.load("mnist", "train", root=root)
    torch.testing.assert_close(x[5, 2], base.batch([train.images.rows[5, 2]])[0, 0], rtol=0, atol=0)
    assert base.labels[train.images.rows[5]].tolist() == [int(figure) for figure in f"{train.labels[5]:03d}"]


@pytest.mark.parametrize("option, message", [("triples=4", "triples=4; accepted: 5"), ("seed=-1", "seed=-1")])
def test_options_that_make_no_set_are_refused(option, message):
    with pytest.raises(UserError, match=message):
        data.load(f"stacked-digits:{option}")
