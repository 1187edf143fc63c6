"""Defensive distillation: soft labels and nothing else, one answer with and without T, and a gradient that dies and is found."""

from dataclasses import replace

import pytest
import torch
from learners import blobs, lively, plain, same, system_of, weights
from torch import Tensor

from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.distillation import Cooled, Distillation, soft_labels
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal, cross_entropy, margin
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Moment, resume


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "seed": 3, **options})  # type: ignore[arg-type]


def quick(**options: object) -> Distillation:
    return Distillation(**{"epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


def batch(y: Tensor | None = None) -> Batch:
    data, at = blobs(), range(32)
    x, labels = data.batch(at), data.labels_at(at)
    return Batch(x=x, y=labels if y is None else y, indices=torch.arange(32), draws=Draws.for_images(0, x, labels))


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(1)


def slope(system: System, x: Tensor, y: Tensor, objective, *, adaptive: bool = False) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    value = objective(system(leaf, adaptive=adaptive), Goal(y=y)).sum()
    return torch.autograd.grad(value, leaf)[0].flatten(1).abs().amax(1)


def test_soft_labels_sum_to_one_and_are_softer_the_higher_the_temperature():
    logits = 30 * torch.randn((64, 10), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.full((64,), -1.0, dtype=torch.float64)
    for temperature in (1.0, 5.0, 20.0, 100.0):
        p = soft_labels(logits, temperature)
        torch.testing.assert_close(p.sum(1), torch.ones(64, dtype=torch.float64))
        assert bool((entropy(p) > before).all())
        before = entropy(p)


@pytest.mark.parametrize("temperature", [3.0, 20.0, 100.0])
def test_dividing_by_the_temperature_changes_no_answer(temperature):
    system = system_of(plain())
    dressed = Distillation(temperature=temperature).dress(system)
    x = torch.rand((2000, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    deployed, seen = dressed(x), dressed(x, adaptive=True)
    assert torch.equal(deployed.scores, system(x).scores)
    assert torch.equal(deployed.prediction(), seen.prediction())
    torch.testing.assert_close(seen.scores * temperature, deployed.scores)


def test_the_student_sees_no_label_of_the_data():
    defense, student, teacher = quick(), system_of(lively().train()), system_of(plain(seed=1))
    student.model.eval()
    learn = defense.learning(student, teacher)
    honest, shuffled = (
        learn(student.model, batch(y), Moment(0, 0)) for y in (None, torch.zeros(32, dtype=torch.int64))
    )
    assert torch.equal(honest, shuffled)


def test_the_losses_are_the_ones_on_paper():
    defense, student, teacher = quick(temperature=7.0), system_of(plain()), system_of(plain(seed=1))
    given = batch()
    z, t = (system(given.x).scores.double() for system in (student, teacher))
    soft = -((t / 7).softmax(1) * (z / 7).log_softmax(1)).sum(1).mean()
    hard = -(z / 7).log_softmax(1)[torch.arange(32), given.y].mean()
    learned, taught = (
        float(loss(student.model, given, Moment(0, 0)))
        for loss in (defense.learning(student, teacher), defense.teaching(student))
    )
    assert learned == pytest.approx(7 * float(soft), rel=1e-5)
    assert taught == pytest.approx(7 * float(hard), rel=1e-5)


def test_a_student_of_its_own_teacher_has_nothing_to_learn():
    system = system_of(plain())
    live = system_of(plain())
    live.model.requires_grad_(True)
    quick().learning(live, system)(live.model, batch(), Moment(0, 0)).backward()
    assert all(float(p.grad.abs().max()) < 1e-6 for p in live.model.parameters())


def test_it_trains_weights_and_dresses_them():
    given = system_of(lively())
    system = quick().defend(given, shop())
    assert system.model is given.model
    assert system.differentiable_as is None
    dressed = quick().dress(system)
    assert isinstance(dressed.differentiable_as, Cooled)
    assert dressed.differentiable_as.inner is system.model
    assert quick(temperature=1).dress(system) is system
    assert {"teacher", "best", "last"} <= system.notes["training"].keys()


def test_saturation_kills_the_plain_gradient_and_not_the_adaptive_one():
    defense = Distillation(temperature=50, epochs=60, learning_rate=0.03, batch_size=16)
    system = defense.dress(defense.defend(system_of(plain()), shop()))
    x, y = blobs().batch(range(96)), blobs().labels_at(range(96))
    right = system(x).prediction() == y
    x, y = x[right], y[right]
    assert len(x) > 80
    assert float((slope(system, x, y, cross_entropy) == 0).double().mean()) > 0.8
    assert bool((slope(system, x, y, cross_entropy, adaptive=True) > 0).all())
    assert bool((slope(system, x, y, margin) > 0).all())


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    bits = [weights(quick().defend(system_of(lively()), shop(seed=seed)).model) for seed in (3, 3, 4)]
    assert same(bits[0], bits[1])
    assert not same(bits[0], bits[2])


@pytest.mark.parametrize("kill", [2, 4])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, kill):
    """Killed in the teacher's second epoch, and in the student's first."""
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    whole = quick().defend(system_of(lively()), shop())

    def progress(done: int, total: int, text: str) -> None:
        if done * 6 == kill * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick().defend(system_of(lively()), shop(scratch=tmp_path, progress=progress))
    resumed = quick().defend(system_of(lively()), shop(scratch=tmp_path))
    assert same(weights(whole.model), weights(resumed.model))
    assert whole.notes == resumed.notes


def test_progress_goes_through_both_trainings_once():
    seen: list[tuple[int, int, str]] = []
    quick().defend(system_of(plain()), shop(progress=lambda *told: seen.append(told)))
    assert [done for done, _, _ in seen] == list(range(1, 19))
    assert {total for _, total, _ in seen} == {18}
    assert [text.split(",")[0] for _, _, text in seen] == ["teacher"] * 9 + ["student"] * 9


def test_early_stopping_looks_through_the_temperature():
    defense = quick(early_stopping=True, temperature=50, epochs=4)
    with pytest.raises(UserError, match="needs a threat with a radius"):
        defense.defend(system_of(plain()), shop())
    told = defense.defend(system_of(plain()), shop(threats=(Threat(norm="Linf", eps=0.3),))).notes["training"]
    assert told["best"]["robust"] is not None


@pytest.mark.parametrize("temperature", [0.0, 0.5, 101.0, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(UserError, match="accepted: 1 to 100"):
        replace(Distillation(), temperature=temperature)
