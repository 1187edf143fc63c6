"""From a spec string to a dataset."""

import pytest
import torch

from robustbench_lite import data, plugins
from robustbench_lite.errors import UserError


@pytest.mark.parametrize(
    "spec, message",
    [
        ("cifar11", "unknown dataset 'cifar11'; did you mean 'cifar10'"),
        ("npx:set.npz", "unknown dataset 'npx'; did you mean 'npz'"),
        ("", "cannot read ''"),
        (";train=x", "cannot read"),
        ("digits:size=3", "digits has no option 'size'"),
        ("digits;size=3", "digits has no option 'size'"),
        ("emnist:part=foo", "part=foo; accepted: balanced"),
        ("digits:(", "parentheses"),
    ],
)
def test_what_names_no_dataset_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        data.load(spec)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean 'test'"):
        data.load("digits", "tset")


def test_a_third_party_dataset_is_a_function_with_options():
    def noise(*, split, root=None, download=False, count: int = 3):
        return data.from_tensors(torch.rand(count, 1, 2, 2), torch.arange(count), name="noise")

    plugins.register("dataset", "noise-images", noise)
    try:
        assert len(data.load("noise-images:count=5")) == 5
        with pytest.raises(UserError, match="count=five is not a whole number"):
            data.load("noise-images:count=five")
    finally:
        plugins.unregister("dataset", "noise-images")
