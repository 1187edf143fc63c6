"""A mistake of the user's: one sentence on stderr, exit code 2, nothing on stdout, no traceback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import robustbench_lite.cli.app as cli_app
from robustbench_lite.errors import nearest
from robustbench_lite.escaping import printable

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
    "device": ("evaluate --device gpu", "device=gpu; accepted: auto, cpu, cuda, cuda:0; did you mean 'cuda'?"),
    "device by its number": ("train --device 0 --out net.safetensors", "did you mean 'cuda:0'?"),
    "device of another kind": ("train --device mps --out net.safetensors", "device=mps; accepted: auto, cpu, cuda"),
    "batch size": ("evaluate --batch-size 0", "batch_size=0; accepted: auto, or 1 and more"),
    "batch size in words": ("evaluate --batch-size many", "batch_size=many; accepted: auto, or 1 and more"),
    "examples": ("evaluate --examples some", "examples=some; accepted: all"),
    "empty name": ("evaluate --attack=", "the plan has no attack"),
    "empty folder": ("evaluate --out=", "--out is empty; give a folder, or leave it out"),
    "empty file": ("check --baseline a.csv --junit=", "--junit is empty; give a file, or leave it out"),
    "empty file of a command in a group": (
        "leaderboard build a.toml --out=",
        "--out is empty; give a file, or leave it out",
    ),
    "a factor below 0": (
        "check --baseline a.csv --speed -1",
        "speed=-1; accepted: 0 (not compared), or a factor from 1",
    ),
    "a budget of 300 levels": (
        "evaluate --threat Linf:300/255",
        "Linf:1.17647 is larger than 1, the range of an image",
    ),
    "slice seed": ("evaluate --slice-seed -1", "slice_seed=-1"),
    "no config": ("evaluate --config missing.toml", "there is no plan 'missing.toml'"),
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
    "threat without a norm": ("evaluate --threat 8/255", "threat '8/255' has no norm; write Linf:8/255, or L2:8/255"),
    "threat with a sign of equality": ("evaluate --threat linf=8/255", "write Linf:8/255"),
    "threat beyond the diagonal": ("evaluate --threat L2:128", "for 128 in levels of 255 write L2:128/255"),
    "threat beyond the pixels": ("evaluate --threat L0:65", "L0:65 is larger than 64"),
    "threat beyond the sum of all pixels": ("evaluate --threat L1:1000", "write L1:1000/255"),
    "training beyond the diagonal": ("train --threat L2:30 --out net.safetensors", "L2:30 is larger than 8"),
    "several attacks in one": ("evaluate --attack fgsm,pgd:steps=3", "--attack fgsm --attack pgd:steps=3"),
    "several models in one": ("evaluate --model linear,mlp", "--model linear --model mlp"),
    "several threats in one": ("evaluate --threat Linf:0.1,Linf:0.2", "--threat Linf:0.1 --threat Linf:0.2"),
    "samples too many": ("evaluate --samples first:451", "450"),
    "samples in words": ("evaluate --samples most", "most"),
    "no samples": ("evaluate --samples 0", "0"),
    "checkpoint": (
        "evaluate --model checkpoint:missing.safetensors --defense none",
        "there is no file 'missing.safetensors'",
    ),
    "own code": ("evaluate --model missing.py:net --defense none", "missing.py"),
    "npz": ("evaluate --dataset npz:missing.npz", "missing.npz"),
    "npz of something else": ("evaluate --dataset npz:bad.toml", "bad.toml"),
    "folder": ("evaluate --dataset folder:missing", "missing"),
    "out is a file": ("evaluate --out bad.toml", "cannot write to 'bad.toml'"),
    "out under a file": ("evaluate --out /dev/null/run", "cannot write to '/dev/null/run'"),
    "report of nothing": ("report missing", "there is no folder 'missing'"),
    "report of a folder without a run": ("report .", "'.' holds no run"),
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


# options of other tools -> what to write; the values that were given are in it
HINTS = {
    "evaluate --eps 8/255": "--threat Linf:8/255",
    "evaluate --eps 8": "--threat Linf:8/255",
    "evaluate --epsilon=0.5 --norm l2": "--threat L2:0.5",
    "evaluate --norm L2 --eps 0.5": "--threat L2:0.5",
    "evaluate --norm Linf": "--threat Linf:8/255",
    "train --eps 0.03 --out net.safetensors": "--threat Linf:0.03",
    "verify image.npz --eps 0.03": "--threat Linf:0.03",
    "evaluate -n 100": "--samples 100 (a balanced subset) or --samples first:100",
    "evaluate -n100": "--samples 100",
    "evaluate --n-examples 50": "--samples 50",
    "evaluate --n_ex=50": "--samples 50",
    "evaluate --limit 7": "--samples 7",
    "evaluate --attacks fgsm,pgd:steps=3,restarts=2": "--attack fgsm --attack pgd:steps=3,restarts=2",
    "evaluate --models a,b": "--model a --model b",
    "evaluate --batch 64": "--batch-size 64",
    "evaluate --bs 64": "--batch-size 64",
    "evaluate --cuda": "--device cuda",
    "evaluate --gpu 1": "--device cuda:1",
    "evaluate --no-cuda": "--device cpu",
    "evaluate --checkpoint net.pt": "--model checkpoint:net.pt",
    "evaluate --steps 40": "--attack pgd:steps=40",
    "evaluate --alpha 2/255": "--attack pgd:step_size=0.25",
    "evaluate --version rand": "--attack autoattack:version=plus",
    "evaluate --targeted": "--threat Linf:8/255,goal=targeted",
    "evaluate --fp16": "--precision bfloat16",
    "evaluate --workers 4": "--jobs 4",
    "evaluate --output dir": "--out dir",
    "evaluate -v": "--verbose",
    "evaluate --arch resnet18": "--model resnet18",
    "evaluate --threat-model L2 --eps 0.5": "--threat L2:0.5",
    "evaluate --dataset-dir photos": "--data-root photos",
    "evaluate --normalize imagenet": "--model 'NAME;normalize=imagenet'",
    "evaluate --mean 0.5": "--model 'NAME;normalize=imagenet'",
    "evaluate --split val": "option of the dataset",
    "evaluate --num-classes 10": "option of the dataset",
}


@pytest.mark.parametrize("command", HINTS)
def test_an_option_of_another_tool_is_answered_by_what_to_write(
    command: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = here(*command.split()), capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert HINTS[command] in said.err
    assert said.err.startswith("rbl: no such option: -")
    assert len(said.err.splitlines()) == 1


def test_a_hint_names_no_option_that_the_command_has_not(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list attacks --eps 3", "train --steps 3 --out net.safetensors", "--eps 3", "show attack pgd -n 3"):
        assert here(*command.split()) == 2
        said = capsys.readouterr().err
        assert "write" not in said
        assert "no such option" in said


@pytest.mark.parametrize(
    "words, told",
    [
        (["--device", "cuda "], "rbl: device=cuda ; accepted: auto, cpu, cuda, cuda:0; did you mean 'cuda'?"),
        (["--threat", "Linf:0,1"], "rbl: threat 'Linf:0,1' has a comma in its number; write Linf:0.1"),
        (["--seed", str(2**64)], "accepted: whole numbers of 64 bits"),
    ],
)
def test_the_cause_and_the_cure_are_those_of_this_value(
    words: list[str], told: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("evaluate", *words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


LONG = "x" * 5000


@pytest.mark.parametrize(
    "command",
    [
        *(
            [word, option, LONG]
            for word in ("evaluate",)
            for option in ("--attack", "--defense", "--threat", "--dataset")
        ),
        *(
            [word, option, f"{LONG} {LONG}"]
            for word in ("evaluate",)
            for option in ("--attack", "--samples", "--device")
        ),
        ["evaluate", "--attack", f"pgd:{LONG}=1"],
        ["evaluate", "--attack", f"pgd:steps={LONG}"],
        ["evaluate", "--model", LONG, "--defense", "none"],
        ["evaluate", f"--{LONG}"],
        ["evaluate", "--seed", LONG],
        ["evaluate", "--format", f"{LONG} y"],
        ["evaluate", "--precision", f"{LONG} y"],
        ["evaluate", "--config", LONG],
        ["evaluate", LONG],
        ["report", LONG],
        ["list", LONG],
        [LONG],
    ],
    ids=lambda command: " ".join(word[:12] for word in command),
)
def test_what_was_given_is_cut(command: list[str], here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(*command) == 2
    said = capsys.readouterr().err
    assert max(map(len, said.split())) < 300
    assert said.count("x") < 700
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("option", ["--attack", "--defense", "--threat"])
def test_control_characters_in_names_are_refused(option: str, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("evaluate", option, "pgd\x1b[31m\r") == 2
    said = capsys.readouterr().err
    assert said.endswith(r"pgd\x{1b}[31m\x{d}' has a control character, \x{1b}; write it without" + "\n")
    assert said.isascii()
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "given",
    [
        *(
            ["--out", "run\r"],
            ["--out=run\r"],
            ["--log", "log\t"],
            ["--dataset", "digits\r"],
            ["--samples", "first:5\r"],
        ),
        *(
            ["--seed", "1\r"],
            ["--slice-seed", "1\r"],
            ["--slice_seed=1\n"],
            ["--batch-size", "4\r"],
            ["--eot", "\x0b2"],
        ),
        *(["--model", "small-cnn\r"], ["--dataset", "npz:image.npz;classes=\r10"], ["--quiet", "odd\r"]),
    ],
    ids=lambda given: repr(given),
)
@pytest.mark.usefixtures("files")
def test_control_characters_in_any_value_are_refused(
    given: list[str], here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert here("evaluate", *given) == 2
    said = capsys.readouterr().err
    what = "the argument" if given[0] == "--quiet" else given[0].partition("=")[0]
    value = given[-1].removeprefix(f"{what}=")
    assert said.startswith(f"rbl: {what} '{printable(value)}' has a control character, \\x{{")
    assert sorted(tmp_path.iterdir()) == before


def test_a_plan_with_a_control_character_is_refused(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ('dataset = "digits\\r"', 'samples = "first:5\\r"', 'data_root = "x\\r"', 'models = ["small-cnn\\r"]'):
        (tmp_path / "plan.toml").write_text(line, encoding="utf-8")
        assert here("evaluate", "--config", "plan.toml") == 2
        assert r"has a control character, \x{d} (a line end of Windows?); write it without" in capsys.readouterr().err


def test_a_file_that_is_there_may_have_an_odd_name_but_none_is_made(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run\r").mkdir()
    assert here("report", "run\r") == 2
    assert "control character" not in capsys.readouterr().err
    assert here("evaluate", "--dataset", "folder:run\r") == 2  # a spec is read without white space around it
    assert r"rbl: --dataset 'folder:run\x{d}' has a control character" in capsys.readouterr().err
    assert here("evaluate", "--out", "run\r") == 2
    assert r"rbl: --out 'run\x{d}' has a control character" in capsys.readouterr().err


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


def test_code_that_ends_the_program_does_not_end_it_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(**_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(cli_app, "app", ends)
    assert cli_app.main([]) == 2
    assert capsys.readouterr().err.strip() == "rbl: code that was called ended the program by SystemExit: 0"


@pytest.mark.parametrize("log", ["first/", "there", "there/"])
def test_a_log_that_is_a_folder_is_refused(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    given = f"{tmp_path}/{log}"
    assert cli_app.main(["evaluate", "--log", given, "--out", str(tmp_path / "run")]) == 2
    assert f"{given} is a folder; give a file, such as --log " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_an_empty_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_app.main(["evaluate", "--log", "", "--out", str(tmp_path / "run")]) == 2
    assert "log is empty; give a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, accepted, guess",
    [
        ("maybe", ("both", "yes", "no"), None),
        ("nope", ("none", "print-photo"), None),
        ("non", ("none", "print-photo"), "none"),
        ("pdg", ("pgd", "fgsm"), "pgd"),
        ("fgsn", ("pgd", "fgsm"), "fgsm"),
        ("clasify", ("classify", "reconstruction"), "classify"),
    ],
)
def test_the_nearest_word_is_one_that_was_meant(given: str, accepted: tuple[str, ...], guess: str | None) -> None:
    assert nearest(given, accepted) == guess
