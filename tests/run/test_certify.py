"""`certify`: proofs that hold where the truth is known, draws that are used once, runs that go on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from toys import affine

import robustbench_lite as rbl
from robustbench_lite import data as datasets
from robustbench_lite.attack import craft, resolve_attack
from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import EOT
from robustbench_lite.randomness import Draws
from robustbench_lite.run import certify as module
from robustbench_lite.run.certify import Certificates, Settings, certify
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat


def images(system: System, count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, *system.input_shape), generator=torch.Generator().manual_seed(seed))
    return x, system(x).prediction()


def quick(system: System, x: Tensor, y: Tensor, **options: object) -> Certificates:
    return certify(system, x, y, **{"sigma": 0.2, "n0": 20, "n": 100, **options})  # type: ignore[arg-type]


class Watched(nn.Module):
    """Keeps what it is shown, and answers by the sign of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.clone())
        mean = x.flatten(1).mean(1) - 0.5
        return torch.stack((mean, -mean), 1)


def test_of_a_linear_classifier_no_more_than_the_margin_is_proved_and_almost_all_of_it():
    """Two classes, w x + b: f(x + noise) is right with Phi(margin / sigma), so the true radius is the margin itself."""
    system = affine(classes=2, side=4)
    weight, bias = system.model.weight.detach(), system.model.bias.detach()
    normal = weight[0] - weight[1]
    x, y = images(system, 10)
    margins = ((x.double().flatten(1) @ normal + (bias[0] - bias[1])) / normal.norm()).abs()
    proved = {}
    for n in (100, 10000):
        found = quick(system, x, y, n=n, radii=(0,))
        proved[n] = torch.tensor(found.rows["radius"].to_numpy())
        assert bool((proved[n] <= margins).all())
        assert bool(found.rows["correct"][(margins > 0.1).numpy()].all())
    inside = margins < 0.2 * 2.5  # further away all draws agree, and n is what limits the radius
    assert bool((proved[10000] >= proved[100]).all())
    assert float((margins - proved[10000])[inside].max()) < 0.03
    assert float((margins - proved[100])[inside].max()) > 0.03


def test_no_draw_is_used_twice_and_none_is_clamped():
    model = Watched()
    system = System(model=model, num_classes=2, input_shape=(1, 4, 4))
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    quick(system, x, y, n0=300, n=700, sigma=0.5)
    noise = torch.cat(model.shown).flatten(1) - 0.5
    assert len(noise) == 2 * 1000
    assert len(noise.unique(dim=0)) == 2000
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert float((noise.abs() > 0.5).double().mean()) == pytest.approx(0.317, abs=0.02)


def test_selection_and_estimate_are_told_apart():
    """The class that n0 draws have chosen stays chosen, whatever the fresh ones say."""

    class Turns(nn.Module):
        asked = 0

        def forward(self, x: Tensor) -> Tensor:
            self.asked += len(x)
            answer = 0 if self.asked <= 20 else 1
            return nn.functional.one_hot(torch.full((len(x),), answer), 3).float()

    system = System(model=Turns(), num_classes=3, input_shape=(1, 4, 4))
    rows = quick(system, torch.rand(1, 1, 4, 4), torch.tensor([1])).rows.iloc[0]
    assert (rows["selected"], rows["hits"], rows["top"], rows["top_hits"]) == (0, 0, 1, 100)
    assert not rows["certified"]
    assert rows["right"]


