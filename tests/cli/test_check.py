"""`rbl check` on a regression of every kind, planted where a commit would put it: in the model's file, or in an attack."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite import data
from robustbench_lite.attacks.gradient import PGD
from robustbench_lite.leaderboard.comparison import Kind
from robustbench_lite.run import clocks

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
    assert (code, out.splitlines()[-1][:19]) == (0, "no alarm: 1 system,")


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
        "gone": ("net.py:make", "./net.py:make"),
        "fewer": (', "pgd:steps=10,restarts=1"', ""),
    }.items():
        (tmp_path / f"{name}.toml").write_text(evaluation.replace(old, new))
        assert here("evaluate", "--config", f"{name}.toml", "--out", name, "--quiet") == 0
    code, out = check("--run", "gone")
    assert (code, kinds(out)) == (1, {"missing"})
    code, out = check("--run", "fewer")
    assert code == 1
    assert "pgd:steps=10,restarts=1 ran in the baseline and not in this run" in out


def test_a_run_on_other_data_or_under_another_threat_is_refused(
    check: Check, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.toml").write_text(PLAN.split("[leaderboard]")[0].replace("Linf:0.05", "Linf:0.06"))
    assert here("evaluate", "--config", "other.toml", "--out", "other", "--quiet") == 0
    assert here("check", "--baseline", "gate.csv", "--run", "other", "--junit", "gate.xml") == 2
    assert (
        "no row in common with the run: its threat is Linf:0.05, that of the run Linf:0.06" in capsys.readouterr().err
    )
    assert not (tmp_path / "gate.xml").exists()


def test_a_run_of_fewer_images_is_refused_or_paired_on_those_in_common(
    check: Check, here: Here, weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = PLAN.split("[leaderboard]")[0].replace("first:200", "first:60")
    (tmp_path / "few.toml").write_text(few)
    assert here("evaluate", "--config", "few.toml", "--out", "few", "--quiet") == 0
    assert here("check", "--baseline", "gate.csv", "--run", "few") == 2
    assert "the run has 60 images of net.py:make" in capsys.readouterr().err
    code, out = check("--run", "few", "--allow-fewer")
    assert (code, kinds(out)) == (0, set())
    assert "compared on the 60 in common" in out
    save_file({name: -value for name, value in weights.items()}, tmp_path / "net.safetensors")
    assert here("evaluate", "--config", "few.toml", "--out", "worse", "--quiet") == 0
    code, out = check("--run", "worse", "--allow-fewer")
    assert code == 1
    assert {"less accurate", "less robust"} <= kinds(out)
    assert "of 60 in common" in out


@pytest.mark.parametrize("samples", ["50", "first:40"])
def test_the_plan_beside_the_baseline_tells_its_images(
    here: Here, weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str], samples: str
) -> None:
    """Random ones by their seed: the digest of the slice says whether they are the ones."""
    (tmp_path / "net.py").write_text(NET)
    save_file(weights, tmp_path / "net.safetensors")
    (tmp_path / "gate.toml").write_text(PLAN.replace("first:200", samples))
    assert here("leaderboard", "build", "gate.toml", "--runs", "runs", "--quiet") == 0
    (tmp_path / "all.toml").write_text(PLAN.split("[leaderboard]")[0].replace("first:200", "all"))
    assert here("evaluate", "--config", "all.toml", "--out", "all", "--quiet") == 0
    capsys.readouterr()
    assert here("check", "--baseline", "gate.csv", "--run", "all") == 0
    assert f"compared on the {samples.removeprefix('first:')} in common" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("other.csv", "a,b\n1,2\n", "is no leaderboard: it has no column 'rank'"),
        ("made.csv", "generator,data,kind,setting\n", "it is a table of generators, which are not ranked"),
        ("empty.csv", "", "is no leaderboard: "),
        ("gate.samples.csv", None, "it lies beside gate.csv: give that"),
        ("nowhere.csv", None, "there is no leaderboard 'nowhere.csv'"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(
    check: Check,
    here: Here,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    message: str,
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert here("check", "--baseline", name, "--run", "runs/gate/seed-0") == 2
    assert message in capsys.readouterr().err


def test_a_baseline_without_rows_figures_or_samples_is_refused(
    check: Check, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pd.read_csv(tmp_path / "gate.csv", dtype=str, keep_default_na=False)
    run = ("check", "--baseline", "gate.csv", "--run", "runs/gate/seed-0")
    for cell in ("nan", "NaN", "", "0,5"):
        whole.assign(worst_case=cell).to_csv(tmp_path / "gate.csv", index=False)
        assert here(*run) == 2, cell
        assert "worst_case" in capsys.readouterr().err
    whole.iloc[:0].to_csv(tmp_path / "gate.csv", index=False)
    assert here(*run) == 2
    assert "'gate.csv' cannot be trusted: it has no rows" in capsys.readouterr().err
    whole.to_csv(tmp_path / "gate.csv", index=False)
    (tmp_path / "gate.samples.csv").unlink()
    assert here(*run) == 2
    assert "gate.samples.csv" in capsys.readouterr().err


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], float], Callable[[], float]], None]:
    """Clocks that show what a test says: seconds that pass, and those of this process's own work."""

    def put(wall: Callable[[], float], busy: Callable[[], float]) -> None:
        monkeypatch.setattr(clocks, "wall", wall)
        monkeypatch.setattr(clocks, "busy", lambda device: busy())

    return put


