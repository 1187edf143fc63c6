"""`rbl check` on a regression of every kind, planted where a commit would put it: in the model's file, or in an attack."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite import data
from robustbench_lite.attacks.gradient import PGD
from robustbench_lite.leaderboard.comparison import Kind

Here = Callable[..., int]
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1))

def make(num_classes, input_shape):
    return Net()
"""
PLAN = """
dataset = "digits"
models = ["net.py:make;weights=net.safetensors"]
defenses = ["none"]
threats = ["Linf:0.05"]
attacks = ["noise:draws=5", "pgd:steps=10,restarts=1"]
samples = "first:200"
[leaderboard]
title = "What we ship"
"""
FORWARD = "return self.linear(x.flatten(1))"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a linear model of digits."""
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
    return {f"linear.{name}": value.detach().clone() for name, value in linear.state_dict().items()}


@pytest.fixture
def check(
    here: Here, tmp_path: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`rbl check` against the baseline of what was there before the commit: its exit code, and what it printed."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "gate.toml").write_text(PLAN)
    save_file(weights, tmp_path / "net.safetensors")
    assert here("leaderboard", "build", "gate.toml", "--runs", "runs", "--quiet") == 0

    def checked(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = here("check", "--baseline", "gate.csv", "--runs", "again", "--quiet", *arguments)
        return code, capsys.readouterr().out

    return checked


Check = Callable[..., tuple[int, str]]


def kinds(out: str) -> set[str]:
    """What the lines of alarms begin with."""
    return {line.split(":")[0] for line in out.splitlines()} & set(get_args(Kind))


def test_nothing_has_changed(check: Check) -> None:
    code, out = check()
    assert (code, out.splitlines()[-1][:20]) == (0, "no alarm: 1 systems,")


def test_weights_that_got_worse(check: Check, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    noise = {name: value + 0.6 * torch.randn_like(value) for name, value in weights.items()}
    save_file(noise, tmp_path / "net.safetensors")
    code, out = check()
    assert code == 1
    assert {"less accurate", "less robust"} <= kinds(out)
    assert "other weights or parts than in the baseline" in out


def test_a_loss_that_clean_accuracy_does_not_show(
    check: Check, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The answers to the images are the same; what moves is how near the next class is."""
    (tmp_path / "net.py").write_text(
        NET.replace(FORWARD, "return self.linear((x + 2 * (x - x.round(decimals=1))).flatten(1))")
    )
    code, out = check()
    assert code == 1
    assert "less robust" in kinds(out)


def test_an_attack_that_somebody_broke(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGD that stays where it began, on the same weights: the system looks more robust than it is."""
    whole = PGD.step

    def step(self, state, oracle):
        whole(self, state, oracle)
        return state

    monkeypatch.setattr(PGD, "step", step)
    code, out = check()
    assert code == 1
    assert "weaker attack" in kinds(out)
    assert not {"less robust", "less accurate", "queries"} & kinds(out)


def test_an_attack_that_asks_twice(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PGD.step

    def step(self, state, oracle):
        whole(self, state, oracle)
        return whole(self, state, oracle)

    monkeypatch.setattr(PGD, "step", step)
    code, out = check()
    assert (code, kinds(out)) == (1, {"queries"})
    assert check("--queries", "0")[0] == 0


def test_a_check_that_fires(check: Check, tmp_path: Path) -> None:
    """Somebody put the softmax into the network."""
    (tmp_path / "net.py").write_text(NET.replace(FORWARD, "return self.linear(x.flatten(1)).softmax(1)"))
    code, out = check()
    assert code == 1
    assert "the check outputs-are-probabilities fires, and did not before" in out


def test_a_system_and_an_attack_that_are_gone(check: Check, here: Here, tmp_path: Path) -> None:
    evaluation = PLAN.split("[leaderboard]")[0]
    for name, (old, new) in {
        "gone": ("Linf:0.05", "Linf:0.06"),
        "fewer": (', "pgd:steps=10,restarts=1"', ""),
    }.items():
        (tmp_path / f"{name}.toml").write_text(evaluation.replace(old, new))
        assert here("evaluate", "--config", f"{name}.toml", "--out", name, "--quiet") == 0
    code, out = check("--run", "gone")
    assert (code, kinds(out)) == (1, {"missing"})
    code, out = check("--run", "fewer")
    assert code == 1
    assert "pgd:steps=10,restarts=1 ran in the baseline and not in this run" in out


def test_time_is_compared_only_when_it_is_asked_for(check: Check, tmp_path: Path) -> None:
    slow = "import time; time.sleep(0.02); " + FORWARD
    (tmp_path / "net.py").write_text(NET.replace(FORWARD, slow))
    assert check()[0] == 0
    code, out = check("--time", "3")
    assert (code, kinds(out)) == (1, {"time"})


def test_machines_are_told_too(
    check: Check, weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    save_file({name: -value for name, value in weights.items()}, tmp_path / "net.safetensors")
    code, out = check("--junit", "gate.xml", "--markdown", "gate.md", "--github")
    assert code == 1
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    told = [case.get("classname") for case in suite.iter("testcase")]
    assert {"rbl.check.less accurate", "rbl.check.less robust"} <= set(told)
    assert len(told) == int(suite.get("failures", 0)) == out.count("::error file=gate.csv,title=")
    page = (tmp_path / "gate.md").read_text()
    assert page == (tmp_path / "summary.md").read_text()
    assert "| less accurate: clean | net.py:make;weights=net.safetensors, none · digits · Linf:0.05 |" in page
    assert pd.read_csv(tmp_path / "gate.csv")["clean"].iloc[0] > 0.8  # the baseline is as it was