def test_an_image_is_counted_alike_alone_and_among_others_and_scores_of_nan_vote_for_none():
    system = affine(classes=3)
    x, y = images(system)
    whole = quick(system, x, y).rows
    alone = quick(system, x[5:6], y[5:6]).rows
    assert whole.iloc[5].drop("index").equals(alone.iloc[0].drop("index"))
    assert not whole["hits"].equals(quick(system, x, y, seed=1).rows["hits"])
    broken = System(model=Broken(), num_classes=2, input_shape=(1, 4, 4))
    rows = quick(broken, torch.rand(2, 1, 4, 4), torch.tensor([0, 0])).rows
    assert rows["hits"].tolist() == [0, 0]
    assert not rows["certified"].any()


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 2), torch.nan)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Kill the count after so many images, blocks of two at a time."""

    def after(count: int) -> None:
        monkeypatch.setattr(module, "_BLOCK", 240)
        known, asked = module._Counting.of, []

        def of(self: module._Counting, index: int) -> tuple[int, ...]:
            asked.append(index)
            if len(asked) > count:
                raise KeyboardInterrupt
            return known(self, index)

        monkeypatch.setattr(module._Counting, "of", of)

    return after


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, stops: Callable[[int], None], monkeypatch):
    system = affine(classes=3)
    x, y = images(system)
    quick(system, x, y, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stops(5)
        with pytest.raises(KeyboardInterrupt):
            quick(system, x, y, out=tmp_path / "killed")
        patch.undo()
    monkeypatch.undo()
    assert len(list((tmp_path / "killed/certificates").rglob("part-*.csv"))) == 2
    asked: list[int] = []
    known = module._Counting.of
    monkeypatch.setattr(module._Counting, "of", lambda self, index: asked.append(index) or known(self, index))
    quick(system, x, y, out=tmp_path / "killed")
    assert asked == list(range(4, 12))
    for name in ("certificates.csv", "certified.csv", "certify.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_what_is_there_is_used_again_for_another_alpha_and_for_fewer_images_and_not_for_other_counts(
    tmp_path: Path, monkeypatch
):
    system = affine(classes=3)
    x, y = images(system)
    quick(system, x, y, out=tmp_path)
    asked: list[int] = []
    known = module._Counting.of
    monkeypatch.setattr(module._Counting, "of", lambda self, index: asked.append(index) or known(self, index))
    looser = quick(system, x, y, out=tmp_path, alpha=0.05)
    assert len(quick(system, x, y, out=tmp_path, samples="first:5").rows) == 5
    assert asked == []
    assert looser.settings.alpha == 0.05
    quick(system, x, y, out=tmp_path, n=101)
    quick(system, x, y, out=tmp_path, sigma=0.21)
    quick(system, x, y, out=tmp_path, fresh=True)
    assert len(asked) == 36


def test_a_damaged_part_is_counted_again(tmp_path: Path):
    system = affine(classes=3)
    x, y = images(system)
    whole = quick(system, x, y, out=tmp_path).rows
    for part in (tmp_path / "certificates").rglob("part-*.csv"):
        part.write_text("index,label\n1,oops\n", encoding="utf-8")
    pd.testing.assert_frame_equal(quick(system, x, y, out=tmp_path).rows, whole)


def test_the_files_say_what_was_proved(tmp_path: Path):
    system = affine(classes=3)
    found = quick(system, *images(system), out=tmp_path, radii=(0, 0.1))
    rows, table = (pd.read_csv(tmp_path / name) for name in ("certificates.csv", "certified.csv"))
    assert len(rows) == 12
    assert np.allclose(rows["radius"], found.rows["radius"], rtol=1e-12)
    assert table["certified"].tolist() == found.table["certified"].tolist()
    told = json.loads((tmp_path / "certify.json").read_text())
    assert (told["sigma"], told["n0"], told["n"], told["alpha"]) == (0.2, 20, 100, 0.001)
    assert told["environment"]["system"] == system.with_noise(0.2).digest


def test_what_cannot_be_proved_is_refused():
    system = affine(classes=3)
    x, y = images(system)
    alarm = Detector(score=lambda z: z.flatten(1).amax(1), threshold=2.0, name="alarm")
    cases = [
        (system, {"sigma": None, "defense": "none"}, "answers under no Gaussian noise; name a defense such as"),
        (system.with_noise(0.1), {}, "answers under Gaussian noise more than once"),
        (system.with_purifier(lambda z: z / 2, name="darker"), {}, "darker stands before the noise"),
        (system.with_detector(alarm), {}, "alarm rejects images"),
        (system, {"sigma": 0.0}, "sigma=0; accepted"),
        (system, {"n": 0}, "n=0; accepted: 1 to"),
        (system, {"alpha": 1.0}, "alpha=1; accepted"),
        (system, {"radii": (-1.0,)}, "radii=-1; accepted"),
        (system, {"samples": "13"}, "samples=13 is more than the 12"),
    ]
    for given, options, said in cases:
        with pytest.raises(UserError, match=said):
            quick(given, x, y, **options)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--radii", "0;1"], "radii=0;1; accepted: numbers with commas"),
        (["--defense", "none"], "answers under no Gaussian noise"),
        (["--defense", "bit-depht"], "unknown defense 'bit-depht'; did you mean 'bit-depth'?"),
        (["--n", "0"], "n=0; accepted"),
        (["--device", "gpu"], "device=gpu"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_two(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    assert main(["certify", "--model", "linear", "--samples", "2", *arguments]) == 2
    *before, told = capsys.readouterr().err.splitlines()
    assert said in told
    assert all(line.startswith("rbl: training ") for line in before)


def test_the_command_prints_a_table_and_writes_the_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    spec = "randomized-smoothing:sigma=0.25,epochs=2"
    arguments = ["certify", "--model", "linear", "--defense", spec, "--samples", "10", "--n", "100", "--radii", "0,0.2"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "of 10" in said
    assert "sigma 0.25, n0 100, n 100, alpha 0.001" in said
    names = {path.name for path in (tmp_path / "rbl-certify").iterdir()}
    assert {"certificates.csv", "certified.csv", "certify.json"} <= names


def test_settings_refuse_what_is_no_number_of_draws():
    with pytest.raises(UserError, match="n0=0; accepted"):
        Settings(n0=0)


@pytest.mark.slow
def test_no_attack_is_stronger_than_a_proof_on_digits(tmp_path, monkeypatch):
    """Certified accuracy at r is at most the accuracy under an L2 attack of radius r, and image by image."""
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    found = rbl.certify("small-cnn", defense="randomized-smoothing:sigma=0.25,epochs=15", samples="60", n=500)
    assert found.summary["accuracy"] > 0.85
    from robustbench_lite.run.one import data_of, one_system
    from robustbench_lite.run.plan import Plan

    plan = Plan(defenses=("randomized-smoothing:sigma=0.25,epochs=15",))
    test = data_of(plan)
    indices = datasets.choose(test, "60", 0)
    assert indices.tolist() == found.rows["index"].tolist()
    x, y = test.batch(indices), test.labels_at(indices)
    draws = Draws.for_images(0, x, y)
    pgd = resolve_attack("pgd:steps=15,step_size=1/6,restarts=1")
    with one_system(plan, test) as system:
        for radius in (0.25, 0.5):
            threat = Threat(norm="L2", eps=radius)
            adv = craft(pgd, system, x, Goal(y=y), threat, draws, eot=EOT(draws=8))
            with torch.no_grad():
                answers = torch.stack([system(adv, draws.fold(77), k).prediction() for k in range(100)])
            resists = (answers.mode(0).values == y).numpy()
            proved = (found.rows["correct"] & (found.rows["radius"] >= radius)).to_numpy()
            assert not (proved & ~resists).any()
            assert proved.mean() <= resists.mean()
            assert resists.mean() < 1
