"""What was applied when a model was loaded is told once, kept with the run, and forgotten with weights that are given up."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reviewing import QUIET, module_and_images
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Silent
from robustbench_lite.run.train import train

CODE = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
NET = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Listening(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    torch.save({"state_dict": {f"module.{key}": value for key, value in NET.state_dict().items()}}, "net.pt")
    torch.save(NET, "whole.pt")
    return tmp_path


def few(**more: Any) -> dict[str, Any]:
    return {"attacks": "fgsm", "dataset": "digits", "samples": "first:20", **QUIET, **more}


def test_it_is_said_once_a_model_and_kept_in_the_run(folder: Path) -> None:
    reporter, spec = Listening(), "net.py:make;weights=net.pt;normalize=0.5"
    rbl.evaluate(
        spec,
        **few(allow_pickle=True, threat=["Linf:0.1", "L2:0.5"]),
        defense=["none", "bit-depth"],
        out="run",
        reporter=reporter,
    )
    said = "normalised by mean (0.5), std (0.5); weights from net.pt, part state_dict, names without 'module.'"
    assert [note for note in reporter.notes if "net.pt" in note] == [f"{spec}: {said}"]
    environment = json.loads((folder / "run" / "environment.json").read_text())
    for defense in ("none", "bit-depth"):
        assert environment["systems"][f"{spec} | {defense}"]["loading"] == {
            "mean": [0.5], "std": [0.5], "weights": "net.pt", "part": "state_dict", "stripped": ["module."],
        }  # fmt: skip
    assert main(["report", "run", "--html", "run.html"]) == 0
    page = (folder / "run.html").read_text()
    assert "What was applied when the models were loaded" in page
    assert "normalised by mean (0.5), std (0.5); weights from net.pt" in page


def test_a_model_that_is_taken_as_it_is_is_not_spoken_of(folder: Path) -> None:
    reporter = Listening()
    result = rbl.evaluate("net.py:make", **few(), reporter=reporter)
    assert reporter.notes == []
    assert "loading" not in next(iter(result.environment["systems"].values()))


def test_every_command_tells_it_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--model", "net.py:make;normalize=0.5")
    rbl.evaluate("net.py:make;normalize=0.5", **few(examples="all"), out="run")
    made = next((folder / "run" / "examples").iterdir())
    import numpy as np

    with np.load(made) as held:
        np.savez("adv.npz", x_adv=held["adv"], indices=held["index"])
    capsys.readouterr()
    for command in (
        ("evaluate", *model, "--defense", "none", "--attack", "fgsm", "--samples", "first:10", "--no-diagnostics"),
        ("verify", "adv.npz", *model),
        ("certify", *model, "--sigma", "0.25", "--samples", "first:3", "--n", "20", "--n0", "5"),
        ("explain", *model, "--attack", "fgsm", "--samples", "first:2"),
    ):
        assert main(command) == 0, command
        said = capsys.readouterr().err
        assert said.count("net.py:make;normalize=0.5: normalised by mean (0.5), std (0.5)") == 1, command


def test_what_a_file_tells_is_forgotten_with_its_weights(folder: Path) -> None:
    card = train("net.py:make;weights=net.pt;normalize=0.5", "digits", epochs=1, allow_pickle=True, use_cache=False)
    assert card["loading"] == {"mean": [0.5], "std": [0.5]}
    found = zoo.load("timm:test_resnet;random=true", num_classes=10, input_shape=(3, 8, 8))
    assert found.notes["random"]


def test_what_a_card_tells_comes_with_its_system(folder: Path) -> None:
    train("linear", "digits", epochs=1, out="net.safetensors")
    result = rbl.evaluate("checkpoint:net.safetensors", **few())
    (system,) = result.environment["systems"].values()
    clean = json.loads(Path("net.json").read_text())["clean_accuracy"]
    assert system["told"] == {"clean_acc": clean, "dataset": "digits", "source": "the card of net.safetensors"}


def test_code_in_files_runs_only_where_it_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "evaluate",
        "--model",
        "checkpoint:whole.pt",
        "--defense",
        "none",
        "--attack",
        "fgsm",
        "--samples",
        "first:10",
    )
    more = ("--no-diagnostics", "--out", "run")
    assert main((*command, *more)) == 2
    first = capsys.readouterr().err
    assert "is a pickle and could run code, and it holds a whole network" in first
    assert ("--allow-code" in first, "--allow-pickle" in first) == (True, False)
    assert main((*command, *more, "--allow-pickle")) == 2
    assert "holds a whole network" in (said := capsys.readouterr().err)
    assert "--allow-code" in said
    assert main((*command, *more, "--allow-code")) == 0
    assert "given as a whole network; weights from whole.pt" in capsys.readouterr().err
    assert Plan.load(folder / "run" / "plan.toml").allow_code
    assert rbl.evaluate("checkpoint:whole.pt", **few(allow_code=True)).table["clean_acc"].notna().all()
    with pytest.raises(UserError, match="holds a whole network"):
        rbl.evaluate("checkpoint:whole.pt", **few(allow_pickle=True))


def test_a_plan_without_the_option_keeps_its_digest() -> None:
    assert "allow_code" not in Plan().to_toml()
    assert Plan.from_toml(Plan(allow_code=True).to_toml()) == Plan(allow_code=True)


@pytest.mark.parametrize("given", ["function", "exported"])
def test_functions_and_programs_go_through_every_call(given: str, folder: Path) -> None:
    net, x, y = module_and_images(20)

    def mine(images: Tensor) -> Tensor:
        answer: Tensor = net(images)
        return answer

    size = {0: torch.export.Dim("n", min=1, max=4096)}
    model: Any = mine if given == "function" else torch.export.export(net, (x[:4],), dynamic_shapes=(size,))
    reporter = Listening()
    result = rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.05", reporter=reporter)
    plain = rbl.evaluate(net, x, y, attacks="fgsm", threat="Linf:0.05")
    assert result.records["broken"].tolist() == plain.records["broken"].tolist()
    assert result.plan.models == ("mine" if given == "function" else "ExportedProgram",)
    assert len(reporter.notes) == 1
    rbl.certify(model, x, y, sigma=0.25, n=20, n0=5)
    rbl.explain(model, x, y, attack="fgsm", threat="Linf:0.05", samples="first:2")
