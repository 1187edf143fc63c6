"""The Laplacian pyramid is exact, and every level of a LAPGAN stands by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite import data as datasets
from robustbench_lite.generators import pyramid, resolve_generator, train_generator
from robustbench_lite.generators.lapgan import LAPGAN, BandPainter, PyramidNetwork
from robustbench_lite.randomness import Draws
from robustbench_lite.training import Batch, Moment


@settings(deadline=None)
@given(st.integers(2, 33), st.integers(2, 33), st.integers(1, 4), st.sampled_from([1, 3]))
def test_putting_the_bands_back_is_exact(height: int, width: int, levels: int, channels: int) -> None:
    x = torch.rand(2, channels, height, width, dtype=torch.float64)
    details, coarsest = pyramid.bands(x, levels)
    assert torch.equal(pyramid.coarsest(x, levels), coarsest)
    assert [tuple(band.shape[2:]) for band in [*details, coarsest]] == pyramid.sizes((height, width), levels)
    assert float((pyramid.rebuilt(details, coarsest) - x).abs().max()) < 1e-12


@settings(deadline=None)
@given(st.integers(2, 33), st.integers(2, 33), st.floats(0, 1))
def test_a_constant_image_has_empty_bands(height: int, width: int, value: float) -> None:
    details, coarsest = pyramid.bands(torch.full((1, 1, height, width), value), 2)
    assert all(float(band.abs().max()) < 1e-6 for band in details)
    torch.testing.assert_close(coarsest, torch.full_like(coarsest, value))


def test_empty_bands_give_the_smooth_image() -> None:
    coarsest = torch.rand(1, 1, 7, 7)
    details = [torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 14, 14)]
    expected = pyramid.up(pyramid.up(coarsest, (14, 14)), (28, 28))
    assert torch.equal(pyramid.rebuilt(details, coarsest), expected)


def test_levels_that_draw_nothing_leave_real_images_smooth() -> None:
    network = resolve_generator("lapgan").build((1, 28, 28), 10)
    assert isinstance(network, PyramidNetwork)
    for painter in network.painters:
        assert isinstance(painter, BandPainter)
        for part in painter.body[-2].parameters():
            torch.nn.init.zeros_(part)
    x = torch.rand(3, 1, 28, 28)
    made = network.completed(x, torch.randn(3, network.latent))
    half, quarter = pyramid.down(x), pyramid.down(pyramid.down(x))
    assert list(made) == [14, 7]
    torch.testing.assert_close(made[14], pyramid.up(half, (28, 28)))
    torch.testing.assert_close(made[7], pyramid.up(pyramid.up(quarter, (14, 14)), (28, 28)))


def test_the_smallest_images_are_judged_centred_and_scaled() -> None:
    train = datasets.load("digits", "train")
    generator = resolve_generator("lapgan")
    network = generator.build(train.shape, 10)
    assert isinstance(network, PyramidNetwork)
    small = pyramid.coarsest(train.batch(range(len(train))), 1)
    as_it_is = network.coarsest.judge(small)
    torch.testing.assert_close(as_it_is, network.coarsest.reader(small).squeeze(1))
    generator.prepare(network, train)
    seen: list[torch.Tensor] = []
    network.coarsest.reader.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.coarsest.judge(small)
    assert float(seen[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(seen[0].std()) == pytest.approx(1, abs=1e-3)


def test_made_detail_is_that_of_sampling_above_the_same_image() -> None:
    """What `decode` puts on the coarsest image is what `completed` puts on a real one that looks the same."""
    network = resolve_generator("lapgan:levels=1,width=4").build((1, 8, 8), 10)
    assert isinstance(network, PyramidNetwork)
    z = torch.randn(5, network.latent)
    network.eval()
    with torch.no_grad():
        small = network.coarsest.decode(z[:, : network.coarsest.latent])
        torch.testing.assert_close(network.decode(z), network.risen(small, z, None, 1))


def test_coarse_bands_cost_little_and_bring_much() -> None:
    """Burt and Adelson's compression: few levels of grey in the bands, a small error in the image."""
    x = train_image()
    details, coarsest = pyramid.bands(x, 2)
    coarse = [(band * 16).round() / 16 for band in details]
    assert float((pyramid.rebuilt(coarse, coarsest) - x).abs().max()) <= 2 / 32 + 1e-6


def train_image() -> torch.Tensor:
    return datasets.load("digits", "train").batch([0])


@pytest.mark.parametrize("shape,levels", [((1, 8, 8), 1), ((1, 28, 28), 2), ((3, 32, 32), 2), ((3, 64, 64), 3)])
def test_levels_by_size(shape: tuple[int, int, int], levels: int) -> None:
    network = resolve_generator("lapgan").build(shape, 10)
    assert isinstance(network, PyramidNetwork)
    assert network.levels == levels


def test_each_level_learns_by_itself() -> None:
    """The gradient of one level's networks does not depend on what another level has learned."""
    generator = LAPGAN(levels=2)
    x = torch.rand(8, 1, 28, 28)
    y = torch.zeros(8, dtype=torch.int64)
    batch = Batch(x=x, y=y, indices=torch.arange(8), draws=Draws.for_images(0, x, y))

    def slopes(shift: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = generator.build((1, 28, 28), 10)
        assert isinstance(network, PyramidNetwork)
        with torch.no_grad():
            for parameter in network.painters[1].parameters():
                parameter.add_(shift)
        play = generator.play(network.eval(), generator.recipe(data()))
        play.loss(network, batch, Moment(0, 0.0, 1)).backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in network.named_parameters()
            if parameter.grad is not None and not name.startswith("painters.1")
        }

    one, other = slopes(0.0), slopes(0.1)
    assert one.keys() == other.keys()
    assert any(name.startswith("painters.0") for name in one)
    for name, grad in one.items():
        assert torch.equal(grad, other[name])


def data():  # type: ignore[no-untyped-def]
    from robustbench_lite.data.base import ArrayImages, Dataset

    x = torch.rand(64, 1, 28, 28).numpy()
    return Dataset(
        name="some", images=ArrayImages(x), labels=torch.zeros(64).long().numpy(), num_classes=10, shape=(1, 28, 28)
    )


def test_a_short_training_gives_different_images() -> None:
    trained = train_generator("lapgan:width=8", "digits", epochs=8, use_cache=False)
    assert trained.card["outcome"]["spread_of_samples"] > 0.05
    assert {"discriminator_loss_8", "generator_loss_8", "generator_loss"} <= trained.card["training"]["figures"].keys()
