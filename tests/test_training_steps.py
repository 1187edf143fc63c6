"""What a step of the training loop can be: averaged, cut into parts, repeated, wrapped, computed in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from learners import blobs, clean_loss, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Moment, Recipe, TrainingOptions, resume

FEW = Recipe(epochs=4, batch_size=20, learning_rate=0.01)


def trained(model: nn.Module, recipe: Recipe = FEW, **options: object) -> dict[str, Tensor]:
    given: dict[str, object] = {"seed": 3, **options}
    training.fit(model, blobs(), given.pop("loss", clean_loss), recipe=recipe, **given)  # type: ignore[arg-type]
    return weights(model)


def close(one: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 1e-4) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=rtol, atol=1e-6) for name in one)


@pytest.mark.parametrize("tau", [0.3, 0.99])
def test_averaged_weights_are_the_closed_form_over_the_weights_after_each_step(tau):
    path = [weights(plain())]

    @contextmanager
    def around(model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        yield
        path.append(weights(model))

    averaged = trained(plain(), replace(FEW, ema=tau), around=around)
    assert len(path) == 1 + 20
    for name, mean in path[0].items():
        for step, after in enumerate(path[1:]):
            decay = min(tau, (1 + step) / (10 + step))
            mean = decay * mean + (1 - decay) * after[name]
        assert torch.allclose(averaged[name], mean, rtol=1e-5, atol=1e-6)
    assert not close(averaged, path[-1])


def test_an_average_with_tau_0_is_the_weights_themselves():
    model = plain()
    average = training.Average(model, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    average.update(0)
    now = weights(model)
    with average.shown():
        assert same(weights(model), now)


def test_the_average_is_what_is_validated_and_kept_and_batch_statistics_are_the_live_model_s():
    live, seen = [], []

    @contextmanager
    def around(model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        yield
        live.append(weights(model))

    def validate(model, data, held):
        seen.append(weights(model))
        return training.Score(clean=0.9, robust=[0.1, 0.3, 0.25, 0.2][len(seen) - 1])

    kept = trained(lively(), replace(FEW, ema=0.99), around=around, validate=validate)
    assert same(kept, seen[1])
    then = live[len(live) // 2 - 1]
    assert torch.equal(kept["2.running_mean"], then["2.running_mean"])
    assert not torch.equal(kept["1.weight"], then["1.weight"])


def test_training_itself_does_not_feel_the_average():
    losses = []
    for tau in (0.0, 0.9):
        recipe = replace(FEW, ema=tau)
        fitted = training.fit(lively(), blobs(), clean_loss, recipe=recipe, seed=3)
        losses.append([epoch.loss for epoch in fitted.history])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("parts", [2, 3, 20])
def test_a_batch_in_parts_takes_the_same_steps_as_a_whole_one(parts):
    assert close(
        trained(plain(), replace(FEW, optimizer="sgd", accumulate=parts)),
        trained(plain(), replace(FEW, optimizer="sgd")),
    )


def test_a_batch_in_parts_shows_each_image_once_with_its_own_streams():
    def seen(recipe: Recipe) -> tuple[list[int], list[tuple[int, float]]]:
        sizes, drawn = [], []

        def loss(model, batch, moment):
            sizes.append(len(batch))
            drawn.extend(zip(batch.indices.tolist(), batch.draws.uniform((1,), "test")[:, 0].tolist(), strict=True))
            return clean_loss(model, batch, moment)

        trained(plain(), recipe, loss=loss)
        return sizes, drawn

    one, whole = seen(replace(FEW, epochs=1, accumulate=3)), seen(replace(FEW, epochs=1))
    assert one[0] == [7, 7, 6, *[7, 6, 6] * 4]
    assert one[1] == whole[1]


def test_more_parts_than_a_small_last_batch_has_images_are_as_many_as_it_has():
    sizes = []

    def loss(model, batch, moment):
        sizes.append(len(batch))
        return clean_loss(model, batch, moment)

    trained(plain(), Recipe(epochs=1, batch_size=20, accumulate=20), loss=loss)
    assert sizes == [1] * 96


def test_a_batch_is_replayed_so_many_times_with_new_random_streams():
    seen: list[tuple[Moment, list[int], list[float]]] = []

    def loss(model, batch, moment):
        seen.append((moment, batch.indices.tolist(), batch.draws.uniform((1,), "test")[:, 0].tolist()))
        return clean_loss(model, batch, moment)

    told = []
    trained(plain(), replace(FEW, epochs=2, replays=3), loss=loss, progress=lambda *line: told.append(line[:2]))
    assert len(seen) == 2 * 5 * 3
    assert [moment.replay for moment, _, _ in seen] == [0, 1, 2] * 10
    assert [moment.epoch for moment, _, _ in seen] == [0] * 15 + [1] * 15
    assert [moment.done for moment, _, _ in seen] == pytest.approx([step / 30 for step in range(30)])
    for first in range(0, 30, 3):
        same_batch = seen[first : first + 3]
        assert len({tuple(indices) for _, indices, _ in same_batch}) == 1
        assert len({tuple(drawn) for _, _, drawn in same_batch}) == 3
    assert told == [(step + 1, 30) for step in range(30)]


def test_a_single_replay_is_the_ordinary_training():
    assert same(trained(lively(), replace(FEW, replays=1)), trained(lively()))


def test_what_is_around_a_step_encloses_loss_and_step_on_the_whole_batch():
    order: list[str] = []

    @contextmanager
    def around(model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        before = weights(model)
        order.append(f"in {len(batch)}")
        yield
        order.append("out" if not same(before, weights(model)) else "out without a step")

    def loss(model, batch, moment):
        order.append(f"loss {len(batch)}")
        return clean_loss(model, batch, moment)

    trained(plain(), Recipe(epochs=1, batch_size=48, accumulate=2), loss=loss, around=around)
    assert order == ["in 48", "loss 24", "loss 24", "out"] * 2


def test_weights_that_are_moved_and_put_back_around_a_step_are_stepped_from_where_they_were():
    """Adversarial weight perturbation's order: perturb, loss and step, restore."""

    @contextmanager
    def around(model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        with torch.no_grad():
            model[1].weight.add_(0.5)
        yield
        with torch.no_grad():
            model[1].weight.sub_(0.5)

    moved, still = trained(plain(), around=around), trained(plain())
    assert not close(moved, still)
    assert float((moved["1.weight"] - still["1.weight"]).abs().max()) < 0.4


def test_gradients_that_a_loss_leaves_behind_do_not_reach_the_step():
    def loss(model, batch, moment):
        clean_loss(model, batch, moment).mul(100).backward()
        return clean_loss(model, batch, moment)

    assert same(trained(plain(), loss=loss), trained(plain()))


def test_bfloat16_reaches_the_loss_and_the_weights_stay_float32():
    kinds = []

    def loss(model, batch, moment):
        scores = model(batch.x)
        kinds.append((scores.dtype, batch.x.dtype))
        return nn.functional.cross_entropy(scores, batch.y)

    def validate(model, data, held):
        assert model(data.batch(held)).dtype == torch.float32
        return training.Score(clean=1.0, robust=1.0)

    reduced = trained(plain(), replace(FEW, precision="bfloat16"), loss=loss, validate=validate)
    assert set(kinds) == {(torch.bfloat16, torch.float32)}
    assert all(value.dtype == torch.float32 for value in reduced.values())


def test_bfloat16_weights_learn_after_they_were_used_without_gradients():
    """Autocast's own cache would hand the loss casts that no gradient goes through."""

    def loss(model, batch, moment):
        with torch.no_grad():
            model(batch.x)
        return clean_loss(model, batch, moment)

    recipe = replace(FEW, precision="bfloat16")
    assert same(trained(plain(), recipe, loss=loss), trained(plain(), recipe))


KINDS = {
    "average": {"ema": 0.9},
    "parts": {"accumulate": 3},
    "replays": {"replays": 2},
    "one-cycle": {"schedule": "one-cycle"},
    "bfloat16": {"precision": "bfloat16"},
    "all": {"ema": 0.9, "accumulate": 2, "replays": 2, "schedule": "piecewise", "optimizer": "sgd"},
}


@pytest.mark.parametrize("epoch", [1, 3, 4])
@pytest.mark.parametrize("validated", [False, True], ids=["all data", "early stopping"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, kind, validated, epoch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    recipe = replace(FEW, **KINDS[kind])

    def once(**options):
        model = lively()
        threat, attack = Threat(norm="Linf", eps=0.02), resolve_attack("pgd:steps=2,restarts=1")
        extra = {"validate": training.validation(system_of(model), threat, attack, seed=0)} if validated else {}
        fitted = training.fit(model, blobs(300), clean_loss, recipe=recipe, seed=3, **extra, **options)
        return weights(model), fitted

    whole = once()
    with pytest.raises(KeyboardInterrupt):
        once(scratch=tmp_path, progress=stop_after(epoch))
    resumed = once(scratch=tmp_path)
    assert same(whole[0], resumed[0])
    assert whole[1] == resumed[1]


def test_what_a_loss_carries_from_batch_to_batch_goes_on_after_a_kill(tmp_path, monkeypatch):
    """Free adversarial training keeps its perturbation."""
    monkeypatch.setattr(resume, "INTERVAL", 0.0)

    def once(**options):
        carry: dict[str, Tensor] = {}

        def loss(model, batch, moment):
            delta = carry.get("delta", torch.zeros(20, 1, 8, 8))
            carry["delta"] = delta.roll(1, 0) + 0.01 * len(batch)
            return nn.functional.cross_entropy(model(batch.x + delta[: len(batch)]), batch.y)

        return trained(plain(), replace(FEW, replays=2), loss=loss, carry=carry, **options), carry

    whole = once()
    with pytest.raises(KeyboardInterrupt):
        once(scratch=tmp_path, progress=stop_after(2))
    resumed = once(scratch=tmp_path)
    assert same(whole[0], resumed[0])
    assert same(whole[1], resumed[1])


def test_label_smoothing_smooths_the_targets_of_standard_training():
    workshop, steep, smooth = Workshop(train=blobs(), seed=3), plain(), plain()
    recipe = replace(FEW, epochs=15)
    training.standard_training(system_of(steep), workshop, recipe)
    training.standard_training(system_of(smooth), workshop, replace(recipe, label_smoothing=0.3))
    x = blobs().batch(range(96))
    assert steep(x).softmax(1).amax(1).mean() > smooth(x).softmax(1).amax(1).mean() + 0.1


@dataclass(frozen=True, kw_only=True)
class Trains(Defense, TrainingOptions):
    name: ClassVar[str] = "trains"


def test_options_change_the_default_recipe_and_the_defense_s_own_defaults():
    workshop, system = Workshop(train=blobs()), system_of(plain())
    usual = training.default_recipe(blobs(), plain())
    assert Trains().recipe_for(workshop, system) == usual
    assert Trains().recipe_for(workshop, system, epochs=7) == replace(usual, epochs=7)
    mine = Trains(epochs=2, ema=0.995, schedule="one-cycle", accumulate=2, early_stopping=False)
    assert mine.changes() == {"epochs": 2, "ema": 0.995, "schedule": "one-cycle", "accumulate": 2}
    assert mine.recipe_for(workshop, system, epochs=7) == replace(usual, **mine.changes())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epochs": 0}, "epochs=0; accepted: 1 and more"),
        ({"ema": 1.0}, "ema=1; accepted: from 0 to below 1"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"batch_size": 4, "accumulate": 5}, "accumulate=5; accepted: up to batch_size=4"),
        ({"precision": "float16"}, "precision=float16; accepted: float32, bfloat16"),
        ({"schedule": "steps"}, "schedule=steps; accepted: linear, constant, cosine, one-cycle, piecewise"),
    ],
)
def test_options_out_of_range_are_refused_when_the_defense_is_made(options, words):
    with pytest.raises(UserError, match=words):
        Trains(**options)


