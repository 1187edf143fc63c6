"""`generated:FILE`: labels that are known, classes that are balanced, a judge that is counted."""

import json

import numpy as np
import pytest
import torch
from generating import judge, untrained

from robustbench_lite import data
from robustbench_lite.errors import UserError
from robustbench_lite.generators import load_generator
from robustbench_lite.run.evaluate import evaluate


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("painter") / "painter.safetensors")


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("untold") / "untold.safetensors", "wgan-gp")


def by_brightness(folder, *, flip=False, sure=200.0):
    """Reads class 1 where the left half is brighter than the right one, else class 0; the others never."""
    weight = torch.zeros(4, 1, 8, 8)
    weight[1, :, :, :4], weight[1, :, :, 4:] = sure / 32, -sure / 32
    bias = torch.tensor([0.0, 0.0, -1e4, -1e4])
    return judge(folder / f"judge{flip}.safetensors", weight.flatten(1) * (-1 if flip else 1), bias)


def brighter_left(found):
    x = found.batch(range(len(found)))
    return (x[..., :4].mean((1, 2, 3)) > x[..., 4:].mean((1, 2, 3))).long()


def test_a_condition_is_a_label_and_every_slice_from_the_first_on_is_balanced(painter):
    found = data.load(f"generated:{painter};count=30")
    assert (len(found), found.shape, found.num_classes) == (30, (1, 8, 8), 4)
    for count in (4, 8, 30):
        classes = np.bincount(found.labels[:count], minlength=4)
        assert classes.max() - classes.min() <= 1
    assert found.provenance["labels"] == "condition"
    assert found.provenance["of each class"] == [8, 8, 7, 7]
    assert found.provenance["generator"]["weights"] == load_generator(painter).digest


def test_images_have_256_levels_and_do_not_depend_on_how_many_there_are(painter):
    few, many = (data.load(f"generated:{painter};count={count}") for count in (20, 40))
    levels = many.batch(range(40)) * 255
    assert torch.equal(levels, levels.round())
    assert float(levels.std()) > 1
    torch.testing.assert_close(few.batch(range(20)), many.batch(range(20)), rtol=0, atol=1.01 / 255)
    assert few.labels_at(range(20)).tolist() == many.labels_at(range(20)).tolist()


def test_seed_and_split_draw_from_other_streams(painter):
    spec = f"generated:{painter};count=8"
    test, again, train, other = (
        data.load(spec), data.load(spec), data.load(spec, "train"), data.load(f"{spec};seed=1")
    )  # fmt: skip
    assert test.digest() == again.digest()
    assert (train.split, test.split) == ("train", "test")
    for one in (train, other):
        assert not (one.batch(range(8)) == test.batch(range(8))).flatten(1).all(1).any()


def test_other_weights_in_the_file_are_other_data(tmp_path):
    path = untrained(tmp_path / "painter.safetensors")
    before = data.load(f"generated:{path};count=8").digest()
    untrained(path, seed=1)
    assert data.load(f"generated:{path};count=8").digest() != before


@pytest.mark.parametrize("flip", [False, True])
def test_a_judge_labels_the_images_of_a_generator_that_is_told_none(untold, tmp_path, flip):
    found = data.load(
        f"generated:{untold};count=40;judge=(checkpoint:{by_brightness(tmp_path, flip=flip)});confidence=0"
    )
    expected = brighter_left(found)
    assert torch.equal(found.labels_at(range(40)), 1 - expected if flip else expected)
    assert found.provenance["made"] == 40
    assert found.provenance["turned away"] == {"another class": 0, "unsure": 0}


def test_what_the_judge_is_not_sure_of_is_made_again_and_counted(untold, tmp_path):
    reader = by_brightness(tmp_path, sure=5.0)
    found = data.load(f"generated:{untold};count=40;judge=(checkpoint:{reader});confidence=0.6")
    told = found.provenance
    assert len(found) == 40
    assert told["turned away"]["another class"] == 0
    assert told["made"] >= 40 + told["turned away"]["unsure"] > 40
    x = found.batch(range(40))
    gap = 5 * (x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3)))
    assert float(gap.abs().sigmoid().min()) >= 0.6 - 1e-3


def test_a_judge_turns_away_what_does_not_show_its_condition(tmp_path):
    painter = untrained(tmp_path / "two.safetensors", classes=2)
    weight = torch.zeros(2, 64)
    weight[1, :32], weight[1, 32:] = 6.0, -6.0  # the upper half against the lower one
    reader = judge(tmp_path / "reader.safetensors", weight, torch.zeros(2))
    found = data.load(f"generated:{painter};count=60;judge=(checkpoint:{reader});confidence=0")
    x, told = found.batch(range(60)), found.provenance
    above = (x[:, :, :4].mean((1, 2, 3)) > x[:, :, 4:].mean((1, 2, 3))).long()
    assert torch.equal(above, found.labels_at(range(60)))
    assert told["of each class"] == [30, 30]
    assert told["made"] == 60 + told["turned away"]["another class"] > 60
    assert told["turned away"]["unsure"] == 0


def test_a_judge_that_turns_away_all_is_told(painter, tmp_path):
    nobody = judge(tmp_path / "nobody.safetensors", torch.zeros(4, 64), torch.tensor([9.0, 0, 0, 0]))
    with pytest.raises(UserError, match=r"the judge turns away nearly all: 10 of \d+ images are kept"):
        data.load(f"generated:{painter};count=40;judge=(checkpoint:{nobody})")


@pytest.mark.parametrize(
    "options, message",
    [
        (";count=0", "count=0; accepted: 1 and more"),
        (";confidence=0.5", "confidence=0.5 of whom"),
        (";judge=linear;confidence=2", "confidence=2; accepted: 0 to 1"),
        (";judge=linear", "judge=linear has no weights"),
        (";colour=red", "has no option 'colour'; it has count, seed, judge, confidence"),
    ],
)
def test_what_makes_no_sense_is_refused(painter, options, message):
    with pytest.raises(UserError, match=message):
        data.load(f"generated:{painter}{options}")


def test_images_that_nobody_can_label_are_refused(untold, tmp_path):
    with pytest.raises(UserError, match=r"is not told a label; name who reads its images"):
        data.load(f"generated:{untold}")
    with pytest.raises(UserError, match="there is no file"):
        data.load(f"generated:{tmp_path / 'none.safetensors'}")


def test_a_run_tells_where_its_images_come_from(painter, tmp_path):
    result = evaluate(
        _linear(), dataset=f"generated:{painter};count=12", attacks=["noise:draws=1"],
        threat="Linf:0.1", out=tmp_path / "run", diagnostics=False,
    )  # fmt: skip
    kept = json.loads((tmp_path / "run/environment.json").read_text(encoding="utf-8"))["data"]
    assert kept["provenance"]["generator"]["file"] == str(painter)
    assert kept["provenance"]["made"] == 12
    assert len(result.records) == 12


def _linear():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
