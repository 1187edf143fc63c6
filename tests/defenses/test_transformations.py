"""JPEG, bits, median, blur and total variation: what they do to an image, and what an adversary may differentiate."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from learners import blobs, plain, system_of
from torch import Tensor

from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.transformations import Blur, Median, TotalVariation
from robustbench_lite.errors import UserError
from robustbench_lite.physical.jpeg import jpeg
from robustbench_lite.system import System

ALL = ("jpeg", "bit-depth", "median", "blur", "tv")
MASKED = ("jpeg", "bit-depth")


def images(count: int = 5, channels: int = 1, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand((count, channels, height, width), generator=torch.Generator().manual_seed(0))


def defended(spec: str) -> System:
    (defense,) = resolve_defense(spec)
    return defense.defend(system_of(plain()), Workshop(train=blobs()))


def purified(spec: str, x: Tensor) -> Tensor:
    return defended(spec).purifiers[0].apply(x, None, 0)


def slope(system: System, x: Tensor, *, adaptive: bool) -> Tensor:
    """The gradient of a logit by the image; zero where there is none."""
    leaf = x.clone().requires_grad_(True)
    value = system(leaf, None, 0, adaptive=adaptive).scores[:, 0].sum()
    (grad,) = torch.autograd.grad(value, leaf, allow_unused=True) if value.requires_grad else (None,)
    return torch.zeros_like(x) if grad is None else grad


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 11), (3, 32, 32)])
def test_images_stay_images(spec, shape):
    (defense,) = resolve_defense(spec)
    x = images(4, *shape)
    y = defense.transform(x)
    assert y.shape == x.shape
    assert bool(((y >= 0) & (y <= 1)).all())
    white = defense.transform(torch.ones_like(x))
    assert torch.allclose(white, torch.ones_like(x), atol=1e-6)


@pytest.mark.parametrize("spec", ALL)
def test_each_is_the_same_every_time_and_stands_before_what_is_there(spec):
    (defense,) = resolve_defense(spec)
    given = system_of(plain()).with_purifier(lambda x: x / 2, name="darker")
    system = defense.defend(given, Workshop(train=blobs()))
    assert [part.name for part in system.purifiers] == [str(defense), "darker"]
    x = images()
    assert torch.equal(system(x).scores, given(system.purifiers[0].apply(x, None, 0)).scores)
    assert not system.randomised


@pytest.mark.parametrize("spec", MASKED)
def test_a_rounded_image_has_no_gradient_and_the_adaptive_adversary_one_all_the_same(spec):
    system, x = defended(spec), images()
    assert not bool(slope(system, x, adaptive=False).any())
    seen = system.purifiers[0].apply(x, None, 0)
    bare = slope(system_of(system.model), seen, adaptive=True)
    assert torch.equal(slope(system, x, adaptive=True), bare)


@pytest.mark.parametrize("spec", ["median", "blur", "tv"])
def test_what_has_a_gradient_hides_none(spec):
    system, x = defended(spec), images()
    plainly = slope(system, x, adaptive=False)
    assert system.purifiers[0].surrogate is None
    assert bool(plainly.any())
    assert torch.equal(plainly, slope(system, x, adaptive=True))


@pytest.mark.parametrize("spec", ["blur", "tv"])
def test_the_gradient_is_that_of_a_small_step(spec):
    (defense,) = resolve_defense(spec)
    x = images(1).double().mul(0.5).add(0.25).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: defense.transform(z).sin(), (x,), eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("bits, levels", [(1, 2), (3, 8), (8, 256)])
def test_bit_depth_leaves_so_many_levels_and_the_nearest_of_them(bits, levels):
    x = torch.linspace(0, 1, 1001).view(1, 1, 7, 143)
    y = purified(f"bit-depth:bits={bits}", x)
    assert len(y.unique()) == levels
    assert float((x - y).abs().max()) <= 0.5 / (levels - 1) + 1e-6
    assert torch.equal(purified(f"bit-depth:bits={bits}", y), y)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_scipys(size):
    x = images(3, 3, 9, 11)
    expected = [[scipy.ndimage.median_filter(c, size=size, mode="nearest") for c in image] for image in x.numpy()]
    assert np.array_equal(Median(size=size).transform(x).numpy(), np.array(expected))


def test_the_median_takes_out_a_lone_pixel():
    x = torch.full((1, 1, 8, 8), 0.3)
    x[0, 0, 4, 4] = 1.0
    assert torch.equal(Median(size=3).transform(x), torch.full_like(x, 0.3))


def test_jpeg_is_the_one_of_the_camera():
    x = images(3, 3, 16, 24)
    for quality in (10, 75):
        expected = jpeg(x, torch.full((3,), float(quality)))
        (defense,) = resolve_defense(f"jpeg:quality={quality}")
        assert torch.equal(defense.transform(x), expected)


def test_the_blur_is_scipys():
    x = images(2, 1, 12, 12).double()
    expected = [
        [scipy.ndimage.gaussian_filter(c, 0.8, mode="nearest", truncate=3.75) for c in image] for image in x.numpy()
    ]
    assert np.allclose(Blur(sigma=0.8).transform(x).numpy(), np.array(expected), atol=1e-6)


def test_total_variation_brings_two_flat_halves_closer_by_what_is_known():
    x = torch.zeros(1, 1, 6, 10)
    x[..., 4:] = 1.0
    z = TotalVariation(weight=0.4, steps=500).transform(x)
    assert torch.allclose(z[..., :4], torch.full((), 0.4 / 4), atol=1e-4)
    assert torch.allclose(z[..., 4:], torch.full((), 1 - 0.4 / 6), atol=1e-4)


def test_total_variation_is_near_its_minimum_and_keeps_the_mean():
    x, weight = images(4, 3), 0.15
    made = TotalVariation(weight=weight, steps=1000).transform(x)
    assert torch.allclose(made.mean((2, 3)), x.mean((2, 3)), atol=1e-5)
    assert energy(made, x, weight) < energy(TotalVariation(weight=weight, steps=5).transform(x), x, weight)
    for seed in range(20):
        step = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        assert energy(made, x, weight) <= energy(made + step, x, weight)


def energy(z: Tensor, x: Tensor, weight: float) -> float:
    down = torch.nn.functional.pad(z.diff(dim=2), (0, 0, 0, 1))
    right = torch.nn.functional.pad(z.diff(dim=3), (0, 1))
    return float((0.5 * (z - x).square() + weight * (down.square() + right.square()).sqrt()).double().sum())


def test_without_weight_total_variation_changes_nothing():
    x = images()
    assert torch.equal(TotalVariation(weight=0).transform(x), x)


@pytest.mark.parametrize(
    "spec, said",
    [
        ("jpeg:quality=0", "jpeg: quality=0; accepted: 1 to 100"),
        ("bit-depth:bits=9", "bit-depth: bits=9; accepted: 1 to 8"),
        ("median:size=1", "median: size=1; accepted: 2 to 15"),
        ("blur:sigma=0", "blur: sigma=0; accepted: 0.1 to 20"),
        ("tv:steps=0", "tv: steps=0; accepted: 1 to 1000"),
    ],
)
def test_an_option_out_of_range_is_refused(spec, said):
    with pytest.raises(UserError, match=said):
        resolve_defense(spec)


def test_jpeg_refuses_what_no_file_holds():
    system = System(model=plain(), num_classes=4, input_shape=(2, 8, 8))
    with pytest.raises(UserError, match="jpeg takes images of 1 or 3 channels, not 2"):
        resolve_defense("jpeg")[0].defend(system, Workshop(train=blobs()))
