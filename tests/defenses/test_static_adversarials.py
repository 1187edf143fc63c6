"""Static adversarials: twins with the labels of their originals, inside ball and box, and of no use."""

import numpy as np
import pytest
import torch
from hardening import THREAT, on_few_digits, shop, undefended
from learners import blobs, lively, plain, same, stop_after, system_of, weights
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.static_adversarials import StaticAdversarials, adversarial_copies, grown
from robustbench_lite.errors import UserError
from robustbench_lite.training import resume

ATTACK = resolve_attack("pgd:steps=3,step_size=1/2,restarts=1")


def quick(**options: object) -> StaticAdversarials:
    return StaticAdversarials(**{"attack": ATTACK, "epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


def copies(seed: int = 0) -> np.ndarray:
    return adversarial_copies(system_of(plain()), ATTACK, THREAT, blobs(), seed)


def test_the_data_grows_by_one_twin_an_image_with_the_label_of_its_original():
    data = blobs()
    more = grown(data, copies())
    assert len(more) == 2 * len(data)
    assert more.labels.tolist() == data.labels.tolist() * 2
    assert torch.equal(more.batch(range(96)), data.batch(range(96)))
    assert more.digest() != data.digest()
    with pytest.raises(ValueError, match="twins"):
        grown(data, copies()[:5])


def test_twins_lie_in_ball_and_box_and_are_not_the_originals():
    x, adv = blobs().batch(range(96)), torch.from_numpy(copies())
    assert bool(THREAT.contains(adv, x).all())
    assert bool(((adv >= 0) & (adv <= 1)).all())
    assert float(THREAT.distance(adv, x).min()) > 0.05


def test_stored_levels_and_twins_come_out_of_one_dataset_alike():
    levels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    data = from_tensors(levels, np.array([0, 1, 1, 0]), num_classes=2)
    twins = np.random.default_rng(0).uniform(size=(4, 1, 8, 8)).astype(np.float32)
    mixed = grown(data, twins).batch([5, 0, 7, 2])
    expected = np.stack([twins[1], levels[0] / np.float32(255), twins[3], levels[2] / np.float32(255)])
    assert torch.equal(mixed, torch.from_numpy(expected))


def test_twins_follow_from_the_seed():
    assert np.array_equal(copies(), copies())
    assert not np.array_equal(copies(), copies(seed=1))


class Counted(nn.Module):
    """Counts the images that it learns from."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("shown", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.shown += len(x)
        return self.inner(x)


def test_it_learns_from_both_and_its_card_says_where_the_twins_come_from():
    defense = quick(epochs=10, learning_rate=1e-2)
    system = defense.defend(system_of(Counted(lively())), shop())
    assert int(system.model.shown) == 10 * 2 * 96
    told = system.notes["training"]
    assert (told["added"], told["threat"], told["made_by"]) == (96, "Linf:0.1", str(ATTACK))
    assert 0 <= told["broke_when_made"] <= 1
    assert told["right_on_added"] > 0.5
    recipe = defense.recipe_for(shop(), system_of(lively()))
    frozen = training.standard_training(system_of(Counted(lively())), shop(), recipe)
    assert told["made_on"] == frozen.digest


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    whole = quick().defend(system_of(lively()), shop())
    with pytest.raises(KeyboardInterrupt):
        quick().defend(system_of(lively()), shop(scratch=tmp_path, progress=stop_after(2)))
    assert same(weights(whole.model), weights(quick().defend(system_of(lively()), shop(scratch=tmp_path)).model))


def test_on_digits_it_is_as_defenceless_as_the_undefended_model():
    score = on_few_digits(resolve_defense("static-adversarials:epochs=8,batch_size=25,learning_rate=3e-3")[0])
    assert score.clean > 0.8
    assert score.robust < undefended().robust + 0.05


def test_it_is_written_and_read_as_one_word():
    (read,) = resolve_defense("static-adversarials:attack=(fgsm),threat=(Linf:0.2)")
    assert resolve_defense(str(read)) == (read,)


@pytest.mark.parametrize(
    "text, words", [("early_stopping=true", "nothing can be held out"), ("attack=(pdg)", "unknown attack 'pdg'")]
)
def test_what_it_cannot_read_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        resolve_defense(f"static-adversarials:{text}")
