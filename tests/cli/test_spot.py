"""`rbl leaderboard validate --spot`: what a board says of its images is run again, and a board that was forged is found out."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite import data
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.page import markdown
from robustbench_lite.leaderboard.plan import BoardPlan
from robustbench_lite.leaderboard.samples import packed, unpacked
from robustbench_lite.results.statistics import clopper_pearson

Here = Callable[..., int]
NET = "from torch import nn\ndef make(num_classes, input_shape):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
PLAN = """
dataset = "digits"
models = ["net.py:make;weights=net.safetensors"]
defenses = ["none", "bit-depth"]
threats = ["Linf:0.1"]
attacks = ["noise:draws=5", "pgd:steps=10,restarts=1"]
samples = "100"
diagnostics = false
[leaderboard]
title = "By file"
"""
ATTACKS = ["noise:draws=5", "pgd:steps=10,restarts=1"]
Spot = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    train = data.load("digits", "train")
    x, y = train.batch(range(len(train))).flatten(1), train.labels_at(range(len(train)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = torch.nn.Linear(64, 10)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(x), y).backward()
        optimizer.step()
    return {f"1.{name}": value.detach().clone() for name, value in linear.state_dict().items()}


@pytest.fixture
def spot(here: Here, tmp_path: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]) -> Spot:
    """A leaderboard of a network whose weights lie in a file, and the check: its exit code, and what it printed."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "board.toml").write_text(PLAN)
    save_file(weights, tmp_path / "net.safetensors")
    assert here("leaderboard", "build", "board.toml", "--runs", "runs", "--quiet") == 0

    def checked(*more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = here("leaderboard", "validate", "board.csv", "--spot", "30", "--seed", "3", "--quiet", *more)
        return code, *capsys.readouterr()

    return checked


def forged(path: Path, left: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have all attacks leave something else of the first row, with figures and evidence that fit."""
    board = Board.read(path)
    rows, samples = board.rows.copy(), board.samples.copy()
    own = samples["defense"] == rows.at[0, "defense"]
    n = int(rows.at[0, "n"])
    clean = torch.from_numpy(unpacked(samples.loc[own & (samples["attack"] == "clean"), "left"].iloc[0], n))
    said = left(clean).numpy()
    samples.loc[own & (samples["attack"] != "clean"), "left"] = packed(said)
    share = round(float(said.mean()), 6)
    for column in (*ATTACKS, "claimed", "adaptive", "worst_case", "best_known"):
        rows.at[0, column] = share
    low, high = clopper_pearson(int(said.sum()), n)
    rows["worst_low"], rows["worst_high"] = rows["worst_low"].astype(object), rows["worst_high"].astype(object)
    rows.at[0, "worst_low"], rows.at[0, "worst_high"] = round(low, 6), round(high, 6)
    board = Board.of(rows, samples, board.timings, board.beside)
    board.write(path, markdown(board, BoardPlan.load(path.with_suffix(".toml")), path.stem))


def test_an_honest_leaderboard_agrees(spot: Spot) -> None:
    code, out, err = spot()
    assert (code, err) == (0, "")
    assert "board.csv: 30 random images of each row, drawn with --seed 3" in out
    for defense in ("none", "bit-depth"):
        who = f"net.py:make;weights=net.safetensors, {defense} · digits · Linf:0.1"
        assert f"  agrees: {who}: 30 images, noise:draws=5, pgd:steps=10,restarts=1" in out


def test_robustness_that_is_not_there_is_found_out(spot: Spot, here: Here, tmp_path: Path) -> None:
    """A table that says that nothing was broken, and whose evidence fits: only the weights tell."""
    forged(tmp_path / "board.csv", lambda clean: clean)
    assert here("leaderboard", "validate", "board.csv") == 0
    code, out, err = spot()
    assert code == 1
    assert "holds in the leaderboard, and pgd:steps=10,restarts=1 breaks it here: worst_case is 0.9" in err
    assert "  differs: " in out


def test_breaks_that_do_not_come_again_are_told(spot: Spot, tmp_path: Path) -> None:
    forged(tmp_path / "board.csv", torch.zeros_like)
    code, _, err = spot()
    assert code == 1
    assert "is broken by noise:draws=5, pgd:steps=10,restarts=1 in the leaderboard, and holds here" in err


def test_other_weights_are_told(spot: Spot, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({name: value + 0.01 for name, value in weights.items()}, tmp_path / "net.safetensors")
    code, out, err = spot()
    assert code == 1
    for defense in ("none", "bit-depth"):  # rounding learns nothing: its weights are those of the file
        assert f"{defense} · digits · Linf:0.1: digest: the weights or parts here are" in err
    (tmp_path / "net.safetensors").unlink()
    code, out, err = spot()
    assert code == 1
    assert "not checked: net.py:make;weights=net.safetensors, none" in out
    assert "no row could be checked" in err


def test_a_row_that_is_trained_on_the_spot_is_left_out_unless_asked_for(spot: Spot, here: Here, tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(PLAN.replace("net.py:make;weights=net.safetensors", "linear"))
    assert here("leaderboard", "build", "board.toml", "--runs", "trained", "--quiet") == 0
    code, out, err = spot()
    assert code == 1
    assert "not checked: linear, none · digits · Linf:0.1: it is trained on the spot; --train trains it here" in out
    assert "no row could be checked" in err
    code, out, err = spot("--train")
    assert (code, err) == (0, "")
    assert "  agrees: linear, none · digits · Linf:0.1: 30 images" in out


def test_a_budget_leaves_the_cheapest_strong_attack(spot: Spot, tmp_path: Path) -> None:
    asked = pd.read_csv(tmp_path / "board.samples.csv").query("attack not in ('clean', 'worst-case')")
    whole = asked.groupby("defense")["queries"].sum().min()
    code, out, _ = spot("--budget", str(whole - 0.5))
    assert code == 0
    assert f"30 images, pgd:steps=10,restarts=1 alone (all attacks ask {whole:.0f} queries an image, " in out
    code, out, err = spot("--budget", "1")
    assert code == 1
    assert "its cheapest strong attack, pgd:steps=10,restarts=1, asks" in out
    assert "no row could be checked" in err


def test_other_images_are_not_compared(spot: Spot, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    board = Board.read(path)
    board = replace(board, rows=board.rows.assign(slice="0123456789ab"))
    board.write(path, path.with_suffix(".md").read_text())
    code, out, _ = spot()
    assert code == 1
    assert "the images here are not those of the leaderboard" in out


def test_without_a_plan_there_is_nothing_to_run(spot: Spot, tmp_path: Path) -> None:
    (tmp_path / "board.toml").unlink()
    code, _, err = spot()
    assert code == 2
    assert "--spot: there is no plan 'board.toml' beside 'board.csv'" in err


def test_the_seed_says_which_images(spot: Spot, here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    forged(tmp_path / "board.csv", torch.zeros_like)
    capsys.readouterr()
    told = []
    for seed in ("1", "2", "1"):
        here("leaderboard", "validate", "board.csv", "--spot", "3", "--seed", seed, "--quiet")
        told.append(capsys.readouterr().err)
    assert told[0] == told[2] != told[1]
    here("leaderboard", "validate", "board.csv", "--spot", "3", "--quiet")
    assert re.search(r"drawn with --seed \d+\n", capsys.readouterr().out)


def test_weights_that_are_not_their_cards_are_a_fault_also_beside_rows_that_agree(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("none", "pgd-at"):
        for file in (Path(__file__).parents[2] / "leaderboards/models").glob(f"digits-small-cnn-{name}.*"):
            shutil.copy(file, tmp_path)
    models = [f"checkpoint:digits-small-cnn-{name}.safetensors" for name in ("none", "pgd-at")]
    (tmp_path / "two.toml").write_text(
        f'dataset = "digits"\nmodels = {models}\ndefenses = ["none"]\nattacks = ["fgsm"]\n'
        'threats = ["Linf:0.1"]\nsamples = "first:10"\n'
    )
    assert here("leaderboard", "build", "two.toml", "--runs", "runs", "--quiet") == 0
    shutil.copy(tmp_path / "digits-small-cnn-none.safetensors", tmp_path / "digits-small-cnn-pgd-at.safetensors")
    capsys.readouterr()
    assert here("leaderboard", "validate", "two.csv", "--spot", "3", "--seed", "1", "--quiet") == 1
    out, err = capsys.readouterr()
    assert f"agrees: {models[0]}, none" in out
    assert f"differs: {models[1]}, none" in out
    assert "does not hold the weights that its card was written for" in err


def test_a_name_with_control_characters_is_the_same_system_to_the_plan(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (Path(__file__).parents[2] / "leaderboards/models").glob("digits-small-cnn-none.*"):
        shutil.copy(file, tmp_path / f"a\r\u202eb{file.suffix}")
    (tmp_path / "odd.toml").write_text(
        'dataset = "digits"\nmodels = ["checkpoint:a\\r\\u202eb.safetensors"]\ndefenses = ["none"]\nattacks = ["fgsm"]\n'
        'threats = ["Linf:0.1"]\nsamples = "first:10"\n'
    )
    assert here("leaderboard", "build", "odd.toml", "--runs", "runs", "--quiet") == 0
    capsys.readouterr()
    assert here("leaderboard", "validate", "odd.csv", "--spot", "3", "--quiet") == 0
    assert r"agrees: checkpoint:a\x{d}\x{202e}b.safetensors, none" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [
        (("--seed", "-1"), "seed=-1; accepted: a whole number from 0"),
        (("--budget", "nan"), "budget=nan; accepted: a number above 0"),
    ],
)
def test_odd_numbers_are_refused(
    here: Here, capsys: pytest.CaptureFixture[str], given: tuple[str, str], message: str
) -> None:
    assert here("leaderboard", "validate", "any.csv", "--spot", "3", *given) == 2
    assert message in capsys.readouterr().err
