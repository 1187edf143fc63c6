"""Cameras: what they do to pixels in closed form, and that no image feels its neighbours."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.physical import PRESETS, Camera, resolve_camera
from robustbench_lite.physical.lab import difference, lab
from robustbench_lite.physical.presets import from_toml, to_toml
from robustbench_lite.physical.warp import DEPTH
from robustbench_lite.randomness import Draws

COLOUR, GREY = (3, 12, 12), (1, 9, 9)


def images(shape: tuple[int, ...] = COLOUR, count: int = 40) -> tuple[Tensor, Draws]:
    x = torch.rand((count, *shape), generator=torch.Generator().manual_seed(3))
    return x, Draws.for_images(0, x, torch.arange(count) % 10)


def seen(spec: str | Camera, x: Tensor, draws: Draws, index: Tensor | int = 0) -> Tensor:
    return resolve_camera(spec).photograph(x, draws, index)


@pytest.mark.parametrize("spec", ["none", "rotation=0", "scale=1,translation=0", "gamma=1", "crop=true,distance=1"])
def test_a_camera_that_changes_nothing_changes_no_bit(spec: str) -> None:
    x, draws = images()
    assert torch.equal(seen(spec, x, draws), x)
    wide = replace(resolve_camera(spec), rotation=(-1e-12, 1e-12))  # the warp runs, and reads whole pixels
    assert torch.equal(wide.photograph(x, draws), x)


@pytest.mark.parametrize("turns", [-3, -2, -1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [COLOUR, GREY, (2, 8, 8)])
def test_quarter_turns_are_those_of_rot90(turns: int, shape: tuple[int, ...]) -> None:
    x, draws = images(shape, 4)
    assert torch.equal(seen(f"rotation={90 * turns}", x, draws), x.rot90(turns, (2, 3)))


def test_twice_the_distance_is_half_the_size() -> None:
    """A pinhole camera: a square of 8 pixels becomes one of 4, with the same middle and the same grey."""
    x = torch.zeros((1, 1, 16, 16))
    x[:, :, 4:12, 4:12] = 1
    draws = images()[1][:1]
    near, far = seen("distance=1", x, draws), seen("distance=2", x, draws)
    assert torch.equal(near, x)
    assert float(far.sum()) == pytest.approx(float(x.sum()) / 4, rel=0.02)
    torch.testing.assert_close(far, far.flip(2, 3))
    torch.testing.assert_close(far[0, 0, 7, 7], torch.tensor(1.0), rtol=0, atol=0.01)
    assert float(far[0, 0, 7, 4]) < 0.3 < float(far[0, 0, 7, 6])


@pytest.mark.parametrize("yaw", [-60.0, 30.0, 45.0])
def test_from_the_side_a_strip_is_foreshortened_by_the_cosine_and_the_near_end_is_larger(yaw: float) -> None:
    """Where the image's points go is known: u = X cos a / (1 + X sin a / depth)."""
    side = 201
    for place in (-60, 0, 25, 60):
        x = torch.zeros((1, 1, side, side))
        x[:, :, :, 100 + place - 1 : 100 + place + 2] = 1
        out = seen(f"yaw={yaw}", x, images()[1][:1])[0, 0, 100]
        middle = float((out * torch.arange(side)).sum() / out.sum()) - 100
        angle, flat = torch.tensor(yaw).deg2rad(), place / (side / 2)
        exact = flat * angle.cos() / (1 + flat * angle.sin() / DEPTH) * side / 2
        assert abs(middle - float(exact)) < 0.3


def test_crop_undoes_a_distance_but_for_the_lost_detail() -> None:
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 1, 32, 32).contiguous()
    draws = images()[1][:1]
    far = seen("distance=4,crop=true", ramp, draws)
    assert float((far - ramp)[..., 4:-4, 4:-4].abs().max()) < 0.02
    noise = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    assert float(seen("distance=4,crop=true", noise, draws)[..., 8:-8, 8:-8].std()) < 0.3 * float(noise.std())
    assert torch.equal(seen("distance=0.5,crop=true", noise, draws), noise)  # closer: nothing is lost


