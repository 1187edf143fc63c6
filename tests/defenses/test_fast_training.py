"""Fast and free adversarial training: where the step begins and ends, slopes that agree, one backward for both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hardening import THREAT, batch_of, on_few_digits, shop, some, undefended
from learners import SHAPE, blobs, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import craft
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.fast_training import FastAT, FreeAT, misalignment
from robustbench_lite.defenses.robust import label_leaking
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.threat import Threat
from robustbench_lite.training import Recipe, resume


def fast(**options: object) -> FastAT:
    return FastAT(**{"epochs": 3, "batch_size": 32, "early_stopping": False, **options})  # type: ignore[arg-type]


def free(**options: object) -> FreeAT:
    return FreeAT(**{"epochs": 2, "batch_size": 32, "early_stopping": False, "replays": 4, **options})  # type: ignore[arg-type]


class Shown(nn.Module):
    """Notes what it is shown in train mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        return self.inner(x)


def slope_model() -> tuple[nn.Module, Tensor]:
    """Two classes; the cross-entropy of class 0 grows along sign(w) everywhere."""
    w = torch.randn(64, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].load_state_dict({"weight": torch.stack((-w, w)) / 20})
    return model, w.sign().view(1, *SHAPE)


def stepped(defense: FastAT, threat: Threat = THREAT) -> tuple[Tensor, Tensor]:
    """How far the inner attack goes along the known slope, (n, 64) in units of eps."""
    model, sign = slope_model()
    x, y = torch.full((16, *SHAPE), 0.5), torch.zeros(16, dtype=torch.int64)
    batch = batch_of(x + torch.arange(16).view(-1, 1, 1, 1) * 1e-3, y)
    (attack,) = defense.inner()
    adv = craft(attack, model, batch.x, Goal(y=y), threat, batch.draws)
    return (((adv - batch.x) * sign) / threat.radius).flatten(1), adv


def test_a_random_start_and_a_step_of_five_quarters_end_in_the_ball():
    """start + 1.25 eps, cut at eps: at the wall where the start is above -0.25 eps (5/8 of all), else below it."""
    far, _ = stepped(FastAT())
    assert float(far.min()) >= 0.25 - 1e-4
    assert float(far.max()) <= 1 + 1e-4
    assert float((far > 1 - 1e-4).float().mean()) == pytest.approx(5 / 8, abs=0.06)


def test_a_zero_start_is_fgsm():
    far, _ = stepped(FastAT(start="zero"))
    torch.testing.assert_close(far, torch.ones_like(far), rtol=1e-4, atol=0)


def test_a_wide_start_leaves_the_ball_and_stays_in_the_box():
    """Uniform noise of twice the radius and a step of eps: from -1 to 3, uniformly, and never cut at eps."""
    far, _ = stepped(FastAT(start="wide"))
    assert float(far.min()) < -0.9
    assert float(far.max()) > 2.9
    assert float(far.mean()) == pytest.approx(1, abs=0.1)
    _, adv = stepped(FastAT(start="wide"), Threat(norm="Linf", eps=0.4))
    assert float(adv.min()) == 0
    assert float(adv.max()) == 1


@pytest.mark.parametrize("start, size", [("uniform", 1.25), ("zero", 1.25), ("wide", 1.0)])
def test_the_step_is_as_published_unless_told_otherwise(start, size):
    assert FastAT(start=start).inner()[0].step_size == size
    assert FastAT(start=start, step_size=0.5).inner()[0].step_size == 0.5


def test_slopes_of_a_linear_model_of_two_classes_agree():
    model, _ = slope_model()
    batch = batch_of(torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 2)
    assert misalignment(system_of(model, classes=2), batch, THREAT).item() == pytest.approx(0, abs=1e-6)


