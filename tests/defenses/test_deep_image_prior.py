"""Deep image prior: smooth images before noise, networks that do not feel each other, and a gradient that is not there."""

import pytest
import torch
from torch import nn

from robustbench_lite.attack import EOT, Goal, craft, resolve_attack
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.deep_image_prior import DeepImagePrior
from robustbench_lite.defenses.hourglass import Hourglass, psnr
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


def draws(count: int) -> Draws:
    return Draws.of(0, [bytes([row]) for row in range(count)])


def discs(count: int, side: int = 20) -> torch.Tensor:
    """Grey discs at different places, smooth but for one edge."""
    down, across = torch.meshgrid(*(2 * [torch.linspace(-1, 1, side)]), indexing="ij")
    inside = [((down - 0.1 * k) ** 2 + (across + 0.1 * k) ** 2 < 0.3).float() for k in range(count)]
    return 0.1 + 0.8 * torch.stack(inside)[:, None]


def test_the_curve_has_a_bump_the_image_is_fitted_before_the_noise():
    clean = discs(2)
    noisy = (clean + 0.2 * draws(2).normal(clean.shape[1:], "test-noise")).clamp(0, 1)
    curve = DeepImagePrior(iterations=350, width=8).curve(noisy, clean, draws(2)).mean(1)
    peak = int(curve.argmax())
    assert 20 < peak < 300
    assert float(curve.max()) > float(psnr(noisy, clean).mean()) + 1.5  # better than what it was given
    assert float(curve[-20:].mean()) < float(curve.max()) - 1  # and worse again where nobody stops it


def test_on_the_way_the_fit_itself_gets_ever_nearer_to_what_it_is_given():
    noisy = (discs(2) + 0.2 * draws(2).normal((1, 20, 20), "test-noise")).clamp(0, 1)
    curve = DeepImagePrior(iterations=150, width=8).curve(noisy, noisy, draws(2)).mean(1)
    assert curve[0] + 5 < curve[50] < curve[150]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (1, 28, 28)])
def test_images_of_every_size_are_fitted_each_by_itself(shape):
    x = torch.rand((5, *shape), generator=torch.Generator().manual_seed(0))
    prior = DeepImagePrior(iterations=4, width=4)
    together = prior.fitted(x, draws(5), 3)
    assert together.shape == x.shape
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    for row in (0, 4):
        alone = prior.fitted(x[row : row + 1], draws(5)[torch.tensor([row])], 3)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-4)


def test_every_look_has_weights_and_input_of_its_own():
    x = discs(3, 8)
    prior = DeepImagePrior(iterations=3, width=4)
    first, again, other = (prior.fitted(x, draws(3), index) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mixed = prior.fitted(x, draws(3), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(mixed, torch.stack((first[0], other[1], first[2])), rtol=0, atol=1e-5)


def test_the_networks_are_those_of_torch_side_by_side():
    """The grouped arithmetic against a plain network with the same weights."""
    net = Hourglass(shape=(2, 9, 6), width=3, scales=1)
    weights, z = net.fresh(draws(2), 0), net.input(draws(2), 0)
    shown = net.show(weights, z)
    for row in range(2):
        mine = [one[row] for one in weights]

        def layer(x: torch.Tensor, number: int, mine: list[torch.Tensor] = mine) -> torch.Tensor:
            weight, gain, shift = mine[3 * number : 3 * number + 3]
            x = nn.functional.conv2d(x, weight.view(weight.shape[0], -1, 3, 3), padding=1)
            if 3 * number + 3 == len(mine):
                return (x * gain[..., None] + shift[..., None]).sigmoid()
            return nn.functional.leaky_relu(nn.functional.instance_norm(x) * gain[..., None] + shift[..., None], 0.2)

        wide = layer(z[row : row + 1], 0)
        deep = layer(nn.functional.avg_pool2d(wide, 2, ceil_mode=True), 1)
        back = nn.functional.interpolate(deep, size=wide.shape[2:], mode="bilinear")
        expected = layer(layer(torch.cat((back, wide), 1), 2), 3)
        torch.testing.assert_close(shown[row : row + 1], expected, rtol=1e-4, atol=1e-5)


def system() -> System:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return System(model=net, num_classes=4, input_shape=(1, 8, 8))


def defended(spec: str) -> System:
    (defense,) = resolve_defense(spec)
    return defense.defend(system(), Workshop(train=None))  # type: ignore[arg-type]  # it learns nothing


def test_the_plain_adversary_has_no_gradient_and_the_adaptive_one_the_identitys():
    guarded, bare = defended("deep-image-prior:iterations=3,width=4"), system()
    x = discs(3, 8).requires_grad_()
    assert guarded.randomised
    assert not guarded(x, draws(3)).scores.requires_grad
    (slope,) = torch.autograd.grad(guarded(x, draws(3), adaptive=True).scores[:, 0].sum(), x)
    (plain,) = torch.autograd.grad(bare(x).scores[:, 0].sum(), x)
    torch.testing.assert_close(slope, plain)


def test_who_knows_it_breaks_it():
    """The identity's gradient, averaged over two networks, judged by networks that the search has not seen."""
    guarded = defended("deep-image-prior:iterations=25,width=8")
    x, threat = discs(6, 8), Threat(norm="Linf", eps=0.25)

    def answer(points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            looks = [guarded(points, draws(6), 1000 + number).prediction() for number in range(9)]
        return torch.stack(looks).mode(0).values

    y = answer(x)
    attack = resolve_attack("pgd:steps=4,step_size=1/4,restarts=1,objective=margin")
    adv = craft(attack, guarded, x, Goal(y=y), threat, draws(6), eot=EOT(draws=2))
    assert (answer(adv) != y).sum() >= 4


@pytest.mark.parametrize("options", ["iterations=0", "width=0", "width=9999", "learning_rate=0", "jitter=-1"])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"deep-image-prior: {options.split('=')[0]}="):
        resolve_defense(f"deep-image-prior:{options}")


def test_images_that_cannot_be_halved_are_refused():
    (defense,) = resolve_defense("deep-image-prior")
    tiny = System(model=nn.Flatten(), num_classes=3, input_shape=(1, 3, 3))
    with pytest.raises(UserError, match="takes images of 4 pixels and more"):
        defense.defend(tiny, None)  # type: ignore[arg-type]
