"""MagNet: what is rejected, what is classified, and that both can be climbed together."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from learners import blobs, plain, system_of
from torch import Tensor

from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.autoencoders import Pack, SecondAutoencoder
from robustbench_lite.defenses.magnet import MagNet, Reformed, Score, jensen_shannon
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.run.treatment import treatment
from robustbench_lite.system import System
from robustbench_lite.testing import check_defense
from robustbench_lite.threat import Threat
from robustbench_lite.training import seeded


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))


def shop(**options: object) -> Workshop:
    given = {"train": blobs(400), "threats": (Threat(norm="Linf", eps=0.1),), "seed": 3, **options}
    return Workshop(**given)  # type: ignore[arg-type]


def quick(**options: object) -> MagNet:
    return MagNet(**{"epochs": 3, "width": 4, **options})  # type: ignore[arg-type]


def score_of(system: System) -> Score:
    assert system.detector is not None
    assert isinstance(system.detector.score, Score)
    return system.detector.score


def test_it_rejects_clean_images_at_the_stated_rate_and_what_is_no_such_image():
    system = quick(epochs=20, fpr=0.1).defend(system_of(plain()), shop())
    unseen = blobs(2400)
    x = unseen.batch(range(400, 2400))
    rejected = ~system(x).accepted()
    assert 0.03 < float(rejected.double().mean()) < 0.2
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).round()
    assert float((~system(noise).accepted()).double().mean()) > 0.95


def test_the_classifier_sees_the_reconstruction_and_the_detector_the_image():
    model = plain()
    system = quick().defend(system_of(model), shop())
    score, x = score_of(system), blobs().batch(range(8))
    said = system(x)
    assert torch.equal(said.scores, model(score.reformer(x)))
    assert said.reject is not None
    assert torch.equal(said.reject, score(x) - system.detector.threshold)  # type: ignore[union-attr]


def test_the_score_is_the_largest_error_in_its_own_unit():
    system = quick().defend(system_of(plain()), shop())
    score, x = score_of(system), blobs().batch(range(8))
    assert score.squared is not None
    squared = (x - score.squared(x)).square().mean((1, 2, 3)) / score.units[0]
    absolute = (x - score.absolute(x)).abs().mean((1, 2, 3)) / score.units[1]
    assert torch.allclose(score(x), torch.maximum(squared, absolute))


def test_on_colour_answers_are_compared_too():
    data = replace(from_tensors(torch.rand(64, 3, 8, 8), torch.arange(64) % 4), split="train")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    system = System(model=net, num_classes=4, input_shape=(3, 8, 8))
    score = score_of(quick(epochs=1).defend(system, shop(train=data)))
    x = data.batch(range(4))
    assert score.errors(x).shape == (4, 3)
    expected = jensen_shannon(net(x), net(score.reformer(x)), 40.0)
    assert torch.allclose(score.errors(x)[:, 2], expected)
    assert score.squared is None


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_the_divergence_is_the_one_on_paper(temperature):
    one, other = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    p, q = (z.double().div(temperature).softmax(1) for z in (one, other))
    middle = (p + q) / 2
    expected = 0.5 * (p * (p / middle).log()).sum(1) + 0.5 * (q * (q / middle).log()).sum(1)
    assert torch.allclose(jensen_shannon(one, other, temperature).double(), expected, atol=1e-6)
    assert torch.allclose(jensen_shannon(one, one, temperature), torch.zeros(5), atol=1e-6)
    apart = jensen_shannon(torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]]), 1.0)
    assert float(apart) == pytest.approx(math.log(2))


def test_an_adversary_has_the_gradient_of_both():
    system = quick().defend(system_of(plain()), shop())
    leaf = blobs().batch(range(8)).requires_grad_(True)
    said = system(leaf, None, 0, adaptive=True)
    assert said.reject is not None
    for value in (said.scores[:, 0].sum(), said.reject.sum()):
        (grad,) = torch.autograd.grad(value, leaf, retain_graph=True)
        assert bool((grad.flatten(1) != 0).any(1).all())


def test_what_an_adversary_differentiates_instead_is_reformed_as_well():
    model, soft = plain(), plain(seed=1)
    system = quick().defend(replace(system_of(model), differentiable_as=soft), shop())
    assert isinstance(system.differentiable_as, Reformed)
    x = blobs().batch(range(4))
    assert torch.equal(system(x, None, 0, adaptive=True).scores, soft(score_of(system).reformer(x)))


def test_behind_a_purifier_it_learns_what_comes_out_of_it():
    (bits,) = resolve_defense("bit-depth:bits=1")
    given = bits.defend(system_of(plain()), shop())
    seen: list[Tensor] = []
    watching = replace(given.purifiers[0], apply=lambda x, draws, index: seen.append(x) or x.round())
    quick(epochs=1).defend(replace(given, purifiers=(watching,)), shop())
    assert seen
    assert bool(torch.cat(seen).frac().any())


def test_one_detector_is_enough():
    system = quick(epochs=1).defend(system_of(plain()), shop())
    with pytest.raises(UserError, match=r"rejects by magnet:.* already"):
        quick().defend(system, shop())


def test_of_a_pack_every_answer_comes_from_one_member_that_is_drawn():
    model = plain()
    system = quick(pack=3, epochs=1).defend(system_of(model), shop())
    x, y = blobs().batch(range(40)), blobs().labels_at(range(40))
    draws, score = Draws.for_images(0, x, y), score_of(system)
    said, chosen = system(x, draws, 5), draws.integers(3, (1,), "autoencoder", 5).squeeze(1)
    assert set(chosen.tolist()) == {0, 1, 2}
    assert said.reject is not None
    assert system.detector is not None
    for number, member in enumerate(chosen.tolist()):
        image = x[number : number + 1]
        first, second = (pack.members[member](image) for pack in (score.squared, score.absolute))  # type: ignore[union-attr, operator, index]
        torch.testing.assert_close(said.scores[number], model(first)[0])
        errors = torch.stack(((image - first).square().mean(), (image - second).abs().mean()))
        torch.testing.assert_close(said.reject[number], errors.div(score.units).max() - system.detector.threshold)
    alone = system(x[3:4], draws[torch.tensor([3])], 5)
    torch.testing.assert_close(alone.scores[0], said.scores[3])
    assert system.randomised
    assert not torch.equal(system(x, draws, 6).scores, said.scores)


def test_a_pack_keeps_the_laws_of_defenses():
    check_defense(quick(pack=2, epochs=2))


def test_the_members_of_a_pack_are_kept_apart_and_bring_images_back():
    """The loss of a pack against its formula, by hand; and with it members differ more than without."""
    x, shown = torch.rand((2, 5, 1, 4, 4), generator=torch.Generator().manual_seed(0)).unbind(0)
    with seeded(0):
        pack = Pack(lambda: SecondAutoencoder(1, 2), 3, 0.2)
    said = [member(shown) for member in pack.members]
    mean = sum(said) / 3
    expected = sum(F.mse_loss(one, x) for one in said) - 0.2 * sum(F.mse_loss(one, mean) for one in said)
    torch.testing.assert_close(pack.loss(shown, x), expected)

    def spread_of(diversity: float) -> float:
        system = quick(pack=3, epochs=40, diversity=diversity).defend(system_of(plain()), shop())
        pack = score_of(system).squared
        assert isinstance(pack, Pack)
        return float(pack.every(blobs().batch(range(40))).std(0).mean())

    assert spread_of(0.8) > 1.2 * spread_of(0.0)


def test_a_pack_rejects_clean_images_at_the_stated_rate():
    system = quick(pack=3, epochs=20, fpr=0.1).defend(system_of(plain()), shop())
    unseen = blobs(2400)
    x, y = unseen.batch(range(400, 2400)), unseen.labels_at(range(400, 2400))
    rejected = ~system(x, Draws.for_images(0, x, y)).accepted()
    assert 0.03 < float(rejected.double().mean()) < 0.2


def test_a_pack_on_colour_compares_answers_too():
    data = replace(from_tensors(torch.rand(64, 3, 8, 8), torch.arange(64) % 4), split="train")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    system = quick(epochs=1, pack=2).defend(System(model=net, num_classes=4, input_shape=(3, 8, 8)), shop(train=data))
    x, y = data.batch(range(4)), data.labels_at(range(4))
    draws = Draws.for_images(0, x, y)
    reformed = system.purifiers[-1].apply(x, draws, 0)
    errors = score_of(system).errors(x, draws, 0)
    assert errors.shape == (4, 3)
    torch.testing.assert_close(errors[:, 2], jensen_shannon(net(x), net(reformed), 40.0))
    torch.testing.assert_close(system(x, draws).scores, net(reformed))


def test_who_knows_a_pack_has_the_gradient_of_its_draws():
    rejects = quick(pack=3).defend(system_of(plain()), shop())
    told = treatment(rejects)
    assert told["one of 3 autoencoders"] == "averages over its draws (EOT), differentiates it"
    assert "joint objective" in told[rejects.detector.name]  # type: ignore[union-attr]
    leaf = blobs().batch(range(8)).requires_grad_(True)
    said = rejects(leaf, Draws.for_images(0, leaf.detach(), blobs().labels_at(range(8))), 0, adaptive=True)
    assert said.reject is not None
    for value in (said.scores[:, 0].sum(), said.reject.sum()):
        (grad,) = torch.autograd.grad(value, leaf, retain_graph=True)
        assert bool((grad.flatten(1) != 0).any(1).all())


@pytest.mark.parametrize(
    "options",
    [
        {"pack": 0},
        {"diversity": 1.0},
        {"sigma": 0.0},
        {"width": 0},
        {"epochs": 0},
        {"fpr": 0.0},
        {"learning_rate": -1.0},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        MagNet(**options)
