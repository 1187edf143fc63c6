"""The training loop: follows from its seed, keeps the best epoch, goes on after a kill as if nothing had been."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import SHAPE, blobs, clean_loss, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat
from robustbench_lite.training import Moment, Recipe, Score, augment, loop, resume

FEW = Recipe(epochs=4, batch_size=20, learning_rate=0.01)
PGD = "pgd:steps=5,step_size=1/4,restarts=1"


def trained(model: nn.Module, **options: object) -> dict[str, Tensor]:
    given: dict[str, object] = {"recipe": FEW, "seed": 3, **options}
    training.fit(model, blobs(), given.pop("loss", clean_loss), **given)  # type: ignore[arg-type]
    return weights(model)


def scores_of(curve: list[float]) -> training.Validate:
    """A validation that finds these robust accuracies, epoch by epoch."""
    left = iter(curve)
    return lambda model, data, held: Score(clean=0.9, robust=next(left))


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    one, again, other = (trained(lively(), seed=seed) for seed in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)


def test_the_bits_do_not_depend_on_global_generators_nor_move_them():
    torch.manual_seed(1)
    one = trained(lively())
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert same(one, trained(lively()))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_threads_are_as_they_were_afterwards():
    before = torch.get_num_threads()
    seen = []
    trained(plain(), progress=lambda *told: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_it_learns_and_ends_in_eval_mode():
    model = plain()
    fitted = training.fit(model, blobs(), clean_loss, recipe=replace(FEW, epochs=10), seed=0)
    assert not model.training
    assert fitted.history[-1].loss < 0.3 * fitted.history[0].loss
    assert fitted.best == 10


def test_every_image_is_seen_once_an_epoch_in_batches_of_nearly_equal_size():
    seen: list[Tensor] = []

    def loss(model, batch, moment):
        seen.append(batch.indices)
        assert torch.equal(batch.x, blobs().batch(batch.indices.numpy()))
        assert torch.equal(batch.y, blobs().labels_at(batch.indices.numpy()))
        return clean_loss(model, batch, moment)

    trained(plain(), loss=loss)
    assert [len(indices) for indices in seen] == [20, 19, 19, 19, 19] * 4
    epochs = [torch.cat(seen[begin : begin + 5]) for begin in range(0, 20, 5)]
    assert all(epoch.sort().values.tolist() == list(range(96)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_a_sample_draws_other_numbers_in_every_epoch_whatever_batch_it_is_in():
    drawn: dict[int, list[float]] = {}

    def loss(model, batch, moment):
        for index, value in zip(batch.indices.tolist(), batch.draws.uniform((1,), "test")[:, 0].tolist(), strict=True):
            drawn.setdefault(index, []).append(value)
        return clean_loss(model, batch, moment)

    trained(plain(), loss=loss)
    small, drawn = drawn, {}
    trained(plain(), loss=loss, recipe=replace(FEW, batch_size=7))
    assert small == drawn
    assert len({value for values in drawn.values() for value in values}) > 96 * 4 - 3


def test_the_moment_runs_from_the_start_to_the_end():
    moments: list[Moment] = []

    def loss(model, batch, moment):
        moments.append(moment)
        return clean_loss(model, batch, moment)

    trained(plain(), loss=loss)
    assert [moment.epoch for moment in moments] == [epoch for epoch in range(4) for _ in range(5)]
    assert [moment.done for moment in moments] == pytest.approx([step / 20 for step in range(20)])


def test_progress_counts_steps_and_tells_accuracies():
    told = []
    trained(plain(), progress=lambda *line: told.append(line), validate=scores_of([0.1, 0.4, 0.3, 0.2]))
    steps = [done for done, _, _ in told]
    assert steps == sorted(set(steps))
    assert told[-1][0] == told[-1][1] == 20
    assert told[-1][2].startswith("epoch 4/4: loss")
    assert told[-1][2].endswith("clean 90.0%, robust 20.0%")


@pytest.mark.parametrize(
    "curve, best",
    [([0.1, 0.5, 0.4, 0.3], 2), ([0.1, 0.2, 0.3, 0.4], 4), ([0.4, 0.3, 0.4, 0.2], 1), ([0.0, 0.0, 0.0, 0.0], 1)],
    ids=["overfits", "still learns", "ties go to the earlier", "nothing is robust"],
)
def test_early_stopping_keeps_the_weights_of_the_best_epoch(curve, best):
    kept: list[dict[str, Tensor]] = []
    planted = scores_of(curve)

    def validate(model, data, held):
        kept.append(weights(model))
        return planted(model, data, held)

    model = lively()
    fitted = training.fit(model, blobs(), clean_loss, recipe=FEW, seed=3, validate=validate)
    assert fitted.best == best
    assert same(weights(model), kept[best - 1])
    notes = fitted.notes(threat="Linf:0.2")["training"]
    assert (notes["best"]["robust"], notes["last"]["robust"]) == (curve[best - 1], curve[-1])
    assert notes["last"]["epoch"] == 4


def test_validation_every_few_epochs_never_misses_the_last():
    calls = []

    def validate(model, data, held):
        calls.append(1)
        return Score(clean=1.0, robust=len(calls) / 10)

    recipe = replace(FEW, epochs=5, validate_every=2)
    fitted = training.fit(plain(), blobs(), clean_loss, recipe=recipe, seed=0, validate=validate)
    assert [epoch.robust for epoch in fitted.history] == [None, 0.1, None, 0.2, 0.3]
    assert fitted.best == 5


def test_what_is_held_out_is_never_learned_from():
    learned, held_out = set(), set()

    def loss(model, batch, moment):
        learned.update(batch.indices.tolist())
        return clean_loss(model, batch, moment)

    def validate(model, data, held):
        held_out.update(held.tolist())
        assert not model.training
        return Score(clean=1.0, robust=1.0)

    trained(plain(), loss=loss, validate=validate)
    assert len(held_out) == 10
    assert learned == set(range(96)) - held_out


@pytest.mark.parametrize("count, share, size", [(1000, 0.1, 100), (97, 0.1, 10), (40, 0.25, 10), (20_000, 0.1, 1000)])
def test_the_split_is_stratified_by_seed_and_of_the_right_size(count, share, size):
    labels = np.random.default_rng(0).integers(0, 10, count)
    rows, held = loop.split(labels, share, seed=1)
    assert len(held) == size
    assert sorted([*rows, *held]) == list(range(count))
    wanted = np.bincount(labels, minlength=10) * size / count
    assert np.abs(np.bincount(labels[held], minlength=10) - wanted).max() < 1.01
    assert np.array_equal(held, loop.split(labels, share, seed=1)[1])
    assert not np.array_equal(held, loop.split(labels, share, seed=2)[1])


def test_too_few_images_to_hold_some_out_are_refused():
    with pytest.raises(UserError, match="too few to hold out"):
        loop.split(np.array([0, 1, 2]), 0.1, seed=0)


@pytest.mark.parametrize("epoch", [1, 3, 4])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("validated", [False, True], ids=["all data", "early stopping"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, optimizer, epoch, validated):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    recipe = replace(FEW, optimizer=optimizer)

    def once(**options):
        # A real validation, so that it sees the weights and not only its place in the run.
        system = system_of(model := lively())
        attack = resolve_attack(PGD)

        def validate(model, data, held):
            return training.accuracy(system, attack, Threat(norm="Linf", eps=0.1), data, held, seed=0)

        extra = {"validate": validate} if validated else {}
        fitted = training.fit(model, blobs(), clean_loss, recipe=recipe, seed=3, **extra, **options)
        return weights(model), fitted

    whole = once()
    with pytest.raises(KeyboardInterrupt):
        once(scratch=tmp_path, progress=stop_after(epoch))
    steps = []
    resumed = once(scratch=tmp_path, progress=lambda *told: steps.append(told[0]))
    assert same(whole[0], resumed[0])
    assert whole[1] == resumed[1]
    assert len(steps) == 5 * (4 - epoch)


@pytest.mark.parametrize("change", ["recipe", "seed", "weights"])
def test_another_trainings_epoch_is_not_taken_up(tmp_path, monkeypatch, change):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        trained(plain(), scratch=tmp_path, progress=stop_after(2))
    options = {"recipe": {"recipe": replace(FEW, learning_rate=0.02)}, "seed": {"seed": 5}}.get(change, {})
    start = 1 if change == "weights" else 0
    assert same(trained(plain(seed=start), scratch=tmp_path, **options), trained(plain(seed=start), **options))


def test_a_damaged_epoch_is_said_aloud_and_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        trained(plain(), scratch=tmp_path, progress=stop_after(2))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        assert same(trained(plain(), scratch=tmp_path), trained(plain()))


def test_a_scratch_folder_that_cannot_be_written_costs_the_resume_alone(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be continued"):
        assert same(trained(plain(), scratch=tmp_path / "file" / "folder"), trained(plain()))


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(UserError, match="diverged in epoch 1: the loss is nan; try a smaller learning_rate"):
        trained(plain(), loss=lambda model, batch, moment: model(batch.x).sum() * float("nan"))


@pytest.mark.parametrize(
    "schedule, rates",
    [
        ("linear", [0.1, 0.075, 0.06, 0.05, 0.025, 0]),
        ("constant", [0.1] * 6),
        ("cosine", [0.1, 0.08535534, 0.06545085, 0.05, 0.01464466, 0]),
        ("one-cycle", [0, 0.0625, 0.1, 0.5 / 6, 0.25 / 6, 0]),
        ("piecewise", [0.1, 0.1, 0.1, 0.01, 0.001, 0.001]),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule, rates):
    recipe = Recipe(epochs=1, learning_rate=0.1, schedule=schedule)
    assert [recipe.rate(done) for done in (0, 0.25, 0.4, 0.5, 0.75, 1)] == pytest.approx(rates)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epochs": 0}, "epochs=0; accepted: 1 and more"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"validate_every": 0}, "validate_every=0"),
        ({"learning_rate": 0.0}, "learning_rate=0; accepted: a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1"),
        ({"validation": 1.0}, "validation=1; accepted: a share"),
        ({"ema": 1.0}, "ema=1; accepted: from 0 to below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"replays": 0}, "replays=0"),
        ({"accumulate": 65}, "accumulate=65; accepted: up to batch_size=64"),
    ],
)
def test_a_recipe_out_of_range_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        Recipe(**{"epochs": 1, **options})


@pytest.mark.parametrize(
    "name, shape, normalised, expected",
    [
        ("digits", (1, 8, 8), False, {"epochs": 40, "batch_size": 64, "learning_rate": 1e-3, "schedule": "linear"}),
        ("mnist", (1, 28, 28), False, {"epochs": 10, "optimizer": "adam", "learning_rate": 1e-3, "crop": 0}),
        ("cifar10", (3, 32, 32), True, {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}),
        ("cifar10", (3, 32, 32), True, {"crop": 4, "flip": True}),
        ("svhn", (3, 32, 32), True, {"crop": 4, "flip": False}),
        ("npz:signs.npz", (3, 48, 48), False, {"optimizer": "adam", "crop": 6, "flip": False}),
    ],
)
def test_the_default_recipe_suits_images_and_network(name, shape, normalised, expected):
    data = from_tensors(np.zeros((2, *shape), np.uint8), np.array([0, 1]), name=name)
    model = nn.Sequential(nn.Conv2d(shape[0], 2, 3), nn.BatchNorm2d(2) if normalised else nn.ReLU())
    recipe = training.default_recipe(data, model)
    assert {option: getattr(recipe, option) for option in expected} == expected


def test_standard_training_follows_the_recipe_and_tells_of_it():
    workshop = Workshop(train=blobs(), seed=3)
    model = plain()
    system = training.standard_training(system_of(model), workshop, FEW)
    assert same(weights(system.model), trained(plain()))
    assert system.notes["recipe"]["epochs"] == 4
    assert system.notes["training"]["last"]["epoch"] == 4
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_changes_to_the_standard_recipe_leave_the_rest():
    workshop = Workshop(train=blobs())
    recipe = training.standard_recipe(system_of(plain()), workshop, epochs=3, batch_size=None)
    assert recipe == replace(training.default_recipe(blobs(), plain()), epochs=3)


def shifted(x: Tensor, crop: int, flip: bool, seed: int = 0) -> Tensor:
    return augment.moved(x, Draws.of(seed, [bytes([row]) for row in range(len(x))]), crop, flip)


def test_a_moved_image_is_its_old_self_a_few_pixels_on():
    x = torch.rand((64, 2, 9, 7), generator=torch.Generator().manual_seed(0)) + 0.1
    moved = shifted(x, 2, False)
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    places = set()
    for before, after in zip(padded, moved, strict=True):
        fits = [(i, j) for i in range(5) for j in range(5) if torch.equal(before[:, i : i + 9, j : j + 7], after)]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) > 15


def test_about_half_of_the_images_are_mirrored():
    x = torch.rand((200, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    moved = shifted(x, 0, True)
    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(x, moved, strict=True)]
    assert all(flipped or torch.equal(after, before) for flipped, before, after in zip(mirrored, x, moved, strict=True))
    assert 70 < sum(mirrored) < 130


def test_without_crop_and_flip_images_stay_as_they_are():
    x = torch.rand((3, 1, 4, 4))
    assert shifted(x, 0, False) is x


def test_a_fresh_copy_has_new_weights_that_follow_from_the_seed():
    model = lively(seed=7)
    model[2].running_mean.fill_(3)
    before = weights(model)
    one, again, other = (training.fresh_copy(model, seed) for seed in (1, 1, 2))
    assert same(weights(one), weights(again))
    assert not torch.equal(one[1].weight, other[1].weight)
    assert not torch.equal(one[1].weight, model[1].weight)
    assert not one[2].running_mean.any()
    assert same(before, weights(model))


def test_a_layer_that_cannot_be_drawn_anew_is_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

    with pytest.raises(UserError, match="the layer Scale has no reset_parameters"):
        training.fresh_copy(nn.Sequential(nn.Flatten(), Scale()), 0)


def test_accuracy_counts_all_images_and_falls_with_the_radius():
    data, model = blobs(300), plain()
    training.fit(model, data, clean_loss, recipe=FEW, seed=0)
    system = system_of(model)
    with torch.no_grad():
        right = (model(data.batch(range(300))).argmax(1) == data.labels_at(range(300))).float().mean().item()
    scores = [
        training.accuracy(system, resolve_attack(PGD), Threat(norm="Linf", eps=eps), data, np.arange(300), seed=0)
        for eps in (0.0, 0.02, 0.1, 1.0)
    ]
    assert all(score.clean == pytest.approx(right) for score in scores)
    robust = [score.robust for score in scores]
    assert robust[0] == pytest.approx(right)
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < 0.05


def test_measuring_changes_nothing_in_the_model():
    system = system_of(lively())
    before = weights(system.model)
    training.accuracy(system, resolve_attack(PGD), Threat(norm="Linf", eps=0.1), blobs(), np.arange(96), seed=0)
    assert same(before, weights(system.model))


def test_the_watching_attack_is_short_pgd_and_the_training_s_own_where_pgd_does_not_know_the_norm():
    own = resolve_attack(PGD)
    watching = training.watching_attack(Threat(norm="Linf", eps=0.1), own)
    assert (watching.name, watching.length(), watching.lanes(4)) == ("pgd", 10, 1)


def test_images_are_given_as_they_are_shaped():
    seen = []

    def loss(model, batch, moment):
        seen.append(batch.x)
        return clean_loss(model, batch, moment)

    trained(plain(), loss=loss)
    assert all(x.shape[1:] == SHAPE and x.dtype == torch.float32 for x in seen)
