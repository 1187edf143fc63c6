"""From a model and a chain of defenses to a system: what is trained, what is kept, what is refused."""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from learners import SHAPE, blobs, plain, same, system_of, weights
from torch import nn

from robustbench_lite import training, zoo
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.parts import part
from robustbench_lite.defense import Defense, Workshop, resolve_defense
from robustbench_lite.defenses.adversarial_training import AdversarialTraining
from robustbench_lite.errors import UserError
from robustbench_lite.run.build import defended_system
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

QUICK = AdversarialTraining(attack=resolve_attack("pgd:steps=2,restarts=1"), epochs=2)
CHANGES = {"epochs": 2}


@dataclass(frozen=True, kw_only=True)
class Darker(Defense):
    """A wrapper."""

    name: ClassVar[str] = "darker"
    factor: float = 0.5

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(lambda x: x * self.factor, name=str(self))


@dataclass(frozen=True, kw_only=True)
class Reshaped(Defense):
    """A training that ends in more than weights."""

    name: ClassVar[str] = "reshaped"
    trains: ClassVar[bool] = True

    def defend(self, system: System, workshop: Workshop) -> System:
        trained = training.standard_training(system, workshop, training.Recipe(epochs=1))
        return trained.with_purifier(lambda x: x, name="more")


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path))
    return tmp_path / "models"


RUN: list[str] = []
FIT = training.loop.fit


@functools.wraps(FIT)  # under the name of the loop, so that what it counts is in no key
def counted(model, data, loss, **options):
    RUN.append(data.name)
    return FIT(model, data, loss, **options)


@pytest.fixture
def trainings(monkeypatch) -> list[str]:
    """The trainings that were really run."""
    RUN.clear()
    monkeypatch.setattr("robustbench_lite.training.standard.fit", counted)
    monkeypatch.setattr("robustbench_lite.training.fit", counted)
    return RUN


def loaded(spec: str = "linear") -> zoo.LoadedModel:
    return zoo.load(spec, num_classes=4, input_shape=SHAPE)


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (Threat(norm="Linf", eps=0.1),), "seed": 3, **options})  # type: ignore[arg-type]


def build(source, chain, workshop=None, **options) -> System:
    chain = resolve_defense(chain) if isinstance(chain, str) else chain
    return defended_system(source, chain, lambda: workshop or shop(), **{"changes": CHANGES, **options})


def never() -> Workshop:
    raise AssertionError("nothing is to be trained")


def test_given_weights_are_used_as_they_are_and_need_no_training_data():
    model = plain()
    before = weights(model)
    source = zoo.LoadedModel(name="mine", module=model, trained=True, num_classes=4, input_shape=SHAPE)
    system = defended_system(source, resolve_defense("none"), never)
    assert system.model is model
    assert same(before, weights(model))
    assert system.name == "mine"


def test_a_system_comes_back_as_it_was():
    system = system_of(plain())
    assert defended_system(system, resolve_defense("none"), never) is system


def test_an_architecture_is_trained_on_clean_images(trainings):
    system = build(loaded(), "none")
    assert trainings == ["blobs"]
    assert system.notes["training"]["last"]["epoch"] == 2
    assert not system.model.training


def test_the_initial_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    one = build(loaded(), "none", use_cache=False)
    torch.manual_seed(2)
    assert build(loaded(), "none", use_cache=False).digest == one.digest
    assert build(loaded(), "none", shop(seed=4), use_cache=False).digest != one.digest


@pytest.mark.parametrize("chain", ["none", (QUICK,)], ids=["none", "adversarial-training"])
def test_the_same_is_trained_once_and_comes_back_bit_by_bit(chain, trainings):
    first, second = build(loaded(), chain), build(loaded(), chain)
    assert len(trainings) == 1
    assert first.digest == second.digest
    assert first.notes == second.notes
    assert build(loaded(), chain, use_cache=False).digest == first.digest
    assert len(trainings) == 2


def test_whatever_changes_the_weights_is_another_training(trainings):
    def variants():
        yield loaded(), "none", shop(), CHANGES
        yield loaded("mlp"), "none", shop(), CHANGES
        yield loaded("mlp;hidden=8"), "none", shop(), CHANGES
        yield loaded(), "none", shop(seed=4), CHANGES
        yield loaded(), "none", shop(train=blobs(seed=1)), CHANGES
        yield loaded(), "none", shop(), {"epochs": 3}
        yield loaded(), (QUICK,), shop(), CHANGES
        yield loaded(), (replace(QUICK, weight=1.0),), shop(), CHANGES
        yield loaded(), (QUICK,), shop(threats=(Threat(norm="Linf", eps=0.2),)), CHANGES

    digests = [build(model, chain, work, changes=changes).digest for model, chain, work, changes in variants()]
    assert len(set(digests)) == len(digests) == len(trainings)