class Bowl(nn.Module):
    """The loss' slope is x - 1/2 up to a positive factor, so the cosine with the slope elsewhere is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        height = self.weight * ((x - 0.5) ** 2).flatten(1).sum(1)
        return torch.stack((-height, height), 1)


def test_misaligned_slopes_are_measured_by_their_cosine():
    batch = batch_of(torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(2)), torch.zeros(8).long())
    system = system_of(Bowl(), classes=2)
    system.model.requires_grad_(True)
    found = misalignment(system, batch, THREAT)
    eta = THREAT.geometry.random_point(batch.x, THREAT.radius, batch.draws, 1)
    here, there = (batch.x - 0.5).flatten(1), (eta - 0.5).flatten(1)
    expected = 1 - nn.functional.cosine_similarity(here, there)
    assert found.item() == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found.requires_grad


def test_images_without_a_slope_do_not_count():
    batch = batch_of(torch.full((4, *SHAPE), 0.5), torch.zeros(4).long())
    assert misalignment(system_of(Bowl(), classes=2), batch, THREAT).item() == 0


def test_descending_the_misalignment_aligns_the_slopes():
    system, batch = system_of(plain()), some(32)
    system.model.requires_grad_(True)
    optimizer = torch.optim.Adam(system.model.parameters(), 1e-3)
    found = []
    for _ in range(30):
        loss = misalignment(system, batch, THREAT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.7 * found[0]


def test_the_misalignment_is_added_to_the_loss():
    batch, system = some(32), system_of(plain())
    adv = batch.x
    losses = [fast(gradalign=weight).descended(system, batch, adv, THREAT).item() for weight in (0.0, 2.0)]
    assert losses[1] - losses[0] == pytest.approx(2 * misalignment(system, batch, THREAT).item(), rel=1e-4)


def test_catastrophic_overfitting_is_told_on_the_card(monkeypatch):
    """The measure is replaced: a small network on small images does not overfit so."""

    def collapsed(system, attack, threat, data, indices, **more):
        return training.Score(clean=0.9, robust=0.0, one_step=0.8)

    monkeypatch.setattr(training.measure, "accuracy", collapsed)
    with pytest.warns(UserWarning, match="catastrophic overfitting in epoch 1"):
        system = fast(early_stopping=True).defend(system_of(plain()), shop())
    assert system.notes["training"]["catastrophic_overfitting"] == "epoch 1"


def test_every_epoch_is_measured_under_one_step_and_under_many():
    told = fast(early_stopping=True).defend(system_of(plain()), shop()).notes["training"]
    assert {"clean", "robust", "one_step"} <= set(told["history"])


class Leaking(nn.Module):
    """Its logit of class 0 goes up and down with how much lighter the left half is, once every 0.24."""

    def forward(self, x: Tensor) -> Tensor:
        lighter = x[..., :4].flatten(1).mean(1) - x[..., 4:].flatten(1).mean(1)
        return torch.stack((torch.cos(2 * torch.pi * lighter / 0.24), torch.zeros_like(lighter)), 1)


def test_label_leaking_is_told():
    """Clean at 120 degrees, going down: wrong. One step of 2 eps leads through the valley to 60 degrees: right again."""
    x = np.full((64, *SHAPE), 0.5, dtype=np.float32)
    x[..., :4] += 0.08
    data = from_tensors(x, np.zeros(64, dtype=np.int64), num_classes=2)
    with pytest.warns(UserWarning, match=r"label leaking: 100.0% right on FGSM examples and 0.0% on clean"):
        told = label_leaking(system_of(Leaking(), classes=2), THREAT, shop(train=data), Recipe(epochs=1))
    assert told == {"label_leaking": {"clean": 0.0, "fgsm": 1.0}}
    assert label_leaking(system_of(plain()), THREAT, shop(), Recipe(epochs=1)) == {}


def test_free_training_with_a_radius_of_zero_is_plain_training_on_replayed_batches():
    threat = Threat(norm="Linf", eps=0)
    made = free().defend(system_of(lively()), shop(threats=(threat,)))
    recipe = Recipe(epochs=2, batch_size=32, replays=4)
    plainly = training.standard_training(system_of(lively()), shop(), recipe)
    assert same(weights(made.model), weights(plainly.model))


def test_a_perturbation_outlives_its_batch_and_stays_in_ball_and_box():
    model = Shown(slope_model()[0])
    data = blobs(classes=2)
    free(learning_rate=1e-6).defend(system_of(model, classes=2), shop(train=data))
    assert len(model.seen) == 2 * 3 * 4
    originals = torch.cat([data.batch([row]) for row in range(len(data))])
    for step, seen in enumerate(model.seen):
        apart = torch.cdist(seen.flatten(1), originals.flatten(1), p=torch.inf).min(1).values
        assert float(apart.max()) <= THREAT.radius + 1e-6
        assert float(seen.min()) >= 0
        assert float(seen.max()) <= 1
        assert (float(apart.max()) > 0) is (step > 0)  # nothing is known before the first backward pass


def test_one_pass_backward_moves_weights_and_perturbation():
    """By hand: the second step is at x + eps sign(slope at x), and the model was asked once a step."""
    model, sign = slope_model()
    shown = Shown(model)
    x = np.full((8, *SHAPE), 0.5, dtype=np.float32)
    data = from_tensors(x, np.zeros(8, dtype=np.int64), num_classes=2)
    defense = free(replays=2, epochs=1, batch_size=8, learning_rate=1e-6)
    defense.defend(system_of(shown, classes=2), shop(train=data))
    first, second = shown.seen
    assert torch.equal(first, torch.from_numpy(x))
    torch.testing.assert_close(second, first + THREAT.radius * sign, rtol=0, atol=1e-6)


def test_cut_batches_make_the_same_steps():
    made = [
        free(accumulate=count, batch_size=48).defend(system_of(plain()), shop()).model.state_dict() for count in (1, 3)
    ]
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name], rtol=1e-3, atol=1e-4)


def test_there_are_as_many_times_fewer_epochs():
    defense = FreeAT(early_stopping=False, replays=8, batch_size=96)
    recipe = defense.recipe_for(shop(), system_of(plain()), **defense.recipe_defaults(shop(), system_of(plain())))
    assert (recipe.epochs, recipe.replays) == (5, 8)
    chosen = replace(defense, epochs=7)
    assert (
        chosen.recipe_for(shop(), system_of(plain()), **chosen.recipe_defaults(shop(), system_of(plain()))).epochs == 7
    )


def test_a_killed_free_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    whole = free().defend(system_of(lively()), shop())
    with pytest.raises(KeyboardInterrupt):
        free().defend(system_of(lively()), shop(scratch=tmp_path, progress=stop_after(1)))
    assert same(weights(whole.model), weights(free().defend(system_of(lively()), shop(scratch=tmp_path)).model))


SHORT = "early_stopping=false,batch_size=25,learning_rate=3e-3"


@pytest.mark.parametrize(
    "spec",
    [
        "fast-at:epochs=8",
        "fast-at:epochs=14,start=wide",
        "fast-at:epochs=8,start=zero,gradalign=0.2",
        "free-at:epochs=2,replays=4",
    ],
)
def test_on_digits_they_resist_what_breaks_the_undefended_model(spec):
    score = on_few_digits(resolve_defense(f"{spec},{SHORT}")[0])
    assert score.clean > 0.5
    assert score.robust > undefended().robust + 0.1


@pytest.mark.parametrize(
    "text",
    [
        "fast-at:start=wide",
        "fast-at:start=zero,gradalign=0.2",
        "fast-at:step_size=1/2,awp=0.01",
        "free-at:replays=4,epochs=10",
        "free-at:step_size=1/2",
    ],
)
def test_they_are_written_and_read_as_one_word(text):
    (read,) = resolve_defense(text)
    assert resolve_defense(str(read)) == (read,)


def test_the_recipe_tells_all_that_decides_the_weights():
    variants = [
        fast(),
        fast(start="zero"),
        fast(start="wide"),
        fast(step_size=0.5),
        fast(gradalign=0.2),
        fast(awp=0.01),
    ]
    variants += [free(), free(replays=5), free(step_size=0.5)]  # type: ignore[list-item]
    recipes = [repr(variant.recipe(shop())) for variant in variants]
    assert len(set(recipes)) == len(recipes)


@pytest.mark.parametrize(
    "text, words",
    [
        ("fast-at:start=far", "start=far; accepted: uniform, zero, wide"),
        ("fast-at:step_size=0", "step_size=0; accepted: more than 0"),
        ("fast-at:gradalign=-1", "gradalign=-1; accepted: 0 and more"),
        ("free-at:replays=0", "replays=0; accepted: 1 and more"),
        ("free-at:step_size=0", "step_size=0; accepted: more than 0"),
        ("free-at:awp=0.01", "no option 'awp'"),
    ],
)
def test_what_they_cannot_read_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        resolve_defense(text)
