"""Catastrophic overfitting is seen, told and survived."""

import warnings
from dataclasses import replace

import pytest
from learners import blobs, clean_loss, lively, plain, same, system_of, weights

from robustbench_lite import training
from robustbench_lite.attack import resolve_attack
from robustbench_lite.threat import Threat
from robustbench_lite.training import Epoch, Fitted, Recipe, Score

FEW = Recipe(epochs=4, batch_size=20, learning_rate=0.01)


def after(scores: list[tuple[float, float | None]], recipe: Recipe = FEW) -> tuple[Fitted, list[str]]:
    """A training whose validation finds these (robust, one-step) accuracies, and what it warned of."""
    left = iter(scores)

    def validate(model, data, held):
        robust, single = next(left)
        return Score(clean=0.9, robust=robust, one_step=single)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fitted = training.fit(plain(), blobs(), clean_loss, recipe=recipe, seed=3, validate=validate)
    return fitted, [str(warning.message) for warning in heard]


@pytest.mark.parametrize(
    "scores, marked, best, told",
    [
        ([(0.30, 0.35), (0.40, 0.45), (0.10, 0.95), (0.00, 0.99)], [3, 4], 2, 3),
        ([(0.30, None), (0.40, None), (0.19, None), (0.18, None)], [3], 2, 3),
        ([(0.10, 0.29), (0.20, 0.39), (0.30, 0.49), (0.40, 0.59)], [], 4, None),
        ([(0.40, None), (0.21, None), (0.02, None), (0.00, None)], [], 1, None),
        ([(0.10, 0.35), (0.40, 0.45), (0.41, 0.46), (0.42, 0.47)], [1], 4, None),
        ([(0.10, 0.90), (0.05, 0.95), (0.02, 0.96), (0.01, 0.99)], [1, 2, 3, 4], 1, 1),
    ],
    ids=["a gap", "a fall", "neither", "a slow fall", "only at first", "from the start"],
)
def test_a_gap_or_a_fall_above_20_points_marks_the_epoch(scores, marked, best, told):
    fitted, heard = after(scores)
    assert [number for number, epoch in enumerate(fitted.history, 1) if epoch.collapsed] == marked
    assert [epoch.one_step for epoch in fitted.history] == [single for _, single in scores]
    assert fitted.best == best
    noted = fitted.notes()["training"].get("catastrophic_overfitting")
    assert noted == (f"epoch {told}" if told else None)
    assert bool(heard) == bool(told)


def test_the_warning_says_what_was_seen_and_which_weights_are_kept():
    _, heard = after([(0.30, 0.35), (0.40, 0.45), (0.10, 0.95), (0.00, 0.99)])
    assert heard == [
        "catastrophic overfitting in epoch 3: 95.0% under a single step, 10.0% under several; "
        "the model has the weights of epoch 2"
    ]


def test_a_fall_is_seen_over_epochs_that_were_not_validated():
    fitted, _ = after([(0.40, None), (0.10, None)], replace(FEW, validate_every=2))
    assert [epoch.collapsed for epoch in fitted.history] == [False, False, False, True]


def test_without_a_validation_nothing_is_marked():
    fitted = training.fit(plain(), blobs(), clean_loss, recipe=FEW, seed=0)
    assert fitted.collapse is None
    assert not any(epoch.collapsed for epoch in fitted.history)


def test_a_collapsed_epoch_says_so_in_a_line():
    epoch = Epoch(loss=0.5, clean=0.9, robust=0.1, one_step=0.8, collapsed=True)
    assert str(epoch) == "loss 0.500, clean 90.0%, robust 10.0%, collapsed"


def test_the_history_is_told_in_columns_that_have_something_in_them():
    fitted, _ = after([(0.30, 0.35), (0.40, 0.45), (0.10, 0.95), (0.00, 0.99)])
    history = fitted.notes()["training"]["history"]
    assert list(history) == ["loss", "clean", "robust", "one_step", "collapsed"]
    assert history["robust"] == [0.3, 0.4, 0.1, 0.0]
    assert history["collapsed"] == [False, False, True, True]
    bare = training.fit(plain(), blobs(), clean_loss, recipe=FEW, seed=0).notes()["training"]["history"]
    assert list(bare) == ["loss"]


def test_a_validation_measures_the_single_step_too_and_changes_nothing():
    data, model = blobs(), lively()
    training.fit(model, data, clean_loss, recipe=FEW, seed=0)
    system, before = system_of(model), weights(model)
    threat, attack = Threat(norm="Linf", eps=0.1), resolve_attack("pgd:steps=2,restarts=1")
    score = training.validation(system, threat, attack, seed=0)(model, data, range(96))
    assert score.one_step is not None
    assert score.robust <= score.one_step + 0.02 <= score.clean + 0.02
    assert score.robust < score.clean
    assert same(before, weights(model))


def test_a_validation_without_the_single_step_has_none():
    attack, threat = resolve_attack("pgd:steps=2,restarts=1"), Threat(norm="Linf", eps=0.1)
    validate = training.validation(system_of(plain()), threat, attack, seed=0, one_step=False)
    assert validate(plain(), blobs(), range(4)).one_step is None


def test_a_clean_validation_keeps_the_most_accurate_epoch():
    model, data = plain(), blobs()
    fitted = training.fit(
        model, data, clean_loss, recipe=FEW, seed=0, validate=training.clean_validation(system_of(model), 0)
    )
    clean = [epoch.clean for epoch in fitted.history]
    assert clean[fitted.best - 1] == max(clean)
    assert all(epoch.robust is None and not epoch.collapsed for epoch in fitted.history)
