"""Where most submitted examples do not count, `verify` claims nothing and names the mistake: one row for each of them."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Affine

from robustbench_lite import data
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.run.mistakes import CONSTANTS
from robustbench_lite.run.verify import Verified, verify
from robustbench_lite.system import System

EPS = 0.06
Change = Callable[[Tensor, Tensor], Tensor]


@cache
def images(channels: int) -> tuple[Tensor, Tensor]:
    """60 images of 10 classes: digits, or smooth patterns in colour, each of its class's pattern and one of its own."""
    if channels == 1:
        digits = data.load("digits")
        return digits.batch(range(60)), digits.labels_at(range(60))
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) * 7 % 10
    coarse = torch.rand(10, 3, 4, 4, generator=generator)[y] + torch.rand(60, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse / 2, (12, 12), mode="bilinear"), y


@cache
def system(channels: int) -> System:
    """The class whose mean image is nearest."""
    x, y = images(channels)
    means = torch.stack([x[y == k].mean(0).flatten() for k in range(10)])
    model = Affine(2 * means, -(means * means).sum(1))
    return System(model=model, num_classes=10, input_shape=tuple(x.shape[1:]), name="nearest-mean")  # type: ignore[arg-type]


def examples(channels: int) -> Tensor:
    """What an honest attack would submit."""
    x, _ = images(channels)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).round() * 2 - 1
    return (x + EPS * 0.999 * noise).clamp(0, 1)


def judged(path: Path, adv: Tensor, channels: int, threat: str = f"Linf:{EPS}", **arrays: np.ndarray) -> Verified:
    x, y = images(channels)
    np.savez(path / "adv.npz", x_adv=adv.numpy(), **arrays)
    return verify(path / "adv.npz", system(channels), x, y, threat=threat)


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Change:
    m, s = (torch.tensor(part).view(1, -1, 1, 1) for part in (mean, std))
    return lambda adv, _: (adv - m) / s


def shuffled(adv: Tensor, _: Tensor) -> Tensor:
    return adv[torch.randperm(len(adv), generator=torch.Generator().manual_seed(2))]


