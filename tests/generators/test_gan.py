"""GANs: both losses, the discriminator's optimum, packing, and that one network's step leaves the other alone."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.generators import resolve_generator, train_generator
from robustbench_lite.generators.gan import (
    GAN,
    Adversarial,
    AdversarialNetwork,
    discriminator_loss,
    generator_loss,
    pack,
)
from robustbench_lite.generators.networks import frozen
from robustbench_lite.randomness import Draws
from robustbench_lite.training import Batch, Moment


def batch(count: int = 8, shape: tuple[int, int, int] = (1, 8, 8)) -> Batch:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % 10
    return Batch(x=x, y=y, indices=torch.arange(count), draws=Draws.for_images(0, x, y))


def playing(text: str, shape: tuple[int, int, int] = (1, 8, 8)) -> Adversarial:
    generator = resolve_generator(text)
    assert isinstance(generator, GAN)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = generator.build(shape, 10)
    data = Dataset(
        name="some", images=ArrayImages(torch.rand(64, *shape).numpy()), labels=torch.zeros(64).long().numpy(),
        num_classes=10, shape=shape,
    )  # fmt: skip
    play = generator.play(network, generator.recipe(data))
    assert isinstance(play, Adversarial)
    return play


def test_where_it_is_losing_only_one_loss_has_a_slope() -> None:
    """At D(G(z)) = .01 the slope by the logit is .01 for minimax and .99 for the other (Goodfellow 2014, sec. 3)."""
    for kind, slope in (("minimax", 0.01), ("non-saturating", 0.99)):
        logit = torch.tensor([0.01]).logit().requires_grad_(True)
        generator_loss(kind, logit).backward()  # type: ignore[arg-type]
        assert logit.grad is not None
        assert abs(float(logit.grad)) == pytest.approx(slope, abs=1e-5)


def test_both_losses_push_the_same_way() -> None:
    logit = torch.linspace(-5, 5, 11).requires_grad_(True)
    slopes = []
    for kind in ("minimax", "non-saturating", "wasserstein"):
        (slope,) = torch.autograd.grad(generator_loss(kind, logit), logit)  # type: ignore[arg-type]
        slopes.append(slope)
    assert all(bool((slope < 0).all()) for slope in slopes)


def test_the_best_discriminator_tells_the_ratio_of_densities() -> None:
    """D* = p / (p + q), so its logit is ln p - ln q (Goodfellow et al. 2014, prop. 1): N(0, 1) against N(1, 1)."""
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(20_000, 1, generator=generator) + shift for shift in (0.0, 1.0))
    judge = nn.Linear(1, 1)  # enough: the true logit is 1/2 - x
    optimizer = torch.optim.LBFGS(judge.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = discriminator_loss("non-saturating", judge(real), judge(fake))
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(judge.weight.detach()) == pytest.approx(-1, abs=0.05)
    assert float(judge.bias.detach()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("text", ["gan", "dcgan", "conditional-gan", "gan:packing=2"])
def test_turns(text: str) -> None:
    """The discriminator's step gives the generator no gradient, and the other way round."""
    play = playing(text)
    play.network.train()
    for replay, moved, still in ((0, "reader", "painter"), (1, "painter", "reader")):
        play.network.zero_grad()
        play.loss(play.network, batch(), Moment(0, 0.0, replay)).backward()
        grads = {
            part: [parameter.grad for parameter in getattr(play.network, part).parameters()] for part in (moved, still)
        }
        assert all(grad is None for grad in grads[still])
        assert any(grad is not None and bool((grad != 0).any()) for grad in grads[moved])


def test_simultaneous_steps_are_both_turns_at_once() -> None:
    play = playing("gan", (2, 1, 1))
    assert play.recipe.replays == 1
    network, points = play.network.eval(), batch(8, (2, 1, 1))
    play.loss(network, points, Moment(0, 0.0)).backward()
    both = {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}
    network.zero_grad()
    made = network.decode(network.prior(points.draws))
    with frozen(network.reader):
        generator_loss("non-saturating", network.judge(made)).backward()
    made = made.detach()
    discriminator_loss("non-saturating", network.judge(points.x), network.judge(made)).backward()
    apart = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    assert both.keys() == apart.keys()
    for name, grad in both.items():
        torch.testing.assert_close(grad, apart[name])


def test_a_critic_moves_more_often() -> None:
    play = playing("wgan-gp")
    assert play.critic == 5
    moved = []
    for number in range(10):
        play.network.zero_grad()
        play.loss(play.network, batch(), Moment(0, 0.0, batch=number)).backward()
        moved.append(next(play.network.painter.parameters()).grad is not None)
    assert moved == [number % 5 == 4 for number in range(10)]


def test_the_penalty_is_zero_for_a_critic_of_slope_one() -> None:
    play = playing("wgan-gp")

    class Plane(nn.Module):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return x.flatten(1).sum(1, keepdim=True) / 8  # 64 pixels: the slope has norm 1

    play.network.reader = Plane()  # type: ignore[assignment]
    x = batch()
    assert float(play._slopes(torch.zeros_like(x.x), x)) == pytest.approx(0, abs=1e-9)


def test_packs_are_rows_in_order() -> None:
    x = torch.arange(7 * 2 * 3 * 3).float().view(7, 2, 3, 3)
    packed = pack(x, 3)
    assert packed.shape == (2, 6, 3, 3)
    assert torch.equal(packed[1, 2:4], x[4])
    assert pack(x, 1) is x


def test_packing_by_one_is_the_gan_itself() -> None:
    plain = train_generator("gan", "digits", epochs=2, use_cache=False)
    packed = train_generator("gan:packing=1,loss=non-saturating", "digits", epochs=2, use_cache=False)
    assert plain.digest == packed.digest


def test_packing_grows_the_first_layer_of_the_discriminator_alone() -> None:
    one, two = (resolve_generator(text).build((1, 28, 28), 10) for text in ("dcgan", "dcgan:packing=3"))
    assert isinstance(one, AdversarialNetwork)
    assert isinstance(two, AdversarialNetwork)
    differ = [
        name
        for (name, left), (_, right) in zip(one.state_dict().items(), two.state_dict().items(), strict=True)
        if left.shape != right.shape
    ]
    assert differ == ["reader.body.0.weight"]


def test_labels_matter_to_both_networks() -> None:
    network = resolve_generator("conditional-gan").build((1, 8, 8), 10).eval()
    z, x = torch.zeros(2, network.latent), torch.rand(1, 1, 8, 8).repeat(2, 1, 1, 1)
    y = torch.tensor([3, 7])
    images, scores = network.decode(z, y), network.judge(x, y)
    assert not torch.equal(images[0], images[1])
    assert float(scores.detach()[0]) != float(scores.detach()[1])


def test_a_collapse_is_told() -> None:
    generator = resolve_generator("gan")
    network = generator.build((1, 8, 8), 10)

    def same(z: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.full((len(z), 1, 8, 8), 0.5)

    network.decode = same  # type: ignore[method-assign]
    with pytest.raises(UserError, match="collapsed"):
        generator.verdict(network, playing_data())


def playing_data() -> Dataset:
    x = torch.rand(64, 1, 8, 8).numpy()
    return Dataset(
        name="some", images=ArrayImages(x), labels=torch.zeros(64).long().numpy(), num_classes=10, shape=(1, 8, 8)
    )
