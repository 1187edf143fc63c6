"""The embedded dataset, and the caller's own tensors."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from robustbench_lite import data
from robustbench_lite.data import from_tensors
from robustbench_lite.errors import UserError


def test_digits_are_1347_and_450_scans_in_the_unit_interval_and_the_splits_do_not_overlap():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test), test.shape, test.num_classes) == (1347, 450, (1, 8, 8), 10)
    x = torch.cat([train.batch(range(len(train))), test.batch(range(len(test)))])
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (0, 1)
    ours = sorted((x * 16).flatten(1).to(torch.uint8).tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())


def test_the_digits_split_is_stratified_and_never_changes():
    test = data.load("digits", "test")
    counts = np.bincount(test.labels)
    assert counts.min() >= 43
    assert counts.max() <= 46
    assert test.labels[:10].tolist() == [2, 0, 4, 9, 4, 1, 2, 4, 6, 7]
    assert test.digest() == "c42cd738426b19913707011132789012"
    assert data.load("DIGITS").digest() == test.digest()
    assert data.load("digits", "train").digest() != test.digest()


def test_uint8_and_float_tensors_give_the_same_pixels_and_float_is_not_copied():
    levels = torch.arange(0, 2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    x = levels.float() / 255
    y = torch.tensor([1, 4])
    as_bytes, as_floats = from_tensors(levels, y), from_tensors(x, y.numpy())
    torch.testing.assert_close(as_bytes.batch([1, 0]), x[[1, 0]], rtol=0, atol=0)
    torch.testing.assert_close(as_floats.batch([0, 1]), x, rtol=0, atol=0)
    assert np.shares_memory(as_floats.images.array, x.numpy())
    assert (as_floats.num_classes, as_floats.shape, as_floats.labels_at([1]).tolist()) == (5, (3, 4, 4), [4])
    assert from_tensors(x.bfloat16(), y).batch([0]).dtype == torch.float32
    assert from_tensors(x, y, num_classes=10).num_classes == 10
    assert as_bytes.notes == ("tensors: 2 images 3x4x4, uint8 0 to 95, mean 47.5 (white is 255)",)
    assert as_floats.notes == ()
    assert as_floats.provenance["levels"]["highest"] == float(x.max())


def test_the_digest_covers_pixels_labels_and_shape():
    x, y = torch.rand(4, 1, 2, 3), torch.tensor([0, 1, 2, 1])
    other = x.clone()
    other[3, 0, 1, 2] += 1e-6
    sets = [(x, y), (other, y), (x, y.flip(0)), (x.view(4, 1, 3, 2), y), (x.view(4, 2, 1, 3), y)]
    digests = {from_tensors(*pair).digest() for pair in sets}
    assert len(digests) == len(sets)
    assert from_tensors(x.clone(), y.clone()).digest() in digests


GOOD = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    "x, y, message",
    [
        (
            torch.rand(3, 2, 2),
            GOOD[1],
            r"x has shape \(3, 2, 2\); accepted: \(n, channels, height, width\); give x\[:, None\]",
        ),
        (torch.rand(3, 8, 8, 3), GOOD[1], r"x has shape \(3, 8, 8, 3\); accepted: .*; give x.transpose\(0, 3, 1, 2\)"),
        (torch.rand(3, 1, 8, 8) / 255, GOOD[1], r"largest value is 0.003.*divided by 255 twice; give x \* 255"),
        ((torch.rand(3, 1, 8, 8) * 16).round().byte(), GOOD[1], "white is 255, but .*; give x / 16, as float"),
        ((torch.rand(3, 1, 8, 8) > 0.5).byte(), GOOD[1], "masks of 0 and 1.*; give x / 1, as float"),
        (torch.rand(0, 1, 2, 2), GOOD[1][:0], "there are no images"),
        (GOOD[0] * 255, GOOD[1], "accepted: uint8, or float in .0, 1."),
        (GOOD[0] - 1, GOOD[1], "the images range from -"),
        (GOOD[0] * float("nan"), GOOD[1], "contain NaN"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.int64), GOOD[1], "the images are int64"),
        (GOOD[0], GOOD[1].float(), "the labels are float32; accepted: whole numbers"),
        (GOOD[0], GOOD[1] - 1, "a label is -1"),
        (GOOD[0], GOOD[1][:2], r"labels have shape \(2,\); accepted: \(3,\)"),
        (GOOD[0], GOOD[1][:, None], r"labels have shape \(3, 1\)"),
    ],
)
def test_tensors_that_are_no_images_or_labels_are_refused(x, y, message):
    with pytest.raises(UserError, match=message):
        from_tensors(x, y)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(UserError, match="labels reach 2 but there are 2 classes"):
        from_tensors(*GOOD, num_classes=2)


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.rand(3, 1, 9, 9).to_sparse(), "x cannot be read as an array of numbers: .*to_dense"),
        (torch.rand(3, 1, 9, 9, device="meta"), "x cannot be read as an array of numbers: .*meta tensor"),
        ([[1, 2], [3]], "x cannot be read as an array of numbers: .*inhomogeneous"),
        (
            torch.arange(243).reshape(3, 1, 9, 9),
            "the images are int64; accepted: .*; give x / 255, as float, if that is",
        ),
        (torch.rand(3, 1, 9, 9) > 0.5, "the images are bool; accepted: .*; give x / 1, as float, if that is white"),
    ],
)
def test_what_is_no_plain_array_is_refused_in_a_sentence(x, message):
    with pytest.raises(UserError, match=message):
        from_tensors(x, torch.tensor([0, 1, 0]))


def test_a_number_of_classes_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="num_classes='10'; accepted: a whole number"):
        from_tensors(torch.rand(3, 1, 9, 9), torch.tensor([0, 1, 0]), num_classes="10")
