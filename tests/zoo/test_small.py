"""The built-in architectures."""

import pytest
import torch
from torch import nn

from robustbench_lite import plugins, zoo
from robustbench_lite.errors import UserError

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 23)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name", ["small-cnn", "small-cnn:width=4,hidden=8", "mlp;depth=3;hidden=16", "mlp", "linear", "resnet20"]
)
def test_every_architecture_takes_every_shape_and_is_frozen_in_eval_mode(name, shape):
    found = zoo.load(name, num_classes=7, input_shape=shape)
    assert (found.trained, found.num_classes, found.input_shape) == (False, 7, shape)
    assert found.module(torch.rand(3, *shape)).shape == (3, 7)
    assert not any(part.training for part in found.module.modules())
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


@pytest.mark.parametrize(
    "name, shape, layers",
    [
        (
            "small-cnn",
            (1, 8, 8),
            ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"],
        ),
        ("mlp", (1, 8, 8), ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]),
        ("linear", (1, 8, 8), ["Flatten", "Linear"]),
    ],
)
def test_the_small_networks_are_those_of_the_yardstick(name, shape, layers):
    module = zoo.load(name, num_classes=10, input_shape=shape).module
    assert [type(part).__name__ for part in module] == layers


def test_the_yardstick_cnn_has_its_sizes():
    small = zoo.load("small-cnn", num_classes=10, input_shape=(1, 8, 8)).module
    assert [tuple(weight.shape) for weight in small.parameters() if weight.dim() > 1] == [
        (16, 1, 3, 3),
        (32, 16, 3, 3),
        (128, 512),
        (10, 128),
    ]
    large = zoo.load("small-cnn", num_classes=10, input_shape=(1, 28, 28)).module
    assert [tuple(weight.shape) for weight in large.parameters() if weight.dim() == 2] == [(128, 64 * 49), (10, 128)]


def test_loading_leaves_the_global_random_state_alone_and_gives_the_same_weights_each_time():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = zoo.load("small-cnn", num_classes=3, input_shape=(1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = zoo.load("small-cnn", num_classes=3, input_shape=(1, 8, 8))
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fresh_makes_the_architecture_anew_by_the_global_seed_and_ready_to_train():
    found = zoo.load("small-cnn:width=4", num_classes=3, input_shape=(1, 8, 8))
    torch.manual_seed(3)
    one, other = found.fresh(), found.fresh()
    torch.manual_seed(3)
    again = found.fresh()
    weights = [next(module.parameters()) for module in (one, other, again)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert weights[0].requires_grad
    assert one.training
    assert one.state_dict().keys() == found.module.state_dict().keys()


@pytest.mark.parametrize(
    "spec, message",
    [
        ("small-cmm", "unknown model 'small-cmm'; did you mean 'small-cnn'"),
        (
            "small-cnn:widht=4",
            "small-cnn has no option 'widht'; it has width, hidden; every model has .*; did you mean width",
        ),
        ("small-cnn:width=0", "width=0; accepted: 1 and more"),
        ("small-cnn:width=wide", "width=wide"),
        ("mlp:depth=0", "depth=0"),
        ("linear:bias=false", "linear has no option 'bias'; it has none of its own; every model has normalize"),
        ("tim:resnet18", "unknown model 'tim:resnet18'; .*did you mean timm:resnet18"),
        ("net.py", r"net\.py names no function; write net\.py:FUNCTION"),
        ("net.safetensors", "there is no file 'net.safetensors'"),
        (__file__.replace(".py", ".pt"), "there is no file"),
        ("resnet18", "unknown model 'resnet18'; did you mean timm:resnet18 or torchvision:resnet18"),
        ("resnet18;weights=net.pt", "did you mean timm:resnet18 or torchvision:resnet18"),
        ("", "cannot read ''"),
        ("resnet20:mean=(0.5)", "mean"),
        ("resnet20:std=(0,0,0)", "std above 0"),
        ("resnet20:mean=(a,b,c)", "mean=a is not a number"),
    ],
)
def test_what_names_no_model_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        zoo.load(spec, num_classes=10, input_shape=(3, 32, 32))


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_images_that_are_too_small_are_refused(name):
    with pytest.raises(UserError, match="1x1"):
        zoo.load(name, num_classes=10, input_shape=(1, 1, 1))


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.weight = answer, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.answer(x)


def boom(x):
    raise ValueError("the first line\nand a second")


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda x: x.flatten(1)[:, :2], "labels reach 2 but odd has 2 classes"),
        (lambda x: x.flatten(1)[:, :5], "odd has 5 classes but the data 3, cat and so on"),
        (lambda x: x.flatten(1)[:, 0], "labels reach 2 but odd has 2 classes"),
        (lambda x: x.flatten(1)[:, :0], r"answers two images with \(2, 0\); accepted: a tensor \(2, classes\)"),
        (lambda x: x.flatten(1)[:0], r"answers two images with \(0, 64\)"),
        (lambda x: {"a": x}, "answers two images with a dict with the keys 'a'; accepted"),
        (lambda x: x, r"answers two images with \(2, 1, 8, 8\)"),
        (lambda x: (x, x), "answers two images with a tuple"),
        (lambda x: x.flatten(1)[:, :3].argmax(1, keepdim=True).expand(-1, 3), "answers with torch.int64"),
        (boom, "odd cannot take images 1x8x8: ValueError: the first line$"),
    ],
)
def test_what_is_no_classifier_of_such_images_is_refused(answer, message):
    def odd(*, num_classes, input_shape):
        return Odd(answer)

    plugins.register("model", "odd", odd)
    try:
        with pytest.raises(UserError, match=message):
            zoo.load("odd", num_classes=3, input_shape=(1, 8, 8), class_names=("cat", "cow", "dog"))
    finally:
        plugins.unregister("model", "odd")


def test_a_model_with_more_classes_is_fine_where_the_data_only_tell_how_far_labels_reach():
    def odd(*, num_classes, input_shape):
        return Odd(lambda x: x.flatten(1)[:, :5])

    plugins.register("model", "odd", odd)
    try:
        assert zoo.load("odd", num_classes=3, input_shape=(1, 8, 8)).num_classes == 5
    finally:
        plugins.unregister("model", "odd")
