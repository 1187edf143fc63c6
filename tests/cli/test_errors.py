"""A mistake of the user's: one sentence on stderr, exit code 2, nothing on stdout, no traceback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Here = Callable[..., int]
Rbl = Callable[..., object]

# arguments, what the sentence must say
CASES = {
    "no such command": ("evalute", "no such command 'evalute'"),
    "no such option": ("evaluate --modle linear", "--model"),
    "no number": ("evaluate --seed one", "--seed"),
    "option without a value": ("evaluate --seed", "--seed"),
    "stray word": ("evaluate digits", "digits"),
    "format": ("evaluate --format cvs", "format=cvs; accepted: table, csv, json, markdown; did you mean 'csv'?"),
    "precision": ("evaluate --precision float23", "did you mean 'float32'"),
    "device": ("evaluate --device gpu", "device=gpu; accepted: auto, cpu, cuda, cuda:0"),
    "batch size": ("evaluate --batch-size 0", "batch_size=0; accepted: auto, or 1 and more"),
    "batch size in words": ("evaluate --batch-size many", "batch_size=many; accepted: auto, or 1 and more"),
    "examples": ("evaluate --examples some", "examples=some; accepted: all"),
    "empty name": ("evaluate --attack=", "the plan has no attack"),
    "slice seed": ("evaluate --slice-seed -1", "slice_seed=-1"),
    "no config": ("evaluate --config missing.toml", "cannot read the plan 'missing.toml'"),
    "config is a folder": ("evaluate --config .", "cannot read the plan"),
    "config is not TOML": ("evaluate --config bad.toml", "the plan 'bad.toml' is not TOML"),
    "config is not text": ("evaluate --config image.npz", "cannot read the plan 'image.npz'"),
    "config has an unknown key": ("evaluate --config key.toml", "unknown key 'atacks'; did you mean 'attacks'?"),
    "config has a wrong type": ("evaluate --config type.toml", "seed = 'zero'; accepted: a whole number"),
    "attack": ("evaluate --attack pdg", "unknown attack 'pdg'; did you mean 'pgd'? (rbl list attacks)"),
    "attack's option": ("evaluate --attack pgd:n_steps=3", "pgd has no option 'n_steps'"),
    "attack's value": ("evaluate --attack pgd:steps=many", "steps=many is not a whole number"),
    "attack's parentheses": ("evaluate --attack pgd:steps=(3", "parentheses"),
    "defense": ("evaluate --defense adversarial-trainig", "did you mean 'adversarial-training'"),
    "chain of nothing": ("evaluate --defense none+", "cannot read"),
    "model": ("evaluate --model smal-cnn --defense none", "unknown model 'smal-cnn'; did you mean 'small-cnn'?"),
    "second model": ("evaluate --model linear --model lineal --defense none", "unknown model 'lineal'"),
    "dataset": ("evaluate --dataset digit", "unknown dataset 'digit'; did you mean 'digits'?"),
    "threat too large": ("evaluate --threat Linf:8", "for 8 of 255 levels write Linf:8/255"),
    "threat below 0": ("evaluate --threat L2:-1", "eps=-1"),
    "threat's norm": ("evaluate --threat L3:1", "L3"),
    "threat's eps": ("evaluate --threat Linf:much", "much"),
    "samples too many": ("evaluate --samples first:451", "450"),
    "samples in words": ("evaluate --samples most", "most"),
    "no samples": ("evaluate --samples 0", "0"),
    "checkpoint": ("evaluate --model checkpoint:missing.safetensors --defense none", "missing.json"),
    "own code": ("evaluate --model missing.py:net --defense none", "missing.py"),
    "npz": ("evaluate --dataset npz:missing.npz", "missing.npz"),
    "npz of something else": ("evaluate --dataset npz:bad.toml", "bad.toml"),
    "folder": ("evaluate --dataset folder:missing", "missing"),
    "out is a file": ("evaluate --out bad.toml", "cannot write to 'bad.toml'"),
    "out under a file": ("evaluate --out /dev/null/run", "cannot write to '/dev/null/run'"),
    "report of nothing": ("report missing", "'missing' holds no run"),
    "report without a folder": ("report", "dir"),
    "explain of nothing": ("explain --method salience", "unknown method 'salience'; did you mean 'saliency'?"),
    "explain with an option": ("explain --method occlusion:sise=2", "did you mean size?"),
    "explain of no class": ("explain --of target", "of=target; accepted: answer, label"),
    "rubbish of no noise": ("rubbish --start gausian", "start=gausian; accepted: uniform"),
    "rubbish without draws": ("rubbish --count 0", "count=0"),
    "foreign attack": ("evaluate --attack foolbox", "write foolbox:NAME;key=value"),
    "list of nothing": ("list atacks", "unknown kind 'atacks'; did you mean 'attacks'?"),
    "list format": ("list attacks --format csv", "format=csv; accepted: table, json"),
    "show of nothing": ("show attack pdg", "unknown attack 'pdg'; did you mean 'pgd'?"),
    "show without a name": ("show attack", "name"),
    "show of no kind": ("show atack pgd", "unknown kind 'atack'"),
    "train without a file": ("train --model linear", "--out"),
    "train into nowhere": ("train --model linear --out /dev/null/net.safetensors", "cannot write"),
    "train a file of another kind": ("train --model linear --out net.onnx", ".safetensors"),
    "train with a threat too large": ("train --model linear --threat Linf:8 --out net.safetensors", "Linf:8/255"),
}


@pytest.fixture
def files(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("attacks = [", encoding="utf-8")
    (tmp_path / "key.toml").write_text("atacks = ['pgd']", encoding="utf-8")
    (tmp_path / "type.toml").write_text("seed = 'zero'", encoding="utf-8")
    np.savez(tmp_path / "image.npz", x=np.full((2, 8, 8), 255, dtype=np.uint8), y=np.arange(2))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_in_one_sentence(case: str, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, part = CASES[case]
    code, said = here(*arguments.split()), capsys.readouterr()
    assert part.lower() in said.err.lower()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith("rbl: ")
    assert len(said.err.splitlines()) == 1, said.err


def test_a_gpu_that_is_not_there(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert here("evaluate", "--device", "cuda") == 2
    assert capsys.readouterr().err == "rbl: device=cuda, but torch finds no GPU here; accepted: auto, cpu\n"


def test_a_pickle_is_refused_and_its_payload_not_run(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "payload-was-run",)

    (tmp_path / "net.pt").write_bytes(pickle.dumps(Payload()))
    assert here("evaluate", "--model", "checkpoint:net.pt", "--defense", "none") == 2
    assert "pickle" in capsys.readouterr().err
    assert not (tmp_path / "payload-was-run").exists()