def test_the_name_of_the_data_and_a_threat_that_does_not_matter_are_no_other_training(trainings):
    build(loaded(), "none")
    build(loaded(), "none", shop(train=replace(blobs(), name="moved"), threats=()))
    assert len(trainings) == 1


def test_a_defense_that_trains_starts_from_fresh_weights(trainings):
    trained = build(loaded(), "none")
    source = replace(loaded(), module=trained.model, trained=True)
    assert build(source, (QUICK,), use_cache=False).digest == build(loaded(), (QUICK,), use_cache=False).digest
    assert len(trainings) == 3


def test_a_module_without_a_builder_is_drawn_anew_and_left_alone():
    system = system_of(plain())
    before = weights(system.model)
    made = build(system, (QUICK,))
    assert same(before, weights(system.model))
    assert made.model is not system.model
    assert not same(before, weights(made.model))


def test_wrappers_are_put_around_left_to_right(trainings):
    system = build(loaded(), (QUICK, Darker(), Darker(factor=0.9)))
    assert [part.name for part in system.purifiers] == ["darker:factor=0.9", "darker"]
    assert system.notes["training"]["threat"] == "Linf:0.1"
    build(loaded(), (Darker(),))
    assert len(trainings) == 2


def test_a_wrapper_keeps_the_weights_it_is_given(trainings):
    model = plain()
    source = zoo.LoadedModel(name="mine", module=model, trained=True, num_classes=4, input_shape=SHAPE)
    assert build(source, (Darker(),)).model is model
    assert not trainings


@pytest.mark.parametrize(
    "chain, words",
    [
        ((Darker(), QUICK), r"so nothing can come before it; write adversarial-training.*\+darker"),
        ((QUICK, replace(QUICK, epochs=3)), "so nothing can come before it; choose one of them"),
    ],
)
def test_new_weights_can_only_come_first(chain, words):
    with pytest.raises(UserError, match=words):
        build(loaded(), chain)


def test_none_may_stand_anywhere(trainings):
    none = resolve_defense("none")
    assert build(loaded(), (*none, QUICK)).digest == build(loaded(), (QUICK, *none)).digest
    assert len(trainings) == 1


def test_a_training_that_ends_in_more_than_weights_is_not_read_from_the_cache(trainings):
    for _ in range(2):
        system = build(loaded(), (Reshaped(),))
        assert [part.name for part in system.purifiers] == ["more"]
    assert len(trainings) == 2


def test_a_cached_entry_can_be_evaluated_as_a_checkpoint(cached):
    system = build(loaded(), (QUICK,))
    (file,) = cached.glob("*.safetensors")
    found = zoo.load(f"checkpoint:{file}", num_classes=4, input_shape=SHAPE)
    assert same(weights(found.module), weights(system.model))
    assert found.card is not None
    assert found.card["architecture"] == "linear"
    assert found.card["defense"] == str(QUICK)
    assert found.card["recipe"]["epochs"] == 2


def test_data_that_does_not_fit_the_model_is_refused():
    with pytest.raises(UserError, match="takes images 1x8x8 but"):
        build(loaded(), "none", shop(train=replace(blobs(), shape=(1, 28, 28))))
    with pytest.raises(UserError, match="labels reach 5 but linear has 4 classes"):
        build(loaded(), "none", shop(train=blobs(classes=6)))


def test_what_is_kept_apart_is_not_learned_from_and_sets_the_threshold():
    data = blobs(160)
    shop = Workshop(train=data, seed=3)
    found = zoo.load("linear", num_classes=4, input_shape=SHAPE)
    system = defended_system(
        found, resolve_defense("softmax-threshold:apart=0.25,fpr=0.1"), lambda: shop, changes=CHANGES
    )
    learned, apart = training.split(data.labels, 0.25, training.derive(3, "apart"))
    assert len(apart) == 40
    assert set(np.bincount(data.labels[apart])) == {10}
    alone = defended_system(
        found, resolve_defense("none"), lambda: replace(shop, train=part(data, learned)), changes=CHANGES
    )
    assert same(weights(system.model), weights(alone.model))
    scores = system(data.batch(apart)).reject
    assert scores is not None
    assert int((scores > 0).sum()) == 4
    assert float(scores.sort().values[-5]) == 0


def test_given_weights_cannot_keep_images_apart():
    (defense,) = resolve_defense("kde:apart=0.25")
    with pytest.raises(UserError, match="nobody knows what they have learned from; leave apart out"):
        defended_system(system_of(plain()), (defense,), lambda: Workshop(train=blobs()))


def test_a_detector_is_not_trained_away_in_silence():
    detector = Detector(score=lambda x: x.flatten(1).sum(1), threshold=1.0)
    with pytest.raises(UserError, match="train the classifier without its detector"):
        build(system_of(plain()).with_detector(detector), (QUICK,))


def test_a_network_whose_layers_cannot_be_drawn_anew_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 4))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    with pytest.raises(UserError, match="Odd has no reset_parameters"):
        build(system_of(Odd()), (QUICK,))
