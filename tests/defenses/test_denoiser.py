"""The denoising autoencoder: it takes out what it was taught to, and hides nothing."""

from dataclasses import replace

import pytest
import torch
from learners import SHAPE, blobs, plain, system_of
from torch import Tensor

from robustbench_lite.attack import craft, resolve_attack
from robustbench_lite.data.digits import load
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.denoiser import DenoisingAutoencoder
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (THREAT,), "seed": 3, **options})  # type: ignore[arg-type]


def purified(system: System, x: Tensor) -> Tensor:
    with torch.no_grad():
        return system.purifiers[0].apply(x, None, 0)


def test_it_takes_noise_out_of_digits_it_has_not_seen():
    train, test = load(split="train"), load(split="test")
    few = replace(from_tensors(train.batch(range(400)), train.labels_at(range(400))), split="train")
    made = DenoisingAutoencoder(sigma=0.3, width=8, epochs=25, learning_rate=0.01).defend(
        system_of(plain()), shop(train=few)
    )
    x = test.batch(range(100))
    noisy = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    before, after = ((image - x).square().mean() for image in (noisy, purified(made, noisy)))
    assert float(after) < 0.7 * float(before)


def test_it_learns_from_the_attack_that_it_is_told():
    attack, model = resolve_attack("pgd:steps=3,step_size=1/2,restarts=1"), plain()
    defense = DenoisingAutoencoder(on="attack", attack=attack, width=8, epochs=20)
    made = defense.defend(system_of(model), shop(train=blobs(400)))
    x, y = blobs(400, seed=0).batch(range(64)), blobs(400).labels_at(range(64))
    adv = craft(attack, system_of(model), x, Goal(y=y), THREAT, Draws.for_images(5, x, y))
    assert float((purified(made, adv) - x).square().mean()) < float((purified(made, x + 0.3) - x).square().mean())


def test_it_is_fitted_once(monkeypatch):
    fitted = []
    kept = "robustbench_lite.cache.atomic_write"  # code of the defense itself is part of the key
    monkeypatch.setattr(kept, lambda path, data: fitted.append(path) or path.write_bytes(data))
    first = DenoisingAutoencoder(epochs=2).defend(system_of(plain()), shop())
    again = DenoisingAutoencoder(epochs=2).defend(system_of(plain()), shop())
    assert len(fitted) == 1
    x = blobs().batch(range(8))
    assert torch.equal(purified(first, x), purified(again, x))


def test_the_gradient_goes_through_it():
    system = DenoisingAutoencoder(epochs=1).defend(system_of(plain()), shop())
    grads = []
    for adaptive in (False, True):
        leaf = blobs().batch(range(8)).requires_grad_(True)
        grads.append(torch.autograd.grad(system(leaf, None, 0, adaptive=adaptive).scores[:, 0].sum(), leaf)[0])
    assert bool(grads[0].any())
    assert torch.equal(*grads)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 5), (2, 1, 3)])
def test_images_of_any_size_keep_it(shape):
    data = replace(from_tensors(torch.rand(24, *shape), torch.arange(24) % 3), split="train")
    system = System(model=torch.nn.Flatten(), num_classes=3, input_shape=shape)
    made = DenoisingAutoencoder(epochs=1, width=2).defend(system, shop(train=data))
    x = data.batch(range(4))
    assert purified(made, x).shape == x.shape


def test_the_recipe_tells_what_it_learns_from():
    attacked = DenoisingAutoencoder(on="attack")
    recipes = [
        DenoisingAutoencoder().recipe(shop()),
        attacked.recipe(shop()),
        attacked.recipe(shop(threats=(Threat(norm="L2", eps=1.0),))),
        replace(attacked, attack=resolve_attack("fgsm")).recipe(shop()),
    ]
    assert len({repr(recipe) for recipe in recipes}) == 4


def test_without_a_threat_there_is_no_attack_to_learn_from():
    with pytest.raises(UserError, match="on=attack needs a threat with a radius"):
        DenoisingAutoencoder(on="attack").defend(system_of(plain()), shop(threats=(Threat(norm="L2"),)))
    assert DenoisingAutoencoder(epochs=1).defend(system_of(plain()), shop(threats=())).input_shape == SHAPE


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"width": 0}, {"epochs": 0}, {"learning_rate": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        DenoisingAutoencoder(**options)
