"""`--help`: quick, without torch, with examples that work, and as it was when somebody last looked at it."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import Plan

COMMANDS = (
    *("", "evaluate", "report", "train", "certify", "explain", "rubbish", "list", "show"),
    *("plot", "verify", "check", "leaderboard"),
    *(f"leaderboard {name}" for name in ("build", "show", "merge", "diff", "validate", "seal")),
    *("generate", "generate train", "generate sample", "generate show", "generate measure", "generate latent"),
)
GOLDEN = Path(__file__).parent / "golden"
HEAVY = ("torch", "torchvision", "timm", "pandas", "matplotlib", "sklearn", "scipy", "numpy", "rich", "pyarrow")
Here = Callable[..., int]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_the_text_that_was_last_looked_at(command: str, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """Write the texts again with RBL_UPDATE_GOLDEN=1, and read the difference."""
    assert here(*command.split(), "--help") == 0
    text = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines()).strip() + "\n"
    path, made_with = GOLDEN / f"{command.replace(' ', '-') or 'rbl'}.txt", GOLDEN / "typer-version.txt"
    minor = ".".join(version("typer").split(".")[:2])
    if os.environ.get("RBL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
        made_with.write_text(minor + "\n", encoding="utf-8")
    if made_with.read_text(encoding="utf-8").strip() != minor:
        pytest.skip(f"the texts were made with typer {made_with.read_text(encoding='utf-8').strip()}, not {minor}")
    assert text == path.read_text(encoding="utf-8")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from robustbench_lite.cli import main; main(['evaluate', '--help']);"
        f"print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_of_every_command_shows_an_example(command: str, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here(*command.split(), "--help")
    assert re.search(rf"Examples:\n\s+rbl {command}", capsys.readouterr().out)


def test_examples_in_the_help_are_understood(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every example gets past the reading of options, specs and files, up to where the work would begin."""
    pytest.importorskip("robustbench_lite.run.evaluate")
    (tmp_path / "rbl-runs/my-run").mkdir(parents=True)
    (tmp_path / "rbl-runs/my-run/plan.toml").write_text(Plan().to_toml(), encoding="utf-8")

    def reached(*_: object, **__: object) -> None:
        raise UserError("reached the work")

    monkeypatch.setattr("robustbench_lite.run.evaluate.run", reached)
    monkeypatch.setattr("robustbench_lite.run.run_folder.read_run", reached)
    monkeypatch.setattr("robustbench_lite.run.train.train", reached)
    monkeypatch.setattr("robustbench_lite.run.explain.explain", reached)
    monkeypatch.setattr("robustbench_lite.run.rubbish.rubbish", reached)
    monkeypatch.setattr("robustbench_lite.run.certify.certify", reached)
    monkeypatch.setattr("robustbench_lite.run.latent.latent", reached)
    monkeypatch.setattr("robustbench_lite.run.quality.measure_files", reached)
    for name in ("train", "sample", "show"):
        monkeypatch.setattr(f"robustbench_lite.run.generate.{name}", reached)
    monkeypatch.setattr("robustbench_lite.run.verify.verify", reached)
    for name in (
        "board.Board.read",
        "plan.BoardPlan.load",
        "generators.GeneratorPlan.load",
        "validate.faults",
        "validate.seal",
    ):
        monkeypatch.setattr(f"robustbench_lite.leaderboard.{name}", reached)
    for command in COMMANDS:
        here(*command.split(), "--help")
        for line in re.findall(r"^ +rbl (.*)$", capsys.readouterr().out, re.MULTILINE):
            arguments = shlex.split(line.partition(" > ")[0])
            code, said = here(*arguments), capsys.readouterr()
            assert (code, said.err) in ((0, ""), (2, "rbl: reached the work\n")), line


def test_an_option_may_be_written_with_underscores(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("evaluate", "--batch_size", "0.5") == 2
    assert capsys.readouterr().err == "rbl: batch_size=0.5; accepted: auto, or 1 and more\n"


def test_without_a_command_there_is_help(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here()
    assert "Usage: rbl" in "".join(capsys.readouterr())


def test_version(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    from robustbench_lite import __version__

    assert here("--version") == 0
    assert capsys.readouterr().out == f"robustbench-lite {__version__}\n"
