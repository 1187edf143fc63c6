"""From an image back to a latent point."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Network
from robustbench_lite.generators.inversion import error_of, invert
from robustbench_lite.randomness import Draws

SHAPE = (1, 4, 4)


class Flat(Network):
    """A linear decoder: its images are a plane of `latent` dimensions."""

    def __init__(self, latent: int = 3, num_classes: int = 0) -> None:
        super().__init__(SHAPE, num_classes, latent)
        self.out = nn.Linear(latent, 16)
        self.shift = nn.Embedding(max(1, num_classes), 16)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        rows = self.out(z) + (0 if y is None else self.shift(y))
        return rows.view(-1, *SHAPE)


class Bent(Flat):
    """A decoder with many local minima: which one is found depends on the start."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (4 * self.out(z)).sin().view(-1, *SHAPE) / 2 + 0.5


def made(kind: type[Flat] = Flat, **options: int) -> Flat:
    with training.seeded(3):
        return kind(**options).eval().requires_grad_(False)


def streams(count: int, seed: int = 0) -> Draws:
    return Draws.of(seed, [index.to_bytes(8, "little") for index in range(count)])


def images(network: Flat, count: int, y: Tensor | None = None) -> Tensor:
    return network.decode(network.prior(streams(count, seed=9)), y)


@pytest.mark.parametrize("optimizer, rate", [("adam", None), ("momentum", 1.0)])
def test_a_point_of_a_linear_decoders_range_is_recovered(optimizer, rate):
    network = made()
    x = images(network, 6)
    z, errors = invert(network, x, None, streams(6), restarts=2, steps=300, learning_rate=rate, optimizer=optimizer)
    assert z.shape == (6, 3)
    assert float(errors.max()) < 1e-3
    torch.testing.assert_close(errors, error_of(network, z, x))
    torch.testing.assert_close(z, network.prior(streams(6, seed=9)), atol=0.2, rtol=0)


def test_an_image_outside_the_range_is_projected_onto_it():
    network = made()
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    rest = x.flatten(1) - network.out.bias
    hat = network.out.weight @ torch.linalg.pinv(network.out.weight)
    nearest = (rest - rest @ hat.T).pow(2).mean(1)
    _, errors = invert(network, x, None, streams(5), restarts=2, steps=400)
    torch.testing.assert_close(errors, nearest, rtol=0.01, atol=1e-4)


def test_the_error_does_not_grow_with_restarts_nor_with_steps():
    network = made(Bent)
    x = images(network, 12)
    least = [invert(network, x, None, streams(12), restarts=count, steps=40)[1] for count in (1, 2, 6)]
    assert bool((least[1] <= least[0] + 1e-6).all())
    assert bool((least[2] <= least[1] + 1e-6).all())
    assert float(least[2].mean()) < float(least[0].mean())
    longer = invert(network, x, None, streams(12), restarts=1, steps=80)[1]
    assert bool((longer <= least[0] + 1e-6).all())


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_row_finds_the_same_point_alone_as_in_any_batch(optimizer):
    network = made(Bent)
    x, draws = images(network, 7), streams(7)
    how = {"restarts": 3, "steps": 25, "optimizer": optimizer, "learning_rate": 0.1}
    z, errors = invert(network, x, None, draws, **how)
    again, _ = invert(network, x, None, draws, **how)
    assert torch.equal(z, again)
    order = torch.tensor([4, 0, 6])
    part, part_errors = invert(network, x[order], None, draws[order], **how)
    torch.testing.assert_close(part, z[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part_errors, errors[order], rtol=1e-4, atol=1e-5)
    cut, _ = invert(network, x, None, draws, **how, lanes=6)
    torch.testing.assert_close(cut, z, rtol=1e-4, atol=1e-4)


def test_other_streams_begin_elsewhere_and_the_global_generator_is_not_used():
    network = made(Bent)
    x = images(network, 4)
    before = torch.get_rng_state()
    one, _ = invert(network, x, None, streams(4), restarts=1, steps=5)
    other, _ = invert(network, x, None, streams(4, seed=1), restarts=1, steps=5)
    assert not torch.allclose(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_conditional_network_is_inverted_under_the_labels():
    network = made(num_classes=4)
    y = torch.tensor([0, 1, 2, 3, 1])
    x = images(network, 5, y)
    assert float(invert(network, x, y, streams(5), restarts=1, steps=300)[1].max()) < 1e-3
    assert float(invert(network, x, y.flip(0), streams(5), restarts=1, steps=300)[1].max()) > 0.01
    with pytest.raises(UserError, match="needs the labels"):
        invert(network, x, None, streams(5))


def test_it_works_where_gradients_are_switched_off_and_on_no_images():
    network = made()
    with torch.no_grad():
        z, errors = invert(network, images(network, 2), None, streams(2), restarts=1, steps=10)
    assert not z.requires_grad
    assert not errors.requires_grad
    nothing = invert(network, torch.zeros(0, *SHAPE), None, streams(0), restarts=1, steps=10)
    assert [len(part) for part in nothing] == [0, 0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"restarts": 0}, "restarts=0; accepted: 1 and more"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1"),
        ({"optimizer": "sgd"}, "optimizer=sgd; accepted: adam, momentum"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    network = made()
    with pytest.raises(UserError, match=message):
        invert(network, images(network, 1), None, streams(1), **options)


def test_a_network_in_training_mode_is_refused():
    network = made()
    with pytest.raises(UserError, match="training mode"):
        invert(network.train(), images(network, 1), None, streams(1))


def test_the_momentum_rule_is_that_of_the_paper():
    network = made(latent=1)
    x, draws = images(network, 1), replace(streams(1))
    z = network.prior(draws).clone()
    velocity, best = torch.zeros_like(z), torch.tensor(float("inf"))
    for step in range(10):
        point = z.clone().requires_grad_()
        error = error_of(network, point, x).sum()
        best = torch.minimum(best, error.detach())
        velocity = 0.7 * velocity + torch.autograd.grad(error, point)[0]
        z = z - (0.5 if step < 8 else 0.05) * velocity
    best = torch.minimum(best, error_of(network, z, x).sum())
    _, errors = invert(network, x, None, draws, restarts=1, steps=10, learning_rate=0.5, optimizer="momentum")
    torch.testing.assert_close(errors, best.view(1))
