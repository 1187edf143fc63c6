"""Domain-adversarial training: the reversed gradient, its schedule, the nuisances, and what a fresh probe finds."""

import math

import pytest
import torch
import torch.nn.functional as F
from learners import blobs, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import data as datasets
from robustbench_lite import training, zoo
from robustbench_lite.attack import resolve_attack
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.domain_adversarial import (
    DomainAdversarial,
    confusion,
    practise,
    reverse,
    standardised,
    strength_at,
)
from robustbench_lite.defenses.nuisances import KINDS, Nuisance, rotated
from robustbench_lite.defenses.probing import features, probe, tapped, width_at
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.1)


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (THREAT,), "seed": 3, **options})  # type: ignore[arg-type]


def quick(**options: object) -> DomainAdversarial:
    return DomainAdversarial(**{"epochs": 2, "batch_size": 32, "compare": False, **options})  # type: ignore[arg-type]


def images(count: int = 32) -> tuple[Tensor, Tensor, Draws]:
    x, y = blobs().batch(range(count)), blobs().labels_at(range(count))
    return x, y, Draws.for_images(0, x, y)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 7.0])
def test_reversal_is_the_identity_and_turns_the_gradient_around(strength):
    h = torch.randn((5, 7), requires_grad=True, generator=torch.Generator().manual_seed(0))
    g = torch.randn((5, 7), generator=torch.Generator().manual_seed(1))
    out = reverse(h, strength)
    assert torch.equal(out, h)
    out.backward(g)
    torch.testing.assert_close(h.grad, -strength * g)