def pictures() -> Dataset:
    """Images that are not tiny, so that their network's layout changes."""
    random = np.random.default_rng(0)
    labels = np.arange(48) % 4
    images = (labels[:, None, None, None] / 4 + random.uniform(0, 0.2, (48, 3, 17, 17))).clip(0, 1).astype(np.float32)
    return replace(from_tensors(images, labels, num_classes=4, name="pictures"), split="train")


def convolutions(flatten: nn.Module) -> nn.Module:
    with training.seeded(0):
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=4), flatten]
        return nn.Sequential(*layers, nn.Linear(64, 4))


class View(nn.Module):
    """Insists on how its input lies in memory, as many networks of other people do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


@pytest.mark.parametrize("flatten, changed", [(nn.Flatten(), True), (View(), False)], ids=["flatten", "view"])
def test_channels_are_last_only_while_a_network_trains_that_takes_them_so(flatten, changed):
    seen = set()

    def loss(model, batch, moment):
        seen.add(model[0].weight.is_contiguous())
        return clean_loss(model, batch, moment)

    model = convolutions(flatten)
    training.fit(model, pictures(), loss, recipe=FEW, seed=3)
    assert seen == {not changed}
    assert all(value.is_contiguous() for value in model.state_dict().values())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_the_layout_changes_the_last_bits_at_most():
    last, first = convolutions(nn.Flatten()), convolutions(View())
    for model in (last, first):
        training.fit(model, pictures(), clean_loss, recipe=replace(FEW, optimizer="sgd"), seed=3)
    assert close(weights(last), weights(first), rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_training_of_convolutions_goes_on_to_the_same_bits(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    recipe = replace(FEW, optimizer=optimizer, ema=0.9)

    def once(**options):
        model = convolutions(nn.Flatten())
        training.fit(model, pictures(), clean_loss, recipe=recipe, seed=3, **options)
        return weights(model)

    whole = once()
    with pytest.raises(KeyboardInterrupt):
        once(scratch=tmp_path, progress=stop_after(2))
    assert same(whole, once(scratch=tmp_path))
