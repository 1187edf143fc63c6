"""`rbl leaderboard` and `rbl check`, as somebody types them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Here = Callable[..., int]
PLAN = """
dataset = "digits"
models = ["linear"]
defenses = ["none", "bit-depth"]
threats = ["Linf:0.05"]
attacks = ["noise", "pgd:steps=5,restarts=1"]
samples = "first:40"
diagnostics = false
[leaderboard]
title = "Linear models"
"""


@pytest.fixture
def board(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "linear.toml").write_text(PLAN)
    assert here("leaderboard", "build", "linear.toml", "--runs", "runs", "--quiet") == 0
    capsys.readouterr()
    return tmp_path / "linear.csv"


def test_a_plan_becomes_a_leaderboard_that_is_sound_and_stays_the_same(
    here: Here, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("linear.csv", "linear.samples.csv", "linear.timings.csv", "linear.md")
    before = {name: (tmp_path / name).read_bytes() for name in files}
    assert here("leaderboard", "build", "linear.toml", "--runs", "runs", "--quiet") == 0
    out = capsys.readouterr().out
    assert "Written: linear.csv, linear.samples.csv, linear.md, linear.timings.csv" in out
    assert {name: (tmp_path / name).read_bytes() for name in files} == before
    assert here("leaderboard", "validate", "linear.csv") == 0
    assert capsys.readouterr().out == "linear.csv: sound\n"
    assert here("leaderboard", "show", "linear.csv") == 0
    assert "bit-depth" in capsys.readouterr().out
    assert here("leaderboard", "diff", "linear.csv", "linear.csv") == 0
    assert capsys.readouterr().out == "nothing is different\n"


def test_an_edited_leaderboard_fails(
    here: Here, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(board, dtype=str, keep_default_na=False)
    table.loc[0, "worst_case"] = "0.999"
    table.to_csv(tmp_path / "edited.csv", index=False)
    assert here("leaderboard", "validate", "edited.csv", "linear.csv") == 1
    out, err = capsys.readouterr()
    assert "edited.csv: " in err
    assert "linear.csv: sound" in out
    assert here("leaderboard", "diff", "linear.csv", "edited.csv") == 1
    assert "worst_case" in capsys.readouterr().out


def test_merging_with_itself_is_itself(here: Here, board: Path, tmp_path: Path) -> None:
    assert here("leaderboard", "merge", "linear.csv", "linear.csv", "--out", "both.csv") == 0
    assert (tmp_path / "both.csv").read_bytes() == board.read_bytes()


def test_the_gate_passes_what_is_the_same_and_catches_what_is_worse(
    here: Here, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("check", "--baseline", "linear.csv", "--run", "runs/linear/seed-0") == 0
    assert "no alarm: 2 systems" in capsys.readouterr().out
    assert here("check", "--baseline", "runs/linear/seed-0", "--run", "runs/linear/seed-0") == 0
    half = PLAN.replace('"none", "bit-depth"', '"none"').split("[leaderboard]")[0]
    (tmp_path / "plan.toml").write_text(half)
    assert here("evaluate", "--config", "plan.toml", "--out", "half", "--quiet") == 0
    files = ("--junit", "gate.xml", "--markdown", "gate.md", "--github")
    capsys.readouterr()
    assert here("check", "--baseline", "linear.csv", "--run", "half", *files) == 1
    out = capsys.readouterr().out
    assert "missing: linear, bit-depth · digits · Linf:0.05: it is in the baseline and not in this run" in out
    assert "::error file=linear.csv,title=missing::" in out
    assert 'failures="1"' in (tmp_path / "gate.xml").read_text()
    assert "1 alarm" in (tmp_path / "gate.md").read_text()


def test_without_a_run_the_plan_beside_the_baseline_is_run(
    here: Here, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("check", "--baseline", "linear.csv", "--runs", "again", "--quiet") == 0
    assert (tmp_path / "again/linear/seed-0/summary.csv").is_file()
    capsys.readouterr()
    (tmp_path / "linear.toml").unlink()
    assert here("check", "--baseline", "linear.csv") == 2
    assert (
        "there is no plan 'linear.toml' beside 'linear.csv'; give the run to compare: --run DIR"
        in capsys.readouterr().err
    )


def test_somebody_elses_examples_lower_what_is_best_known_where_they_are_right(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third party attacks harder, sends the examples, we judge them; what is outside the ball counts for nothing."""
    own = ("--dataset", "digits", "--model", "linear", "--defense", "none", "--threat", "Linf:0.05")
    attack = ("--attack", "apgd", "--no-diagnostics", "--examples", "all", "--out", "theirs", "--quiet")
    assert here("evaluate", *own, "--samples", "first:40", *attack) == 0
    (sent,) = (tmp_path / "theirs/examples").glob("*.npz")
    judge = ("--model", "linear", "--threat", "Linf:0.05", "--quiet")
    assert here("verify", str(sent), *judge, "--out", "theirs.json") == 0
    outside = {name: np.clip(value + 0.5, 0, 1) if value.ndim == 4 else value for name, value in np.load(sent).items()}
    np.savez(tmp_path / "cheat.npz", **outside)
    assert here("verify", "cheat.npz", *judge, "--out", "cheat.json") == 3  # nothing was verified
    weak = PLAN.replace(', "pgd:steps=5,restarts=1"', "").replace('"none", "bit-depth"', '"none"')
    found = {}
    for name in ("weak", "cheat", "theirs"):
        more = "" if name == "weak" else f'[[external]]\nverdict = "{name}.json"\nsource = "a third party"\n'
        (tmp_path / "weak.toml").write_text(weak + more)
        assert here("leaderboard", "build", "weak.toml", "--runs", "runs", "--quiet") == 0
        assert here("leaderboard", "validate", "weak.csv") == 0
        found[name] = pd.read_csv(tmp_path / "weak.csv").iloc[0]
    alone, cheated, lowered = found.values()
    assert (alone["best_known"], alone["best_known_source"]) == (alone["worst_case"], "here")
    assert (cheated["best_known"], cheated["best_known_source"]) == (alone["worst_case"], "here")
    assert lowered["worst_case"] == alone["worst_case"]
    least = pd.read_csv(tmp_path / "theirs/summary.csv")["robust_acc"].min()
    assert (lowered["best_known"], lowered["best_known_source"]) == (least, "a third party")
    assert lowered["best_known"] < alone["best_known"]
    assert "(a third party)" in (tmp_path / "weak.md").read_text()
    told = json.loads((tmp_path / "theirs.json").read_text())
    told["system"]["digest"] = "other"
    (tmp_path / "theirs.json").write_text(json.dumps(told))
    capsys.readouterr()
    assert here("leaderboard", "build", "weak.toml", "--runs", "runs", "--quiet") == 2
    assert "it was judged on other weights or parts than the leaderboard's" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, message",
    [
        (("--alpha", "1.5"), "alpha=1.5; accepted: 0 to less than 1"),
        (("--queries", "0.5"), "queries=0.5; accepted: 0 (not compared), or a factor from 1"),
        (("--run", "nowhere"), "there is no folder 'nowhere'"),
    ],
)
def test_mistakes_are_told(
    here: Here, board: Path, given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("check", "--baseline", "linear.csv", *given) == 2
    assert message in capsys.readouterr().err
