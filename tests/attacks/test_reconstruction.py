"""Attacks on what reconstructs images: closed forms on a linear autoencoder, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close
from toys import Affine, affine, samples

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Goal, Learned, Setup, craft
from robustbench_lite.attacks.reconstruction import (
    LatentClassifier,
    LatentMatch,
    OutputDamage,
    VAELoss,
    gaussian_kl,
    softmax_on,
)
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Code, Network
from robustbench_lite.pictures import Pictures, Seen
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat
from robustbench_lite.zoo.generators import Reconstructor

SIDE, LATENT, CLASSES = 5, 6, 3


class Linear(Network):
    """z = U (x - 1/2), x^ = U^T z + 1/2, with orthonormal rows U; a spread of the code that depends on the image."""

    def __init__(self, seed: int, *, gaussian: bool = False) -> None:
        super().__init__((1, SIDE, SIDE), 0, LATENT)
        generator = torch.Generator().manual_seed(seed)
        self.u = torch.nn.Parameter(torch.linalg.qr(torch.randn((SIDE**2, LATENT), generator=generator))[0].T)
        self.gaussian = gaussian

    def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
        mean = (x.flatten(1) - 0.5) @ self.u.T
        return Code(mean=mean, log_variance=mean.roll(1, 1) / 2 - 1 if self.gaussian else None)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (z @ self.u + 0.5).view(-1, *self.shape)


def mirror(seed: int = 0, *, gaussian: bool = False) -> tuple[System, Tensor]:
    """A linear autoencoder before a random affine judge, and its U."""
    network = Linear(seed, gaussian=gaussian)
    judge = affine(CLASSES, SIDE, seed).model
    model = Reconstructor(network, judge)
    return System(model=model, num_classes=CLASSES, input_shape=network.shape, name="mirror"), network.u.detach()


def scene(system: System, count: int = 8, seed: int = 3) -> tuple[Tensor, Goal, Draws, Tensor]:
    """Images near grey, where no wall binds, and the code of others to aim at; the targets are of any class."""
    generator = torch.Generator().manual_seed(seed)
    x, aim = (0.5 + 0.1 * torch.randn((count, 1, SIDE, SIDE), generator=generator) for _ in range(2))
    said = system(aim)
    y = torch.zeros(count, dtype=torch.int64)
    goal = Goal(y=y, target=y + 1, context=Seen.of(aim, said, "a test"))
    return x.clamp(0.2, 0.8), goal, Draws.for_images(0, x, y), aim


@pytest.mark.parametrize("weight", [0.25, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_latent_match_is_the_closed_form_on_a_linear_autoencoder(weight: float, seed: int) -> None:
    """delta* = (U^T U + lambda I)^-1 U^T U (x_t - x_s)."""
    system, u = mirror(seed)
    x, goal, draws, aim = scene(system)
    attack = LatentMatch(image_weight=weight, targets=1, steps=400)
    adv = craft(attack, system, x, goal, Threat(norm="L2", eps=1.0), draws)
    gram = u.T @ u
    inverse = torch.linalg.inv(gram + weight * torch.eye(SIDE**2))
    wanted = (aim - x).flatten(1) @ (inverse @ gram).T
    assert float((wanted.norm(dim=1)).max()) < 0.99  # the ball does not bind
    assert_close((adv - x).flatten(1), wanted, rtol=0, atol=0.01)


def test_with_room_enough_the_other_image_comes_back() -> None:
    system, _ = mirror()
    x, goal, draws, aim = scene(system)
    adv = craft(LatentMatch(targets=1, steps=400), system, x, goal, Threat(norm="L2", eps=1.0), draws)
    assert_close(system(adv).image, system(aim).image, rtol=0, atol=0.01)
    assert not torch.allclose(adv, aim, atol=0.05)  # and it is not that image


@pytest.mark.parametrize("attack", [LatentMatch(targets=1), VAELoss(targets=1, steps=300)])
def test_within_a_small_ball_all_of_it_goes_along_the_codes(attack: LatentMatch | VAELoss) -> None:
    """The least |U (x_t - x_s) - U delta| with |delta| <= eps is |U (x_t - x_s)| - eps; noise comes nowhere near."""
    system, _ = mirror()
    x, goal, draws, aim = scene(system)
    threat = Threat(norm="L2", eps=0.1)
    adv = craft(attack, system, x, goal, threat, draws)
    code, wanted = system(x).code, system(aim).code
    left = (system(adv).code - wanted).norm(dim=1)
    assert_close(left, (code - wanted).norm(dim=1) - 0.1, rtol=0, atol=1e-4)
    noise = threat.random_point(x, draws)
    assert bool((left < (system(noise).code - wanted).norm(dim=1)).all())


def test_output_damage_uses_the_ball_up() -> None:
    """The image comes back |U delta| away from where it did, which is at most eps."""
    for latent in (False, True):
        system, _ = mirror()
        x, goal, draws, _ = scene(system)
        attack = OutputDamage(latent=latent, restarts=1)
        adv = craft(attack, system, x, Goal(y=goal.y), Threat(norm="L2", eps=0.1), draws)
        assert_close((system(adv).code - system(x).code).norm(dim=1), torch.full((len(x),), 0.1), rtol=0, atol=1e-4)


def test_the_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, spread, other, other_spread = torch.randn((4, 20, 7), generator=generator, dtype=torch.float64)
    given = Normal(mean, (spread / 2).exp()), Normal(other, (other_spread / 2).exp())
    assert_close(gaussian_kl(mean, spread, other, other_spread), kl_divergence(*given).sum(1))


def test_the_loss_of_a_vae_is_its_own() -> None:
    """|rec(x') - t|^2 / (2 sigma^2) + KL(q || N(0, 1)), by hand."""
    system, _ = mirror(gaussian=True)
    x, goal, _, aim = scene(system)
    said = system(x)
    assert said.code is not None
    assert said.image is not None
    assert said.log_variance is not None
    prior = kl_divergence(Normal(said.code, (said.log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    unknown, own = said, replace(said, sigma_x2=torch.full((len(x),), 0.3))
    losses = [
        (VAELoss(against="image"), VAELoss(against="image", sigma_x2=0.2), aim),
        (VAELoss(against="reconstruction"), VAELoss(against="reconstruction", sigma_x2=0.2), system(aim).image),
    ]
    for free, given, shown in losses:
        error = (said.image - shown).flatten(1).square().sum(1)
        assert_close(given.objective(said, goal).float(), -(error / 0.4 + prior))
        assert_close(free.objective(unknown, goal).float(), -(error / 0.1 + prior))
        assert_close(free.objective(own, goal).float(), -(error / 0.6 + prior))


def test_the_classifier_of_codes_is_at_the_least_of_a_convex_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    code, y = torch.randn((120, 5), generator=generator) * 3 + 1, torch.arange(120) % 4
    code = code + torch.nn.functional.one_hot(y, 5)
    weight, bias = softmax_on(code, y, 4, 1e-2)
    spread = code.std(0, correction=0)
    own, free = (weight * spread).double().requires_grad_(True), bias.double().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(code.double() @ (own / spread).T + free, y) + 1e-2 * own.square().sum()
    loss.backward()
    assert own.grad is not None
    assert free.grad is not None
    assert float(own.grad.abs().max()) < 1e-4
    assert float(free.grad.abs().max()) < 1e-4


def test_it_climbs_the_classifier_that_it_has_trained() -> None:
    system, _ = mirror()
    x, y, draws = samples(system, 60)
    threat = Threat(norm="L2", eps=0.5, goal="targeted", target="next")
    attack = LatentClassifier(restarts=1, climbed="ce")
    ask = Asker(attack, system, threat)
    ready = attack.prepare(Setup(x=x, y=y, draws=draws, threat=threat, num_classes=CLASSES, ask=ask))
    assert ask.forwards == 60
    weight, bias = ready.learned.tensors["weight"], ready.learned.tensors["bias"]
    goal = Goal(y=y, target=(y + 1) % CLASSES, success="targeted")
    adv = craft(ready, system, x, goal, threat, draws)

    def chance(images: Tensor) -> Tensor:
        code = system(images).code
        assert code is not None
        return (code @ weight.T + bias).softmax(1).gather(1, goal.target[:, None]).squeeze(1)  # type: ignore[index]

    assert bool((chance(adv) > chance(x)).all())


def test_pictures_are_of_the_target_class_and_another_in_each_lane() -> None:
    system, _ = mirror()
    x, _, draws = samples(system, 60)
    said = system(x)
    y = said.prediction()
    pictures = Pictures.of(x, y, said, CLASSES, "a test")
    again = Pictures.from_tensors(pictures.tensors())
    assert_close(again.seen.code, pictures.seen.code, rtol=0, atol=0)
    target = (y + 1) % CLASSES
    chosen = [pictures.aimed(target, draws.in_lane(lane)) for lane in range(3)]
    assert all(torch.equal(pictures.y[rows], target) for rows in chosen)
    assert not bool((chosen[0] == chosen[1]).any())
    few = torch.tensor([7, 2])
    assert torch.equal(pictures.aimed(target[few], draws[few]), chosen[0][few])


def test_a_gradient_of_zero_leaves_images_where_they_are_allowed() -> None:
    class Blind(Linear):
        def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
            return Code(mean=(x.flatten(1) - 0.5) @ self.u.T * 0)

    network = Blind(0)
    judge = Affine(torch.zeros((CLASSES, SIDE**2)), torch.zeros(CLASSES))
    system = System(model=Reconstructor(network, judge), num_classes=CLASSES, input_shape=network.shape)
    x, goal, draws, _ = scene(system)
    threat = Threat(norm="Linf", eps=0.1)
    for attack in (LatentMatch(steps=5), VAELoss(steps=5), OutputDamage(steps=5)):
        adv = craft(attack, system, x, goal, threat, draws)
        assert bool(threat.contains(adv, x).all())
        assert bool(adv.isfinite().all())


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["latent-match", "vae-loss", "latent-classifier", "output-damage"])
def test_a_classifier_has_no_codes_to_attack(attack: str) -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    with pytest.raises(UserError, match=f"{attack} compares codes and reconstructions, which a classifier has not"):
        rbl.evaluate(system, x, y, attacks=attack, threat="L2:0.5", samples="20", diagnostics=False)


def test_an_attack_that_has_not_prepared_says_so() -> None:
    system, _ = mirror()
    x, goal, draws, _ = scene(system)
    threat = Threat(norm="L2", eps=0.1)
    for attack, why in ((LatentMatch(), "does not know what to aim at"), (LatentClassifier(), "has no classifier")):
        with pytest.raises(UserError, match=why):
            craft(attack, system, x, Goal(y=goal.y, target=goal.target), threat, draws)
    with pytest.raises(UserError, match="this system has none"):
        craft(OutputDamage(), affine(CLASSES, SIDE), x, goal, threat, draws)


def test_gaussians_are_not_compared_where_codes_are_points() -> None:
    system, _ = mirror()
    x, y, draws = samples(system, 60)
    threat = Threat(norm="L2", eps=0.5)
    attack = LatentMatch(distance="kl")
    setup = Setup(x=x, y=y, draws=draws, threat=threat, num_classes=CLASSES, ask=Asker(attack, system, threat))
    with pytest.raises(UserError, match="distance=kl compares Gaussians, and the codes are points"):
        attack.prepare(setup)


def test_a_class_without_an_image_is_told() -> None:
    system, _ = mirror()
    x, _, _ = samples(system, 30)
    with pytest.raises(UserError, match="there is none of class 1; evaluate fewer"):
        Pictures.of(x, torch.zeros(30, dtype=torch.int64), system(x), CLASSES, "latent-match")


def test_what_was_learned_comes_back_from_what_was_kept() -> None:
    system, _ = mirror(gaussian=True)
    x, y, draws = samples(system, 60)
    threat = Threat(norm="L2", eps=0.3, goal="targeted", target="next")
    attack = LatentMatch(distance="kl", steps=5, targets=2)
    setup = Setup(x=x, y=y, draws=draws, threat=threat, num_classes=CLASSES, ask=Asker(attack, system, threat))
    ready = attack.prepare(setup)
    kept = Learned(tensors=dict(ready.learned.tensors), figures=ready.learned.figures)
    goal = Goal(y=y, target=(y + 1) % CLASSES, success="targeted")
    first, second = (craft(one, system, x, goal, threat, draws) for one in (ready, attack.recall(kept, setup)))
    assert torch.equal(first, second)


def test_scores_are_the_judges_of_what_comes_back() -> None:
    system, _ = mirror()
    x, _, _, _ = scene(system)
    said = system(x)
    assert isinstance(said, Outputs)
    assert said.image is not None
    assert isinstance(system.model, Reconstructor)
    assert_close(said.scores, system.model.judge(said.image), rtol=0, atol=0)
    assert_close(system.model(x), said.scores, rtol=0, atol=0)
