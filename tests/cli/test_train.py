"""`rbl train`: a checkpoint with a card, that `rbl evaluate` takes."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Here = Callable[..., int]
TRAIN = ("train", "--model", "linear", "--epochs", "2", "--out", "net.safetensors")


def test_a_trained_checkpoint_is_what_its_card_says(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert here(*TRAIN) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"rbl: training begins: [^\n]*\nrbl: training ended after [^\n]*\n", err)
    card = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert f"{card['clean_accuracy']:.4g}" in out
    assert "rbl evaluate --model checkpoint:net.safetensors" in out
    given = ("--model", "checkpoint:net.safetensors", "--defense", "none", "--attack", "fgsm", "--no-diagnostics")
    given += ("--samples", "all")
    assert here("evaluate", *given, "--format", "csv") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["clean_acc"].iloc[0] == pytest.approx(card["clean_accuracy"])


def test_quiet_prints_nothing(here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert here(*TRAIN, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "net.safetensors").is_file()


def test_several_seeds_give_a_checkpoint_each_and_a_table_of_their_spread(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert here(*TRAIN, "--seeds", "2", "--seed", "1", "--ema", "0.5") == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in err.splitlines() if "begins" in line] == [
        f"rbl: training begins: seed {seed}" for seed in (1, 2)
    ]
    cards = [json.loads((tmp_path / f"net-seed{seed}.json").read_text(encoding="utf-8")) for seed in (1, 2)]
    assert [card["recipe"]["ema"] for card in cards] == [0.5, 0.5]
    clean = [100 * card["clean_accuracy"] for card in cards]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[:5]}
    assert [rows["1"][0], rows["2"][0]] == [f"{value:.1f}" for value in clean]
    assert rows["mean"][0] == f"{sum(clean) / 2:.1f}"
    assert rows["range"][0] == f"{min(clean):.1f}..{max(clean):.1f}"
    for seed in (1, 2):
        assert (tmp_path / f"net-seed{seed}.safetensors").is_file()
        assert (tmp_path / f"net-seed{seed}.history.csv").is_file()
        assert (tmp_path / f"net-seed{seed}.history.png").is_file()
    assert not (tmp_path / "net.safetensors").exists()


def test_the_card_on_the_screen_leaves_the_history_to_its_files(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert here(*TRAIN) == 0
    assert "history" not in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "net.history.csv")) == 2


def test_an_unknown_schedule_is_refused_in_a_sentence(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(*TRAIN, "--schedule", "steps") == 2
    assert "schedule=steps; accepted: linear, constant, cosine, one-cycle, piecewise" in capsys.readouterr().err
