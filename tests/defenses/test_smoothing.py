"""Randomized smoothing: one and the same noise in training and in every answer, never clamped."""

from dataclasses import replace

import pytest
import torch
from learners import SHAPE, blobs, plain, same, system_of, weights
from torch import Tensor, nn

from robustbench_lite import zoo
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.smoothing import RandomizedSmoothing
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal, margin
from robustbench_lite.oracle import EOT, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.run.build import defended_system
from robustbench_lite.threat import Threat
from robustbench_lite.zoo import LoadedModel


class Watched(nn.Module):
    """Keeps what it is shown in training."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shown = inner, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.shown.append(x.detach().clone())
        return self.inner(x)


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "seed": 3, **options})  # type: ignore[arg-type]


def quick(**options: object) -> RandomizedSmoothing:
    return RandomizedSmoothing(**{"epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


def test_training_sees_gaussian_noise_as_it_is_anew_every_epoch():
    model = Watched(plain())
    quick(sigma=0.5).defend(system_of(model), shop())
    shown = torch.stack([torch.cat(model.shown[3 * epoch : 3 * epoch + 3]) for epoch in range(3)])
    assert shown.shape == (3, 96, *SHAPE)
    assert float(shown.min()) < -0.5
    assert float(shown.max()) > 1.5
    # each epoch in an order of its own; every image is near one of the data, at sigma from it
    data = blobs().batch(range(96)).flatten(1)
    for epoch in shown:
        nearest = torch.cdist(epoch.flatten(1), data).argmin(1)
        noise = epoch.flatten(1) - data[nearest]
        assert float(noise.mean()) == pytest.approx(0, abs=0.03)
        assert float(noise.std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(shown[0].sort(0).values, shown[1].sort(0).values)


def test_every_answer_has_the_same_noise_right_before_the_model():
    model = nn.Flatten()
    system = quick(sigma=0.25).dress(system_of(model, classes=64))
    x = torch.full((500, *SHAPE), 0.5)
    draws = Draws.of(0, [number.to_bytes(8, "little") for number in range(500)])
    noise = system(x, draws, 0).scores - 0.5
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert float((noise.abs() > 0.5).double().mean()) == pytest.approx(0.0455, abs=0.01)  # nothing is clamped
    assert not torch.equal(noise, system(x, draws, 1).scores - 0.5)
    assert system.randomised


def test_what_is_put_around_it_comes_before_the_noise():
    (bits,) = resolve_defense("bit-depth:bits=1")
    system = bits.defend(quick().dress(system_of(nn.Flatten(), classes=64)), shop())
    assert [bool(part.noise) for part in system.purifiers] == [False, True]


def test_it_is_the_same_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path))
    source = LoadedModel(
        name="plain", module=plain(), num_classes=4, input_shape=SHAPE, trained=False, fresh=lambda: plain(seed=1)
    )
    made, found = (defended_system(source, (quick(),), shop) for _ in range(2))
    assert made.digest == found.digest
    assert found.purifiers[0].noise == 0.25
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 1
    other = defended_system(source, (quick(sigma=0.5),), shop)
    assert other.digest != made.digest


def test_it_goes_on_from_a_checkpoint(tmp_path):
    module = zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE)
    file = tmp_path / "start.safetensors"
    zoo.save_checkpoint(file, module, {"architecture": "linear", "num_classes": 4, "input_shape": list(SHAPE)})
    fresh = zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE)
    before = weights(module)
    made = quick(from_=str(file), learning_rate=1e-6).defend(system_of(fresh), shop())
    found = weights(made.model)
    assert not same(found, before)
    assert all(torch.allclose(found[name], before[name], atol=1e-3) for name in before)
    recipes = [quick(from_=name).recipe(shop()) for name in (None, str(file))]
    assert recipes[0] != recipes[1]


def test_early_stopping_looks_at_answers_under_noise():
    made = quick(early_stopping=True).defend(system_of(plain()), shop(train=blobs(200)))
    best = made.notes["training"]["best"]
    assert 0 <= best["clean"] <= 1
    assert 0 <= best["robust"] <= 1


def test_averaging_over_draws_gives_a_steadier_gradient():
    system = quick(sigma=0.5).dress(system_of(plain()))
    x, y = blobs().batch(range(16)), blobs().labels_at(range(16))

    def slopes(draws: int) -> Tensor:
        found = []
        for seed in range(8):
            streams = Draws.for_images(seed, x, y)
            oracle = Oracle(
                system, Needs.GRADIENTS, x, Goal(y=y), Threat(norm="L2", eps=1), streams, eot=EOT(draws=draws)
            )
            grads = oracle.query(x, lambda outputs, goal: margin(outputs, goal)).grads
            assert grads is not None
            found.append(grads[0])
        return torch.stack(found)

    assert float(slopes(16).std(0).mean()) < 0.5 * float(slopes(1).std(0).mean())


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), 11.0])
def test_a_sigma_that_means_nothing_is_refused(sigma):
    with pytest.raises(UserError, match=r"randomized-smoothing: sigma=.*; accepted: more than 0"):
        RandomizedSmoothing(sigma=sigma)


def test_its_own_detector_is_no_part_of_the_training():
    from robustbench_lite.system import Detector

    alarm = Detector(score=lambda x: x.flatten(1).amax(1), threshold=0.0)
    system = replace(system_of(plain()), detector=alarm)
    made = quick().defend(system, shop())
    assert made.detector is alarm