def test_light_is_affine_and_the_background_lies_around() -> None:
    x, draws = images()
    torch.testing.assert_close(seen("contrast=0.5,brightness=0.1", x, draws), x * 0.5 + 0.35)
    torch.testing.assert_close(seen("gamma=2", x, draws), x**2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen("tint=0.5", x, draws), x * 0.5)
    out = seen("scale=0.5,background=0.3", x, draws)
    assert torch.equal(out[:, :, 0], torch.full_like(out[:, :, 0], 0.3))
    moved = seen("translation=0.5..0.5,background=0.25", x, draws)
    torch.testing.assert_close(moved[:, :, :6, 6:], x[:, :, 6:, :6])
    assert float(moved[:, :, 6:].min()) == float(moved[:, :, 6:].max()) == 0.25


def test_blur_keeps_a_flat_image_and_spreads_a_point_as_far_as_it_says() -> None:
    draws, flat, point = images()[1][:1], torch.full((1, 1, 21, 21), 0.4), torch.zeros((1, 1, 21, 21))
    point[..., 10, 10] = 1
    torch.testing.assert_close(seen("blur=1.5", flat, draws), flat)
    out = seen("blur=1.5", point, draws)[0, 0]
    at = torch.arange(21.0) - 10
    assert float((out.sum(0) * at**2).sum()) == pytest.approx(1.5**2, rel=0.03)


def test_settings_differ_from_sample_to_sample_and_draw_to_draw_and_stay_in_range() -> None:
    _, draws = images()
    camera = resolve_camera("rotation=±30,scale=0.7..1.3,tint=0.9..1.1,noise=0.1")
    first, second = camera.draw(draws, 0, 3), camera.draw(draws, 1, 3)
    for view in (first, second):
        assert len(view.rotation.unique()) == len(view.scale.unique()) == len(draws)
        assert bool(((view.rotation.abs() <= 30) & (view.scale >= 0.7) & (view.scale <= 1.3)).all())
        assert len(view.tint.unique()) == 3 * len(draws)
        assert not torch.equal(view.rotation, view.scale)
    assert not bool((first.rotation == second.rotation).any())
    by_row = camera.draw(draws, torch.arange(len(draws)) % 2, 3)
    assert torch.equal(by_row.rotation[::2], first.rotation[::2])
    assert torch.equal(by_row.rotation[1::2], second.rotation[1::2])
    wider = replace(camera, blur=(0.0, 2.0)).draw(draws, 0, 3)
    assert torch.equal(wider.rotation, first.rotation)  # another setting's range moves nothing here


@pytest.mark.parametrize("name", [*PRESETS, "perspective=±20,background=0..1,crop=true,distance=0.7..4,jpeg=20..90"])
@pytest.mark.parametrize("shape", [COLOUR, GREY])
def test_no_image_feels_its_neighbours(name: str, shape: tuple[int, ...]) -> None:
    x, draws = images(shape)
    camera, step = resolve_camera(name), torch.arange(len(x)) % 7
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def both(rows: slice) -> tuple[Tensor, Tensor]:
        leaf = x[rows].clone().requires_grad_(True)
        out = camera.photograph(leaf, draws[rows], step[rows])
        (grad,) = torch.autograd.grad((out * weight).sum(), leaf)
        return out.detach(), grad

    out, grad = both(slice(None))
    assert bool(((out >= 0) & (out <= 1) & grad.isfinite()).all())
    assert bool((grad != 0).flatten(1).any(1).all())
    for row in (0, 17, 39):
        alone = both(slice(row, row + 1))
        assert torch.equal(alone[0][0], out[row])
        assert torch.equal(alone[1][0], grad[row])
    later = both(slice(11, 30))
    assert torch.equal(later[0], out[11:30])


