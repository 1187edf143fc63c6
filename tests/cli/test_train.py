"""`rbl train`: a checkpoint with a card, that `rbl evaluate` takes."""

import io
import json
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
    assert err == ""
    card = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert f"{card['clean_accuracy']:.4g}" in out
    assert "rbl evaluate --model checkpoint:net.safetensors" in out
    given = ("--model", "checkpoint:net.safetensors", "--defense", "none", "--attack", "fgsm", "--no-diagnostics")
    assert here("evaluate", *given, "--format", "csv") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["clean_acc"].iloc[0] == pytest.approx(card["clean_accuracy"])


def test_quiet_prints_nothing(here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert here(*TRAIN, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "net.safetensors").is_file()
