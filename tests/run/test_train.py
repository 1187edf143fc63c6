"""`train` writes a checkpoint whose card tells everything and whose weights come back bit by bit."""

import json

import pandas as pd
import pytest
import torch
from learners import SHAPE

from robustbench_lite import data as datasets
from robustbench_lite import specs, training, zoo
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.run.train import train, train_seeds, usual_threat
from robustbench_lite.threat import Threat

AT = "adversarial-training:attack=(pgd:steps=2,restarts=1)"


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("defense", ["none", AT])
def test_the_card_tells_everything_and_the_logits_come_back(tmp_path, defense):
    file = tmp_path / "made" / "model.safetensors"
    card = train("mlp;hidden=32", "digits", defense, threat="Linf:0.1", seed=5, out=file, epochs=2, learning_rate=2e-3)
    told = json.loads(file.with_suffix(".json").read_text())
    assert card.items() <= told.items()
    assert (told["architecture"], told["num_classes"], told["input_shape"]) == ("mlp;hidden=32", 10, list(SHAPE))
    assert (told["data"]["name"], told["data"]["images"]) == ("digits", 1347)
    assert specs.parse(defense).options.items() <= specs.parse(told["defense"]).options.items()
    assert (told["recipe"]["epochs"], told["recipe"]["learning_rate"], told["seed"]) == (2, 2e-3, 5)
    assert told["normalisation"] is None
    assert told["measured"] == {"images": 450, "threat": "Linf:0.1", "attack": "pgd:steps=20,step_size=1/10,restarts=1"}
    assert told["device"] in ("cpu", "cuda")
    assert set(told["versions"]) >= {"robustbench-lite", "python", "torch"}
    assert told["training"]["last"]["epoch"] == 2

    found = zoo.load(f"checkpoint:{file}", num_classes=10, input_shape=SHAPE)
    test = datasets.load("digits", "test")
    x, y = test.batch(range(450)), test.labels_at(range(450))
    accuracy = (found.module(x).argmax(1) == y).double().mean().item()
    assert accuracy == told["clean_accuracy"]
    assert 0 < told["robust_accuracy"] < told["clean_accuracy"]
    again = tmp_path / "again.safetensors"
    assert (
        train("mlp;hidden=32", "digits", defense, threat="Linf:0.1", seed=5, out=again, epochs=2, learning_rate=2e-3)
        == card
    )
    assert again.read_bytes() == file.read_bytes()
    other = zoo.load(f"checkpoint:{again}", num_classes=10, input_shape=SHAPE)
    assert torch.equal(found.module(x), other.module(x))


def test_progress_is_told(tmp_path):
    told = []
    train("linear", epochs=1, progress=lambda *line: told.append(line))
    assert told[-1][0] == told[-1][1] == 22
    told.clear()
    train("linear", epochs=1, progress=lambda *line: told.append(line))
    assert not told


@pytest.mark.parametrize("defense", ["none", AT])
def test_every_option_of_the_recipe_reaches_the_card(tmp_path, defense):
    options = {
        "epochs": 1, "batch_size": 100, "learning_rate": 0.01, "schedule": "one-cycle", "weight_decay": 1e-4,
        "ema": 0.9, "accumulate": 2, "precision": "bfloat16",
    }  # fmt: skip
    more = {"label_smoothing": 0.1} if defense == "none" else {}
    card = train("linear", "digits", defense, **options, **more)
    assert (options | more).items() <= card["recipe"].items()


def test_the_history_lies_beside_the_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    card = train("linear", "digits", AT, epochs=3, out=file)
    history = pd.read_csv(tmp_path / "model.history.csv")
    assert list(history) == ["epoch", "loss", "clean", "robust", "one_step", "collapsed", "best"]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["loss"].tolist() == pytest.approx(card["training"]["history"]["loss"])
    assert history["robust"].tolist() == pytest.approx(card["training"]["history"]["robust"])
    assert history.loc[history["best"], "epoch"].tolist() == [card["training"]["best"]["epoch"]]
    assert (tmp_path / "model.history.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_from_the_cache_has_its_history_too(tmp_path):
    train("linear", epochs=2)
    train("linear", epochs=2, out=tmp_path / "model.safetensors")
    assert len(pd.read_csv(tmp_path / "model.history.csv")) == 2


def test_seeds_count_on_from_the_first_and_their_spread_is_told(tmp_path):
    spread = train_seeds(
        3, lambda seed, out: train("linear", epochs=1, seed=seed, out=out), first=4, out=tmp_path / "net.safetensors"
    )
    assert spread.seeds == (4, 5, 6)
    assert [card["seed"] for card in spread.cards] == [4, 5, 6]
    assert [file.name for file in spread.files] == [f"net-seed{seed}.safetensors" for seed in (4, 5, 6)]
    assert all(file.is_file() for file in spread.files)
    clean = [card["clean_accuracy"] for card in spread.cards]
    assert len(set(clean)) > 1
    assert spread.of("clean_accuracy") == (pytest.approx(sum(clean) / 3), min(clean), max(clean))


def test_no_seeds_at_all_are_refused():
    with pytest.raises(UserError, match="seeds=0; accepted: 1 and more"):
        train_seeds(0, lambda seed, out: pytest.fail("it was trained"), first=0, out=None)


def test_a_checkpoint_s_architecture_is_trained_anew(tmp_path):
    file = tmp_path / "first.safetensors"
    first = train("linear", epochs=1, out=file)
    second = train(f"checkpoint:{file}", epochs=1)
    assert second["architecture"] == "linear"
    assert second["clean_accuracy"] == first["clean_accuracy"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"out": "model.pt"}, "accepted: a file that ends in .safetensors"),
        ({"out": "FILE/model.safetensors"}, "cannot write to"),
        ({"threat": "Linf"}, "needs a radius"),
        ({"threat": "L0:3"}, "pgd does not support L0"),
        ({"epochs": 0}, "epochs=0"),
        ({"ema": 1.0}, "ema=1; accepted: from 0 to below 1"),
        ({"schedule": "steps"}, "schedule=steps; accepted: linear"),
        ({"defense": AT, "precision": "float16"}, "precision=float16; accepted: float32"),
        ({"defense": AT, "label_smoothing": 0.1}, "adversarial-training has no option 'label_smoothing'"),
        ({"defense": "bit-depth"}, "accepted: none, or one defense that trains"),
        ({"defense": f"{AT}+{AT}"}, "accepted: none, or one defense that trains"),
        ({"defense": "advers-training"}, "did you mean 'adversarial-training'"),
        ({"device": "gpu"}, "device=gpu; accepted: auto, cpu"),
        ({"model": "smal-cnn"}, "did you mean 'small-cnn'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_trained(tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(training.loop._Training, "run_epoch", lambda *arguments: pytest.fail("it was trained"))
    (tmp_path / "FILE").write_text("in the way")
    if "out" in options:
        options = {"out": tmp_path / options["out"]}
    with pytest.raises(UserError, match=words):
        train(**options)


@pytest.mark.parametrize(
    "shape, expected", [((1, 8, 8), "Linf:0.2"), ((1, 28, 28), "Linf:0.3"), ((3, 32, 32), "Linf:8/255")]
)
def test_the_usual_threat_suits_the_images(shape, expected):
    data = from_tensors(torch.zeros(2, *shape), torch.tensor([0, 1]))
    assert usual_threat(data) == Threat.parse(expected)
