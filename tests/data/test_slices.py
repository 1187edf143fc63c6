"""Which samples are evaluated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.data import choose, describe_slice, from_tensors
from robustbench_lite.errors import UserError


def dataset(labels, default_samples="all"):
    y = torch.tensor(labels)
    return replace(from_tensors(torch.rand(len(y), 1, 1, 1), y), default_samples=default_samples)


@pytest.mark.parametrize(
    "samples, default, expected, words",
    [
        ("all", "all", 30, "all 30"),
        (None, "all", 30, "all 30"),
        (None, "1000", 30, "all 30"),
        (None, "12", 12, "12 of 30, class-balanced, slice seed 0"),
        ("first:7", "all", 7, "first 7 of 30"),
        ("FIRST:30", "all", 30, "first 30 of 30"),
        (9, "all", 9, "9 of 30, class-balanced, slice seed 0"),
        ("30", "all", 30, "30 of 30, class-balanced, slice seed 0"),
    ],
)
def test_a_slice_is_as_many_positions_as_it_says_in_ascending_order(samples, default, expected, words):
    found = dataset([0, 1, 2] * 10, default)
    chosen = choose(found, samples, 0)
    assert len(chosen) == expected
    assert (np.diff(chosen) > 0).all()
    assert describe_slice(found, samples, 0) == words
    if words.startswith("first"):
        assert chosen.tolist() == list(range(expected))


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 2**40), data=st.data())
def test_a_balanced_slice_takes_every_class_as_evenly_as_it_can_and_smaller_ones_lie_in_larger_ones(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    found = dataset(labels)
    chosen = choose(found, count, seed)
    assert len(set(chosen.tolist())) == count
    there = np.bincount(labels, minlength=5)
    taken = np.bincount(np.array(labels)[chosen], minlength=5)
    # a class that has samples left over got no fewer than one less than any other
    assert all(taken[kind] >= taken.max() - 1 for kind in range(5) if taken[kind] < there[kind])
    assert set(choose(found, max(1, count // 2), seed)) <= set(chosen)


def test_the_slice_is_fixed_by_its_seed():
    found = dataset([0, 1] * 50)
    assert choose(found, 6, 0).tolist() == choose(found, "6", 0).tolist() == [0, 8, 19, 31, 51, 72]
    assert choose(found, 6, 1).tolist() != choose(found, 6, 0).tolist()


@pytest.mark.parametrize(
    "samples, message",
    [
        ("31", "samples=31 is more than the 30 test images of tensors"),
        ("first:31", "samples=first:31 is more than the 30"),
        ("0", "accepted: all, first:N or N"),
        (0, "accepted: all, first:N or N"),
        ("-3", "accepted: all, first:N or N"),
        ("first:", "accepted: all, first:N or N"),
        ("last:3", "accepted: all, first:N or N"),
        ("1e3", "accepted: all, first:N or N"),
        ("٣", "accepted: all, first:N or N"),
        ("", "accepted: all, first:N or N"),
    ],
)
def test_a_slice_that_is_not_there_is_refused(samples, message):
    with pytest.raises(UserError, match=message):
        choose(dataset([0, 1, 2] * 10), samples, 0)


def test_a_negative_slice_seed_is_refused():
    with pytest.raises(UserError, match="slice seed -1 is negative"):
        choose(dataset([0, 1]), 1, -1)