#: a forward that moves the clock of `ticking` on by so many milliseconds an image
TICKING = "import ticking; ticking.now += MS * len(x) / 1000; " + FORWARD


def ticking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: float) -> Any:
    """The module that the network's clock is in; the network, as slow as is said."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ticking", raising=False)
    (tmp_path / "ticking.py").write_text("now = 0.0\n")
    (tmp_path / "net.py").write_text(NET.replace(FORWARD, TICKING.replace("MS", str(milliseconds))))
    return importlib.import_module("ticking")


def test_seconds_are_compared_only_when_it_is_asked_for(
    check: Check, ticks: Callable[..., None], here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ticking(tmp_path, monkeypatch, 1)
    ticks(lambda: clock.now, lambda: clock.now)
    assert here("leaderboard", "build", "gate.toml", "--runs", "ticking", "--quiet") == 0
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("+= 1 ", "+= 4 "))
    assert check()[0] == 0
    code, out = check("--time", "3")
    assert (code, kinds(out)) == (1, {"time"})
    assert check("--time", "5")[0] == 0
    assert check("--speed")[0] == 0  # four times as slow, in four times as long a unit


def test_a_slow_engine_costs_more_and_a_slow_machine_does_not(
    check: Check, ticks: Callable[..., None], here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes eight times as long as the network's answer, on a machine that is five times as slow."""
    clock = ticking(tmp_path, monkeypatch, 1)
    ticks(lambda: clock.now, lambda: clock.now)
    assert here("leaderboard", "build", "gate.toml", "--runs", "ticking", "--quiet") == 0
    cost = pd.read_csv(tmp_path / "gate.timings.csv")["cost"].iloc[0]
    # a forward is 1 ms an image, a gradient nothing on top: what is above 1 are the verdict's own passes
    assert 1 <= cost < 2
    ticks(lambda: 5 * clock.now, lambda: 5 * clock.now)
    code, out = check("--speed", "1.2")
    assert (code, kinds(out)) == (0, set())
    whole = PGD.step

    def step(self, state, oracle):
        clock.now += 8 * len(state.x) / 1000
        return whole(self, state, oracle)

    monkeypatch.setattr(PGD, "step", step)
    code, out = check("--speed")
    assert (code, kinds(out)) == (1, {"speed"})
    assert "bare forwards and gradients (grew " in out
    assert check("--speed", "9")[0] == 0
    assert check()[0] == 0


def test_a_baseline_without_costs_is_told(
    check: Check, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gate.timings.csv").unlink()
    for option, what in (("--speed", "cost"), ("--time=2", "seconds")):
        assert here("check", "--baseline", "gate.csv", "--run", "runs/gate/seed-0", option) == 2
        assert f"the baseline tells no {what} of net.py:make" in capsys.readouterr().err


def test_machines_are_told_too(
    check: Check, weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    save_file({name: -value for name, value in weights.items()}, tmp_path / "net.safetensors")
    code, out = check("--junit", "gate.xml", "--markdown", "gate.md", "--github")
    assert code == 1
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    failed = [case.get("classname") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert {"rbl.check.less accurate", "rbl.check.less robust"} <= set(failed)
    assert len(failed) == int(suite.get("failures", 0)) == out.count("::error file=gate.csv,title=")
    passed = [case for case in suite.iter("testcase") if case.find("failure") is None]
    assert int(suite.get("tests", 0)) == len(failed) + len(passed)
    assert {"rbl.check.missing", "rbl.check.queries"} <= {case.get("classname") for case in passed}
    page = (tmp_path / "gate.md").read_text()
    assert page == (tmp_path / "summary.md").read_text()
    assert "| less accurate: clean | net.py:make;weights=net.safetensors, none · digits · Linf:0.05 |" in page
    assert pd.read_csv(tmp_path / "gate.csv")["clean"].iloc[0] > 0.8  # the baseline is as it was


@pytest.mark.parametrize("name", ["environment.json", "slice.json"])
def test_a_damaged_folder_is_told_by_its_file_and_not_as_other_images(
    check: Check, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damaged = next((tmp_path / "runs/gate").iterdir())
    (damaged / name).write_text("")
    capsys.readouterr()
    assert here("check", "--baseline", "gate.csv", "--run", str(damaged)) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "run the same evaluation again" in said.replace("\n", " ")
