"""Adversarial training: the right loss on the right examples, options that are obeyed, a model that resists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hardening import on_few_digits, undefended
from learners import SHAPE, blobs, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import training, zoo
from robustbench_lite.attack import craft, resolve_attack
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.adversarial_training import AdversarialTraining
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Purifier
from robustbench_lite.threat import Threat
from robustbench_lite.training import resume

THREAT = Threat(norm="Linf", eps=0.1)
ONE_STEP = resolve_attack("pgd:steps=1,step_size=1,random_start=false,restarts=1")
THREE_STEPS = resolve_attack("pgd:steps=3,step_size=1/2,restarts=1")


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (THREAT,), "seed": 3, **options})  # type: ignore[arg-type]


def quick(**options: object) -> AdversarialTraining:
    return AdversarialTraining(**{"attack": THREE_STEPS, "epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


class Watched(nn.Module):
    """Notes what it is shown in training mode, and that nothing can be learned in eval mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shown, self.asked = inner, list[Tensor](), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.shown.append(x.detach().clone())
        else:
            self.asked += 1
            assert not any(parameter.requires_grad for parameter in self.inner.parameters())
        return self.inner(x)


@pytest.mark.parametrize("weight", [None, 0.5, 0.0])
def test_the_loss_is_the_one_on_paper(weight):
    """Two classes, z = W x: the worst case of every image is known, and so are both forms of the loss."""
    random = np.random.default_rng(0)
    w, labels = random.normal(size=(2, 64)), np.arange(12) % 2
    x = random.uniform(0.3, 0.7, size=(12, 64))
    direction = np.where(labels == 0, 1, -1)[:, None] * (w[1] - w[0])
    adv = x + 0.1 * np.sign(direction)

    def cross_entropy(points: np.ndarray) -> float:
        scores = points @ w.T
        return float((np.log(np.exp(scores).sum(1)) - scores[np.arange(12), labels]).mean())

    expected = cross_entropy(adv) if weight is None else cross_entropy(x) + weight * cross_entropy(adv)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].load_state_dict({"weight": torch.from_numpy(w)})
    data = from_tensors(x.reshape(12, *SHAPE).astype(np.float32), labels)
    defense = quick(attack=ONE_STEP, weight=weight, epochs=1, early_stopping=False)
    system = defense.defend(system_of(model, classes=2), shop(train=data))
    assert system.notes["training"]["last"]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("threat", [THREAT, Threat(norm="L2", eps=0.7), Threat(norm="L1", eps=2)], ids=str)
def test_what_is_learned_from_lies_in_ball_and_box(threat):
    model = Watched(plain())
    quick(weight=1.0, early_stopping=False).defend(system_of(model), shop(threats=(threat,)))
    pairs = list(zip(model.shown[::2], model.shown[1::2], strict=True))
    assert len(pairs) == 9
    for adv, x in pairs:
        assert bool(threat.contains(adv, x).all())
        assert bool(((adv >= 0) & (adv <= 1)).all())
        assert float((threat.distance(adv, x) > 0.5 * threat.radius).double().mean()) > 0.9


def test_crafting_neither_learns_nor_moves_statistics():
    model = Watched(lively())
    quick(early_stopping=False).defend(system_of(model), shop())
    assert model.asked == 9 * 3
    assert int(model.inner[2].num_batches_tracked) == 9
    assert not model.training