def test_strength_zero_is_a_detached_head():
    """The network gets the gradient of its own task alone, and the head that of its own."""
    body, task, head = (nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(4, 2))
    x, y, s = torch.randn((9, 6)), torch.arange(9) % 3, torch.arange(9) % 2
    found = []
    for side in (lambda h: reverse(h, 0.0), Tensor.detach):
        h = body(x)
        loss = F.cross_entropy(task(h), y) + F.cross_entropy(head(side(h)), s)
        found.append(torch.autograd.grad(loss, [*body.parameters(), *task.parameters(), *head.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_schedule_climbs_from_zero_to_one():
    values = [strength_at(done / 10) for done in range(11)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[5] == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert 0.999 < values[-1] < 1


def test_rotation_turns_and_turns_back():
    x = images()[0]
    torch.testing.assert_close(rotated(x, torch.full((32,), 90.0)), x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(rotated(x, torch.zeros(32)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["rotation", "noise", "attack"])
def test_a_nuisance_returns_images_each_by_its_own_label(kind):
    x, y, draws = images()
    nuisance = KINDS.get(kind) or Nuisance.crafted(resolve_attack("fgsm"), THREAT)
    system = system_of(plain())
    which = torch.arange(32) % nuisance.count
    spoiled = nuisance.spoil(system, x, y, which, draws)
    assert spoiled.shape == x.shape
    assert bool(((spoiled >= 0) & (spoiled <= 1)).all())
    harmless = which == (1 if kind == "rotation" else 0)
    torch.testing.assert_close(spoiled[harmless], x[harmless], rtol=0, atol=1e-5)
    assert bool(((spoiled - x).flatten(1).abs().amax(1) > 0.01)[~harmless].all())
    rows = torch.tensor([7, 3])
    again = nuisance.spoil(system, x[rows], y[rows], which[rows], draws[rows])
    torch.testing.assert_close(again, spoiled[rows])


def test_the_hidden_layer_is_what_goes_into_the_last_linear_one_or_the_one_that_is_named():
    model, x = plain(), images()[0]
    system = system_of(model)
    assert width_at(system, None) == 16
    torch.testing.assert_close(features(system, None, x), model[:3](x))
    torch.testing.assert_close(features(system, "1", x), model[:2](x))
    with pytest.raises(UserError, match="unknown layer"):
        features(system, "nothing", x)
    with pytest.raises(UserError, match="no linear layer"), tapped(nn.Sequential(nn.Flatten()), None):
        pass
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("hidden", [0, 64])
def test_a_probe_learns_what_is_there_and_nothing_else(hidden):
    generator = torch.Generator().manual_seed(0)
    s = torch.arange(600) % 3
    noise = torch.randn((600, 8), generator=generator)
    told = noise + 4 * F.one_hot(s, 8)
    assert probe(told, s, 3, hidden, seed=0) > 0.9
    assert probe(noise, s[torch.randperm(600, generator=generator)], 3, hidden, seed=0) < 0.5


@pytest.mark.parametrize("spec", ["nuisance=rotation", "nuisance=noise,layer=1", "nuisance=attack,attack=(fgsm)"])
def test_it_trains_the_network_and_tells_what_probes_find(spec):
    (defense,) = resolve_defense(f"domain-adversarial:{spec},epochs=2,batch_size=32")
    given = system_of(lively())
    system = defense.defend(given, shop())
    assert system.model is given.model
    assert {name for name in system.model.state_dict() if "head" in name} == set()
    told = system.notes["training"]["evidence"]
    assert told["chance"] in (1 / 2, 1 / 3)
    for name in ("with", "without"):
        assert all(0 <= told[name][kind] <= 1 for kind in ("linear", "mlp"))


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    bits = [weights(quick().defend(system_of(lively()), shop(seed=seed)).model) for seed in (3, 3, 4)]
    assert same(bits[0], bits[1])
    assert not same(bits[0], bits[2])


def test_comparing_changes_no_weight():
    both = [quick(compare=compare).defend(system_of(lively()), shop()).model for compare in (False, True)]
    assert same(*(weights(model) for model in both))


def test_only_what_looks_at_a_threat_needs_one():
    quick(epochs=1).defend(system_of(plain()), shop(threats=()))
    with pytest.raises(UserError, match="needs a threat with a radius"):
        quick(nuisance="attack").defend(system_of(plain()), shop(threats=()))
    assert "threat" in quick(nuisance="attack").recipe(shop())
    assert "threat" not in quick().recipe(shop())


def test_features_are_standardised_so_that_nothing_hides_by_being_small():
    h = torch.randn((50, 3), generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.1]) + 5
    seen = standardised(h)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.var(0, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)
    assert bool(standardised(torch.ones((4, 2))).eq(0).all())


def test_confusion_is_the_divergence_from_a_uniform_answer_and_leaves_the_head_alone():
    with training.seeded(0):
        head = nn.Linear(4, 3)
    h = torch.randn((7, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = confusion(head, h)
    uniform = torch.full((7, 3), 1 / 3)
    torch.testing.assert_close(value, F.kl_div(head(h).log_softmax(1), uniform, reduction="batchmean"))
    value.backward()
    assert h.grad is not None
    assert all(parameter.grad is None for parameter in head.parameters())
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    assert float(confusion(head, h).detach()) == pytest.approx(0, abs=1e-6)


def test_the_head_practises_by_plain_gradient_steps():
    with training.seeded(0):
        head, h, which = nn.Linear(4, 3), torch.randn((9, 4)), torch.arange(9) % 3
    (grad,) = torch.autograd.grad(F.cross_entropy(head(h), which), [head.weight])
    before = head.weight.detach().clone()
    practise(head, h, which, 1)
    torch.testing.assert_close(head.weight.detach(), before - 0.1 * grad)
    assert head.weight.grad is None
    kept = weights(head)
    practise(head, h, which, 0)
    assert same(kept, weights(head))


@pytest.mark.parametrize("against", ["reversal", "confusion"])
def test_a_killed_training_goes_on_bit_by_bit(against, tmp_path):
    def trained(**options: object) -> nn.Module:
        return quick(epochs=3, against=against).defend(system_of(lively()), shop(**options)).model

    with pytest.raises(KeyboardInterrupt):
        trained(scratch=tmp_path, progress=stop_after(1))
    assert same(weights(trained(scratch=tmp_path)), weights(trained()))


@pytest.mark.slow
def test_a_fresh_probe_finds_less_of_the_rotation_at_little_cost():
    """On digits, in a layer of 32 units: what the head unlearns is gone, not only unlearned by the head."""
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    found = {}
    for weight in (0.0, 1.0):
        with training.seeded(0):
            model = zoo.fresh_module("small-cnn:hidden=32", num_classes=10, input_shape=(1, 8, 8))
        system = quick(epochs=60, batch_size=64, weight=weight).defend(
            system_of(model, classes=10), shop(train=train, seed=0)
        )
        right = system(test.batch(range(450))).prediction() == test.labels_at(range(450))
        assert float(right.double().mean()) > 0.9
        found[weight] = system.notes["training"]["evidence"]["with"]
    assert found[0.0]["linear"] > 0.9
    assert found[1.0]["linear"] < 0.6
    assert found[1.0]["mlp"] < 0.8


@pytest.mark.slow
def test_a_beaten_head_is_no_evidence():
    """A head that takes one step for each of the network's, on digits: the probe reads the rotation all the same."""
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    with training.seeded(0):
        model = zoo.fresh_module("small-cnn", num_classes=10, input_shape=(1, 8, 8))
    system = quick(epochs=15, batch_size=64, head_steps=1).defend(
        system_of(model, classes=10), shop(train=train, seed=0)
    )
    told = system.notes["training"]
    assert told["last"]["loss"] > 0.9 * math.log(3)
    assert told["evidence"]["with"]["linear"] > 0.8
    right = system(test.batch(range(450))).prediction() == test.labels_at(range(450))
    assert float(right.double().mean()) > 0.8


def test_options_out_of_range_are_refused():
    for options in ("weight=-1", "hidden=0", "nuisance=weather", "head_steps=0", "against=both"):
        with pytest.raises(UserError):
            resolve_defense(f"domain-adversarial:{options}")