def test_the_gradient_of_a_linear_model_is_its_weights_carried_back_through_the_mean_view() -> None:
    """t(x) = A x + b, so the gradient of E[w t(x)] is E[A]^T w: A's columns are what unit images become."""
    x, draws = images((1, 5, 5), 1)
    weight = torch.rand((1, 5, 5), generator=torch.Generator().manual_seed(1)).double()
    camera = resolve_camera("rotation=±40,scale=0.6..1.5,contrast=0.4..0.6,translation=±0.1")
    leaf, carried = x.double().requires_grad_(True), torch.zeros(25, dtype=torch.float64)
    units = torch.eye(25).view(25, 1, 5, 5).double()
    total = torch.zeros((), dtype=torch.float64)
    for number in range(8):
        total = total + (camera.photograph(leaf, draws, number) * weight).sum() / 8
        view = camera.draw(draws, number, 1)[torch.zeros(25, dtype=torch.int64)]
        zero = camera.render(torch.zeros_like(units[:1]), view[:1])
        carried += ((camera.render(units, view) - zero) * weight).flatten(1).sum(1) / 8
    (grad,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(grad.flatten(), carried, rtol=1e-5, atol=1e-7)


def test_rounding_and_jpeg_pass_the_gradient_on() -> None:
    x, draws = images(count=2)
    leaf = x.requires_grad_(True)
    out = seen("bits=true,jpeg=50", leaf, draws)
    torch.testing.assert_close(out * 255, (out * 255).round())
    (grad,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("name", PRESETS)
def test_a_camera_prints_back_as_spec_and_as_toml(name: str) -> None:
    camera = PRESETS[name].camera
    assert resolve_camera(str(camera)) == camera
    assert from_toml(to_toml(camera)) == camera


@pytest.mark.parametrize(
    "one, other",
    [
        ("physical:print-photo", "print-photo"),
        ("rotation=±30", "rotation=-30..30"),
        ("rotation=+-30,scale=0.7..1.3", "physical:scale=0.7..1.3,rotation=(-30..30)"),
        ("perspective=±5", "yaw=±5,pitch=±5"),
        ("noise=2/255", "noise=0.00784313725490196..2/255"),
        ("Print-Photo,jpeg=none", "print-photo,jpeg=none"),
    ],
)
def test_ways_to_write_the_same(one: str, other: str) -> None:
    assert resolve_camera(one) == resolve_camera(other)


def test_a_file_of_your_own(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "street.toml"
    file.write_text('base = "print-photo"\nrotation = [-10, 10]\nscale = "0.5..1"\njpeg = 60\ncrop = true\n')
    expected = resolve_camera("print-photo,rotation=±10,scale=0.5..1,jpeg=60,crop=true")
    assert resolve_camera(f"physical:{file}") == expected
    assert resolve_camera(f"{file},blur=3") == replace(expected, blur=(3, 3))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("print-foto", "unknown camera 'print-foto'; did you mean 'print-photo'"),
        ("rotatoin=±3", "did you mean rotation"),
        ("rotation=abc", "rotation=abc is no range; write it as -30..30, ±30 or 5"),
        ("rotation=3..-3", "ends below its beginning"),
        ("rotation=nan", "is no range"),
        ("scale=0..1", "scale=0..1; accepted: from 0.05 to 20"),
        ("jpeg=0", "accepted: from 1 to 100"),
        ("bits=maybe", "accepted: true, false"),
        ("yaw=90", "accepted: from -80 to 80"),
        ("rotation=1,rotation=2", "given twice"),
        ("print-photo,30", "cannot read '30'"),
        ("", "cannot read ''"),
        ("nowhere.toml", "cannot read the camera 'nowhere.toml': No such file"),
    ],
)
def test_mistakes_are_told_in_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_camera(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["rotation = 'x'", "rotatoin = 3", "base = 'x'", "base = 3", "= 3", "scale = [1]"])
def test_a_bad_file_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        from_toml(text, "street.toml")


def test_lab_has_the_known_colours_and_a_gradient_everywhere() -> None:
    white, red = torch.ones((1, 3, 1, 1)), torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    expected = torch.tensor([[100, 0, 0], [53.24, 80.09, 67.20]], dtype=torch.float64)
    torch.testing.assert_close(torch.cat((lab(white), lab(red)))[:, :, 0, 0], expected, rtol=0, atol=0.01)
    black = torch.zeros((2, 3, 4, 4), requires_grad=True)
    (grad,) = torch.autograd.grad(difference(black, black.detach()).sum() + lab(black).sum(), black)
    assert bool(grad.isfinite().all())
    assert float(difference(white, white)) < 1e-5
    grey = difference(torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.6))
    assert 5 < float(grey) < 15