def test_crafting_on_a_live_model_leaves_gradients_and_modes_alone():
    model = lively().train()
    model[2].eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7)
    model[1].bias.requires_grad_(False)
    before = weights(model)
    x, y = blobs().batch(range(32)), blobs().labels_at(range(32))
    craft(THREE_STEPS, model, x, Goal(y=y), THREAT, Draws.for_images(0, x, y))
    assert same(before, weights(model))
    assert all(bool((parameter.grad == 7).all()) for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert [part.training for part in model] == [True, True, False, True, True, True]


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    systems = [quick().defend(system_of(lively()), shop(seed=seed)) for seed in (3, 3, 4)]
    assert systems[0].digest == systems[1].digest
    assert systems[0].digest != systems[2].digest


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    whole = quick().defend(system_of(lively()), shop())
    with pytest.raises(KeyboardInterrupt):
        quick().defend(system_of(lively()), shop(scratch=tmp_path, progress=stop_after(epoch)))
    resumed = quick().defend(system_of(lively()), shop(scratch=tmp_path))
    assert same(weights(whole.model), weights(resumed.model))
    assert whole.notes == resumed.notes


@pytest.mark.parametrize("options", ["", ",awp=0.01", ",also=(fgsm)", ",label=predicted"])
def test_on_digits_it_resists_what_breaks_the_undefended_model(options):
    spec = "adversarial-training:attack=(pgd:steps=4,step_size=1/2,restarts=1),early_stopping=false"
    score = on_few_digits(resolve_defense(f"{spec},epochs=8,batch_size=25,learning_rate=3e-3{options}")[0])
    assert undefended().clean > 0.8
    assert score.clean > 0.6
    assert score.robust > undefended().robust + 0.12


def test_early_stopping_tells_of_best_and_last_epoch():
    told = quick(epochs=5).defend(system_of(plain()), shop()).notes["training"]
    assert told["best"]["robust"] >= told["last"]["robust"]
    assert told["last"]["epoch"] == 5
    assert (told["threat"], told["attack"]) == ("Linf:0.1", str(THREE_STEPS))
    without = quick(early_stopping=False).defend(system_of(plain()), shop()).notes["training"]
    assert without["best"]["epoch"] == 3
    assert without["best"]["robust"] is None


def test_the_radius_grows_from_zero_over_the_ramp():
    model = Watched(plain())
    quick(weight=1.0, ramp=0.5, epochs=4, early_stopping=False).defend(system_of(model), shop())
    far = [float((adv - x).abs().max()) for adv, x in zip(model.shown[::2], model.shown[1::2], strict=True)]
    assert far == pytest.approx([0.1 * min(1, step / 6) for step in range(12)], abs=1e-5)


def test_larger_images_have_a_ramp_unless_told_otherwise():
    large = shop(train=replace(blobs(), shape=(1, 28, 28)))
    ramps = [defense.recipe(large)["ramp"] for defense in (quick(), quick(ramp=0.0))]
    assert ramps == [0.2, 0.0]
    assert quick().recipe(shop())["ramp"] == 0.0


@pytest.mark.parametrize(
    "own, offered, expected",
    [
        (None, ("Linf:0.1", "Linf:0.2"), "Linf:0.1"),
        (None, ("L2", "Linf:0.2"), "Linf:0.2"),
        ("L2:0.5", ("Linf:0.1",), "L2:0.5"),
        ("Linf:8/255", (), "Linf:8/255"),
        (None, ("Linf:0.1,goal=targeted,target=next",), "Linf:0.1"),
    ],
)
def test_what_is_trained_against(own, offered, expected):
    defense = AdversarialTraining(threat=None if own is None else Threat.parse(own))
    workshop = shop(threats=tuple(Threat.parse(text) for text in offered))
    assert str(defense.trained_against(workshop)) == expected


@pytest.mark.parametrize("own, offered", [(None, ()), (None, ("L2",)), ("L2", ("Linf:0.1",))])
def test_a_threat_without_a_radius_is_refused(own, offered):
    defense = AdversarialTraining(threat=None if own is None else Threat.parse(own))
    with pytest.raises(UserError, match=r"needs a threat with a radius.*threat=\(Linf:8/255\)"):
        defense.defend(system_of(plain()), shop(threats=tuple(Threat.parse(text) for text in offered)))


def test_an_inner_attack_that_does_not_know_the_norm_is_refused_before_training():
    with pytest.raises(UserError, match="pgd does not support L0"):
        quick().defend(system_of(plain()), shop(threats=(Threat(norm="L0", eps=3),)))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("adversarial-training", AdversarialTraining()),
        ("adversarial-training:attack=(pgd:steps=3,step_size=1/2,restarts=1)", AdversarialTraining(attack=THREE_STEPS)),
        ("adversarial-training:threat=(L2:0.5)", AdversarialTraining(threat=Threat(norm="L2", eps=0.5))),
        ("adversarial-training:weight=1,epochs=3", AdversarialTraining(weight=1.0, epochs=3)),
        ("adversarial-training:from=model.safetensors", AdversarialTraining(from_="model.safetensors")),
        ("adversarial-training:early-stopping=false", AdversarialTraining(early_stopping=False)),
        ("adversarial-training:also=(fgsm+bim:steps=3)", AdversarialTraining(also="fgsm+bim:steps=3")),
        ("adversarial-training:label=predicted,awp=0.01", AdversarialTraining(label="predicted", awp=0.01)),
    ],
)
def test_it_is_written_and_read_as_one_word(text, expected):
    (read,) = resolve_defense(text)
    assert read == expected
    assert resolve_defense(str(expected)) == (expected,)


