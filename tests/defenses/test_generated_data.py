"""Every form of adversarial training with generated images mixed in."""

import pytest
import torch
from generating import untrained
from hardening import shop
from learners import blobs, lively, same, system_of, weights

from robustbench_lite import data as datasets
from robustbench_lite.defense import Defense, resolve_defense
from robustbench_lite.errors import UserError
from robustbench_lite.training import file_digest

#: every defense that crafts, or replays, in a training of two epochs
FORMS = (
    "adversarial-training:attack=(pgd:steps=1,restarts=1)",
    "adversarial-training:attack=(pgd:steps=1,restarts=1),awp=0.01,accumulate=2",
    "trades:steps=1",
    "mart:steps=1",
    "fast-at:start=zero,gradalign=0.2",
    "free-at:replays=2",
    "alp:attack=(pgd:steps=1,restarts=1)",
)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("painter") / "painter.safetensors")


def read(spec: str, **more: object) -> Defense:
    options = "".join(f",{name}={value}" for name, value in more.items())
    (defense,) = resolve_defense(f"{spec},epochs=2,batch_size=32{options}")
    return defense


def trained(defense: Defense) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    system = system_of(lively())
    notes = defense.defend(system, shop()).notes
    return weights(system.model), notes


@pytest.mark.filterwarnings("ignore:catastrophic overfitting", "ignore:label leaking")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_generated_images_and_tells_of_them(painter, form):
    alone, mixed = trained(read(form)), trained(read(form, generated=painter, share=0.5))
    assert not same(alone[0], mixed[0])
    told = mixed[1]["training"]["generated"]
    assert told["share"] == 0.5
    assert told["images"] == len(blobs())
    assert told["generator"]["file"] == str(painter)
    assert "generated" not in alone[1]["training"]
    assert same(mixed[0], trained(read(form, generated=painter, share=0.5))[0])


@pytest.mark.filterwarnings("ignore:catastrophic overfitting", "ignore:label leaking")
@pytest.mark.parametrize("form", FORMS[:1])
def test_a_share_of_nothing_is_the_training_without(painter, form):
    assert same(trained(read(form))[0], trained(read(form, generated=painter, share=0))[0])


def test_what_is_generated_decides_the_cache_key(tmp_path):
    path = untrained(tmp_path / "painter.safetensors")
    first = read(FORMS[2], generated=path).recipe(shop())
    again = read(FORMS[2], generated=path).recipe(shop())
    assert first == again
    assert file_digest(path) != file_digest(untrained(path, seed=1))
    assert read(FORMS[2], generated=path).recipe(shop()) != first


def test_without_generated_images_recipe_and_name_are_what_they_were():
    defense = read(FORMS[2])
    assert "generated" not in defense.recipe(shop())
    assert str(defense) == "trades:epochs=2,batch_size=32,steps=1"


def test_a_dataset_is_named_as_anywhere(painter):
    spec = f"generated:{painter};count=24;seed=5"
    (defense,) = resolve_defense(f"trades:steps=1,generated=({spec}),share=0.2")
    facts = defense.recipe(shop())["generated"]
    assert facts == {"digest": datasets.load(spec, "train").digest(), "images": 24, "share": 0.2}
    assert resolve_defense(str(defense)) == (defense,)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": 0.5}, "share=0.5 of what"),
        ({"generated": "x.safetensors", "share": 1.5}, "share=1.5; accepted: 0 to 1"),
        ({"generated": "nowhere.safetensors"}, "there is no file 'nowhere.safetensors'"),
        ({"generated": "nothing"}, "unknown dataset 'nothing'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        read(FORMS[2], **options).recipe(shop())


def test_images_of_another_size_are_refused(tmp_path):
    small = untrained(tmp_path / "small.safetensors", shape=(1, 4, 4))
    with pytest.raises(UserError, match=r"cannot be mixed with blobs"):
        trained(read(FORMS[2], generated=small))
