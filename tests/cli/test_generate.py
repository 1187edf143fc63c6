"""`rbl generate`: from a training to pictures, images and figures."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Here = Callable[..., int]
TRAIN = ("generate", "train", "--epochs", "40", "--out", "vae.safetensors")


@pytest.fixture
def vae(here: Here, tmp_path: Path) -> Path:
    assert here(*TRAIN, "--quiet") == 0
    return tmp_path / "vae.safetensors"


def test_a_training_leaves_weights_card_history_and_a_picture(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert here(*TRAIN) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"rbl: training begins: [^\n]*\nrbl: training ended after [^\n]*\n", err)
    card = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))
    assert f"active units          {card['outcome']['active_units']}" in out
    assert "rbl generate show vae.safetensors" in out
    history = pd.read_csv(tmp_path / "vae.history.csv")
    assert list(history["epoch"]) == list(range(1, 41))
    assert history["reconstruction_error"].iloc[-1] < history["reconstruction_error"].iloc[0]
    assert (tmp_path / "vae.training.png").stat().st_size > 1000


def test_a_training_that_came_to_nothing_is_told_and_writes_nothing(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert here(*TRAIN, "--generator", "vae:sigma_x2=1", "--quiet") == 2
    assert "no latent unit is active" in capsys.readouterr().err
    assert not (tmp_path / "vae.safetensors").exists()


def test_show_draws_what_there_is(here: Here, capsys: pytest.CaptureFixture[str], vae: Path, tmp_path: Path) -> None:
    assert here("generate", "show", "vae.safetensors", "--out", "seen") == 0
    drawn = {place.name for place in (tmp_path / "seen").iterdir()}
    names = ("samples", "reconstructions", "interpolation", "traversal", "arithmetic", "neighbours")
    assert drawn == {f"{name}.png" for name in names}
    assert here("generate", "show", "vae.safetensors", "--what", "sample") == 2
    assert "unknown sheet 'sample'; did you mean 'samples'?" in capsys.readouterr().err


def test_show_refuses_what_a_generator_cannot_have(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("generate", "train", "--generator", "autoencoder", "--epochs", "2", "--out", "ae.safetensors") == 0
    capsys.readouterr()
    assert here("generate", "show", "ae.safetensors", "--what", "samples") == 2
    assert "has no samples; accepted for it: reconstructions" in capsys.readouterr().err


def test_points_are_a_scatter(here: Here, tmp_path: Path) -> None:
    data = "ring:points=2000"
    assert (
        here("generate", "train", "--generator", "gan", "--dataset", data, "--epochs", "3", "--out", "r.safetensors")
        == 0
    )
    assert here("generate", "show", "r.safetensors", "--out", "seen") == 0
    assert [place.name for place in (tmp_path / "seen").iterdir()] == ["samples.png"]
    assert here("generate", "measure", "r.safetensors", "--repeats", "2", "--samples", "500", "--out", "m.csv") == 0
    table = pd.read_csv(tmp_path / "m.csv")
    assert table["kind"].tolist()[0] == "measured"
    assert set(table["kind"][1:]) == {"published"}
    assert 0 <= table["modes"].iloc[0] <= 8 == table["modes_real"].iloc[0]


def test_sampled_images_are_data_with_an_origin(here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = (
        "generate",
        "train",
        "--generator",
        "conditional-vae",
        "--epochs",
        "40",
        "--out",
        "c.safetensors",
        "--quiet",
    )
    assert here(*given) == 0
    assert here("generate", "sample", "c.safetensors", "--count", "30", "--out", "made.npz") == 0
    assert "30 of 30 images are kept; labels by the condition" in capsys.readouterr().out
    with np.load(tmp_path / "made.npz") as made:
        assert made["x"].shape == (30, 1, 8, 8)
        assert np.bincount(made["y"]).tolist() == [3] * 10
    origin = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert origin["generator"]["weights"] == json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["weights"]
    assert here("generate", "sample", "c.safetensors", "--out", "made.csv") == 2
    assert "ends in .npz" in capsys.readouterr().err


def test_an_unconditional_generator_needs_a_judge(here: Here, capsys: pytest.CaptureFixture[str], vae: Path) -> None:
    assert here("generate", "sample", "vae.safetensors", "--out", "made.npz") == 2
    assert "judge" in capsys.readouterr().err


def test_what_was_measured_is_not_measured_again(
    here: Here, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("generate", "measure", "vae.safetensors", "--repeats", "1", "--samples", "100", "--inverted", "0", "--out")
    assert here(*given, "one.csv") == 0
    monkeypatch.setattr("robustbench_lite.run.quality.measure", None)
    assert here(*given, "two.csv") == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    row = pd.read_csv(tmp_path / "one.csv").iloc[0]
    assert row["generator"] == "vae"
    assert row["frechet_floor"] < row["frechet"] < row["frechet_noise"]


@pytest.mark.parametrize(
    "given,told",
    [
        (("generate", "show", "none.safetensors"), "there is no file"),
        (("generate", "train", "--generator", "vea", "--out", "x.safetensors"), "did you mean 'vae'"),
        (("generate", "train", "--out", "x.pt"), "ends in .safetensors"),
        (("generate", "measure", "none.safetensors"), "there is no file"),
    ],
)
def test_mistakes_are_told(here: Here, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], told: str) -> None:
    assert here(*given) == 2
    assert told in capsys.readouterr().err