@pytest.mark.parametrize(
    "text, words",
    [
        ("epoch=3", "no option 'epoch'.*did you mean epochs"),
        ("from_=3", "no option 'from_'"),
        ("weight=-1", "weight=-1; accepted: 0 and more, or none"),
        ("ramp=2", "ramp=2; accepted: a share"),
        ("epochs=0", "epochs=0; accepted: 1 and more"),
        ("learning_rate=0", "learning_rate=0"),
        ("attack=(pdg:steps=3)", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("threat=(Linf:8)", "larger than 1"),
        ("also=(fgsm+pdg)", "unknown attack 'pdg'"),
        ("label=least-likely", "label=least-likely; accepted: true, predicted"),
        ("awp=-1", "awp=-1; accepted: more than 0, such as 0.01, or none"),
    ],
)
def test_what_it_cannot_read_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        resolve_defense(f"adversarial-training:{text}")


def checkpoint(path, model: nn.Module, architecture: str = "linear", classes: int = 4):
    zoo.save_checkpoint(path, model, {"architecture": architecture, "num_classes": classes, "input_shape": SHAPE})
    return str(path)


def test_from_a_checkpoint_it_goes_on_where_that_ended(tmp_path):
    start = zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE)
    file = checkpoint(tmp_path / "start.safetensors", start)
    fresh = zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE)
    system = quick(from_=file, learning_rate=1e-6).defend(system_of(fresh), shop())
    assert not same(weights(system.model), weights(start))
    assert torch.allclose(system.model[1].weight, start[1].weight, atol=1e-4)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    file = checkpoint(tmp_path / "mlp.safetensors", zoo.fresh_module("mlp", num_classes=4, input_shape=SHAPE), "mlp")
    with pytest.raises(UserError, match="is of another architecture than the model"):
        quick(from_=file).defend(system_of(plain()), shop())
    with pytest.raises(UserError, match="nowhere"):
        quick(from_=str(tmp_path / "nowhere.safetensors")).defend(system_of(plain()), shop())


def test_the_recipe_tells_all_that_decides_the_weights(tmp_path):
    file = checkpoint(tmp_path / "a.safetensors", zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE))
    variants = [
        quick(),
        quick(attack=replace(THREE_STEPS, steps=4)),
        quick(weight=1.0),
        quick(epochs=4),
        quick(threat=Threat(norm="Linf", eps=0.2)),
        quick(from_=file),
        quick(also="fgsm"),
        quick(label="predicted"),
        quick(awp=0.01),
    ]
    recipes = [repr(variant.recipe(shop())) for variant in variants]
    checkpoint(tmp_path / "a.safetensors", zoo.fresh_module("linear", num_classes=4, input_shape=SHAPE))
    recipes += [repr(variants[5].recipe(shop())), repr(quick().recipe(shop(threats=(THREAT.at(0.3),))))]
    assert len(set(recipes)) == len(recipes)


def test_several_inner_attacks_share_a_batch_image_by_image():
    """One attack ends in eight corners' reach, the other stands still: each image went one of both ways."""
    still, far = resolve_attack("pgd:steps=1,step_size=1e-6,random_start=false,restarts=1"), ONE_STEP
    defense = quick(attack=far, also=str(still), weight=1.0, early_stopping=False, epochs=4)
    assert defense.inner() == (far, still)
    model = Watched(plain())
    defense.defend(system_of(model), shop())
    shares = []
    for adv, x in zip(model.shown[::2], model.shown[1::2], strict=True):
        apart = THREAT.distance(adv, x)
        assert bool(((apart < 1e-5) | (apart > 0.09)).all())
        shares.append(float((apart > 0.09).double().mean()))
    assert 0.4 < np.mean(shares) < 0.6
    assert len(set(shares)) > 1


def test_a_mixture_of_one_attack_and_itself_is_that_attack():
    batch = training.Batch(**some_batch())
    one, two = quick(attack=ONE_STEP), quick(attack=ONE_STEP, also=str(ONE_STEP))
    system = system_of(plain())
    assert torch.equal(one.crafted(system, batch, THREAT), two.crafted(system, batch, THREAT))


def some_batch() -> dict[str, object]:
    x, y = blobs().batch(range(32)), blobs().labels_at(range(32))
    return {"x": x, "y": y, "indices": torch.arange(32), "draws": Draws.for_images(0, x, y)}


def test_against_label_leaking_it_climbs_away_from_what_the_model_says():
    """Labels that the model never gives: away from them is another way than away from its answers."""
    given = some_batch()
    model = lively().train()
    system = system_of(model)
    model.train()
    answers = craft_labels(model, given["x"])
    batch, honest = (training.Batch(**{**given, "y": y}) for y in ((answers + 1) % 4, answers))
    predicted = quick(attack=ONE_STEP, label="predicted")
    adv = predicted.crafted(system, batch, THREAT)
    assert torch.equal(adv, quick(attack=ONE_STEP).crafted(system, honest, THREAT))
    assert not torch.equal(adv, quick(attack=ONE_STEP).crafted(system, batch, THREAT))
    assert all(part.training for part in model)


def craft_labels(model: nn.Module, x: object) -> Tensor:
    model.eval()
    with torch.no_grad():
        answers = model(x).argmax(1)
    model.train()
    return answers


def test_it_trains_through_what_stands_before_the_model():
    seen: list[Tensor] = []

    def darker(x, draws, index):
        seen.append(x.detach())
        return x / 2

    bare = system_of(model := Watched(plain()))
    system = replace(bare, purifiers=(Purifier(apply=darker, name="darker"),))
    made = quick(early_stopping=False).defend(system, shop())
    assert made.purifiers == system.purifiers
    assert max(float(x.max()) for x in model.shown) <= 0.5
    assert max(float(x.max()) for x in seen) > 0.9
