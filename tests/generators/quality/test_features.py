"""What a classifier sees in images."""

import pytest
import torch
from torch import nn

from robustbench_lite import training
from robustbench_lite.errors import UserError
from robustbench_lite.generators.quality.features import look
from robustbench_lite.system import System
from robustbench_lite.zoo import fresh_module


def system(model: nn.Module) -> System:
    return System(model=model, num_classes=10, input_shape=(1, 8, 8), name="judge")


@pytest.mark.parametrize("name, wide", [("small-cnn", 128), ("mlp", 256), ("linear", 64), ("resnet20", 64)])
def test_features_are_what_the_last_linear_layer_is_given(name, wide):
    with training.seeded(0):
        model = fresh_module(name, num_classes=10, input_shape=(1, 8, 8))
    judge, x = system(model), torch.rand(7, 1, 8, 8)
    before = judge.digest
    seen = look(judge, x)
    assert seen.features.shape == (7, wide)
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    scores = last(seen.features.float())
    torch.testing.assert_close(scores, model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.chances, scores.double().softmax(1), rtol=1e-4, atol=1e-5)
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert system(model).digest == before


def test_many_images_are_looked_at_in_parts_and_no_neighbour_is_felt():
    with training.seeded(0):
        judge = system(fresh_module("mlp", num_classes=10, input_shape=(1, 8, 8)))
    x = torch.rand(1200, 1, 8, 8)
    seen = look(judge, x)
    assert seen.features.dtype == torch.float64
    torch.testing.assert_close(seen[700:703].features, look(judge, x[700:703]).features, rtol=1e-5, atol=1e-6)


class Silent(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]


@pytest.mark.parametrize(
    "judge, message",
    [
        (system(Silent()), "calls no linear layer"),
        (System(model=Silent(), num_classes=10, input_shape=(1, 4, 4), name="small"), "small takes images"),
        (system(Silent()).with_noise(0.1), "answers at random"),
    ],
)
def test_judges_that_cannot_look_are_refused(judge, message):
    with pytest.raises(UserError, match=message):
        look(judge, torch.rand(2, 1, 8, 8))