IMAGENET = normalised(*CONSTANTS[0][1:])
#: what a mistake makes of the examples, in how many channels it is tried, its name, and what is told of it
MISTAKES: dict[str, tuple[Change, int, str, str]] = {
    "reversed": (lambda adv, _: adv.flip(0), 1, "order", r"in reverse order; submit x_adv\[::-1\]"),
    "shuffled": (shuffled, 1, "order", r"example \d+ of image \d+.*submit their indices too"),
    "first image dropped": (lambda adv, _: adv[1:], 1, "order", "image after its own, so the first image is missing"),
    "one too many": (lambda adv, _: torch.cat((adv[-1:], adv[:-1])), 1, "order", "image before its own, so one stands"),
    "sorted by class": (lambda adv, _: adv[images(1)[1].argsort(stable=True)], 1, "order", "sorted by class"),
    "transposed": (lambda adv, _: adv.transpose(2, 3), 1, "axes", "height and width are exchanged"),
    "reshaped from hwc": (lambda adv, _: adv.permute(0, 2, 3, 1).reshape(adv.shape), 3, "axes", "reshaped between"),
    "blue first": (lambda adv, _: adv.flip(1), 3, "channels", "blue, green, red"),
    "mirrored": (lambda adv, _: adv.flip(3), 3, "mirrored", "mirrored, left and right"),
    "upside down": (lambda adv, _: adv.flip(2), 1, "mirrored", "upside down"),
    "turned left": (lambda adv, _: torch.rot90(adv, 1, (2, 3)), 1, "turned", "turned to the left by 90 degrees"),
    "turned right": (lambda adv, _: torch.rot90(adv, -1, (2, 3)), 3, "turned", "turned to the right by 90 degrees"),
    "turned about": (lambda adv, _: torch.rot90(adv, 2, (2, 3)), 1, "turned", "turned by 180 degrees"),
    "negatives": (lambda adv, _: 1 - adv, 1, "inverted", "negatives, black for white; submit 1 - x_adv"),
    "ImageNet's constants": (IMAGENET, 3, "normalised", "ImageNet's mean and std"),
    "CIFAR's constants": (normalised(*CONSTANTS[1][1:]), 3, "normalised", "CIFAR-10's mean and std"),
    "MNIST's constants": (normalised(*CONSTANTS[4][1:]), 1, "normalised", "MNIST's mean and std"),
    "a half": (normalised((0.5,), (0.5,)), 3, "range", r"in \[-1, 1\]; submit \(x_adv \+ 1\) / 2"),
    "the data's own": (
        normalised((0.3074,), (0.3764,)),
        1,
        "normalised|scale",
        "mean and std of the data|another scale",
    ),
    "unknown constants": (normalised((0.9,), (0.11,)), 1, "scale", r"about 9.1 x - 8.2;"),
    "constants of the training images, by an attack at full strength": (
        lambda _, x: ((x + EPS * (0.5 - x).sign()).clamp(0, 1) - 0.29) / 0.4,
        1,
        "scale",
        "about 2.2 x - 0.57",  # the attack flattens the fit
    ),
    "not clipped": (lambda _, x: x + EPS * 0.999 * (x - 0.5).sign(), 1, "not-clipped", r"by up to 0\.06; clip them"),
    "cut to whole numbers": (lambda adv, _: (adv * 0.99).floor(), 1, "blank", "show nothing"),
    "levels of 0 and 1": (lambda adv, _: adv.floor() / 255, 1, "blank", "show nothing"),
    "divided twice": (lambda adv, _: adv / 255, 1, "range", "divided by 255 twice"),
    "the perturbation": (lambda adv, x: adv - x, 1, "perturbation", "perturbations alone; submit x"),
    "around grey": (lambda adv, x: adv - x + 0.5, 3, "perturbation", "around grey"),
    "not a number": (lambda adv, _: adv * torch.nan, 1, "not-finite", "NaN or infinite"),
    "larger ball": (lambda adv, x: (x + 2 * (adv - x)).clamp(0, 1), 1, "larger-eps", r"inside Linf:0\.1199"),
    "shuffled and normalised": (lambda adv, x: IMAGENET(shuffled(adv, x), x), 3, "order", "; and .*ImageNet's mean"),
    "clean images": (lambda _, x: x, 1, "clean-images", "the clean images themselves"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_nothing_is_verified_and_the_mistake_is_named(case: str, tmp_path: Path) -> None:
    change, channels, mistake, text = MISTAKES[case]
    x, _ = images(channels)
    found = judged(tmp_path, change(examples(channels), x), channels)
    assert (found.robust, found.interval, found.verified) == (None, None, False)
    assert found.likely is not None
    assert found.likely.mistake in mistake.split("|")
    assert re.search(text, found.likely.text), found.likely.text
    assert 2 * found.likely.explains > found.likely.tried
    told = json.loads(found.write(tmp_path / "v.json").read_text())
    assert (told["robust_accuracy"], told["robust_accuracy_low"], told["robust_accuracy_high"]) == (None, None, None)
    assert told["likely"]["mistake"] == found.likely.mistake
    assert (told["judged"], told["could_count"]) == (found.judged, found.could)


#: examples that lie on the ball, and what rounding makes of them
ROUNDINGS: dict[str, tuple[Change, str, str]] = {
    "8 bits": (lambda adv, _: (adv * 255).round() / 255, "rounded", "rounded to 8 bits, .* outside the ball"),
    "float16": (lambda adv, _: adv.half().float(), "half-precision", "rounded to float16"),
    "bfloat16": (lambda adv, _: adv.bfloat16().float(), "half-precision", "rounded to bfloat16"),
    "dust": (lambda adv, x: x + (adv - x) * 1.0001, "dust", "not projected into the ball after the last step"),
}


@pytest.mark.parametrize("case, threat", [*((case, "Linf:0.0601") for case in ROUNDINGS), ("dust", "L2:0.7")])
def test_rounding_dust_is_named_with_the_radius_that_would_hold(case: str, threat: str, tmp_path: Path) -> None:
    change, mistake, text = ROUNDINGS[case]
    x, _ = images(3)
    norm, _, eps = threat.partition(":")
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    unit = delta.sign() if norm == "Linf" else delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    inner = x * 0.6 + 0.2  # the box does not bind
    adv = change(inner + float(eps) * unit, inner)
    np.savez(tmp_path / "adv.npz", x_adv=adv.numpy())
    found = verify(tmp_path / "adv.npz", system(3), inner, images(3)[1], threat=threat)
    assert found.robust is None
    assert found.likely is not None
    assert found.likely.mistake == mistake
    assert re.search(text, found.likely.text), found.likely.text
    wide = found.likely.text.rpartition(" under ")[2]
    again = verify(tmp_path / "adv.npz", system(3), inner, images(3)[1], threat=wide)
    assert set(again.samples["fate"]) <= {"broken", "not-broken", "clean-wrong"}


def test_examples_a_little_outside_the_box_were_not_clipped(tmp_path: Path) -> None:
    adv = examples(1)
    adv[:, 0, 0, 0] = -1e-5
    found = judged(tmp_path, adv, 1)
    assert found.robust is None
    assert found.likely is not None
    assert found.likely.mistake == "not-clipped"
    assert "by up to 1e-05; clip them" in found.likely.text


def test_dust_outside_the_box_and_the_ball_is_clipped_before_another_radius_is_named(tmp_path: Path) -> None:
    x, _ = images(1)
    found = judged(tmp_path, (x + EPS * (x.flip(0) - 0.5).sign()).clamp(0, 1) - 1e-5, 1)
    assert found.robust is None
    assert found.likely is not None
    assert "1e-05 outside the ball and 1e-05 outside [0, 1]; clip them and round" in found.likely.text


def test_noise_has_no_explanation(tmp_path: Path) -> None:
    found = judged(tmp_path, torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(4)), 1)
    assert (found.robust, found.likely) == (None, None)


def test_honest_examples_are_not_accused(tmp_path: Path) -> None:
    for channels in (1, 3):
        found = judged(tmp_path, examples(channels), channels)
        assert found.robust is not None
        assert found.likely is None


@pytest.mark.parametrize("invalid", [29, 30, 31])
def test_up_to_half_of_the_examples_may_be_invalid(invalid: int, tmp_path: Path) -> None:
    """Of the examples of images that are right without an attack; beyond that only bounds are left."""
    x, y = images(3)
    right = system(3)(x).prediction() == y
    assert bool(right.all())
    adv = examples(3)
    adv[:invalid] = torch.rand(invalid, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    found = judged(tmp_path, adv, 3)
    assert (found.could, found.judged) == (60, 60 - invalid)
    kept = int((found.samples["fate"] == "not-broken").sum())
    assert found.bounds == pytest.approx((kept / 60, (kept + invalid) / 60))
    assert found.robust == (None if invalid > 30 else pytest.approx((kept + invalid) / 60))


def test_examples_of_the_class_balanced_slice_name_the_option(tmp_path: Path) -> None:
    digits = data.load("digits")
    chosen = data.choose(digits, "50", 3)
    np.savez(tmp_path / "adv.npz", x_adv=digits.batch(chosen).numpy() * 0.99)
    found = verify(tmp_path / "adv.npz", system(1), *whole(digits), threat="Linf:0.06", slice_seed=3)
    assert found.likely is not None
    assert "class-balanced slice of 50; add --samples 50" in found.likely.text


def whole(found: Dataset) -> tuple[Tensor, Tensor]:
    every = range(len(found))
    return found.batch(every), found.labels_at(every)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda y: y[::-1], "in reverse order"),
        (lambda y: y + 1, "count from 1"),
        (lambda y: np.append(y[1:], 0), "shifted by one image"),
        (np.sort, "sorted by class"),
        (lambda y: (y + 3) % 10, "is it in another order"),
    ],
)
def test_labels_of_another_order_are_explained(
    change: Callable[[np.ndarray], np.ndarray], message: str, tmp_path: Path
) -> None:
    _, y = images(1)
    with pytest.raises(UserError, match=message):
        judged(tmp_path, examples(1), 1, y=change(y.numpy()).copy())
