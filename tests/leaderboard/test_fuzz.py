"""Odd files: whatever stands in a leaderboard, its plan or a verdict, there is a sentence and no traceback.

RBL_FUZZ=5000 tries more of each.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robustbench_lite.cli import main
from robustbench_lite.errors import UserError

COUNT = int(os.environ.get("RBL_FUZZ", "30"))
FOLDER = Path(__file__).parents[2] / "leaderboards"
#: what is put into cells, or between the characters of a file
CELLS = [
    *(
        "",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1e15",
        "1e16",
        "0x1f",
        "1_0",
        "١",
        "1.0000000",
        "9" * 400,
        "1,5",
    ),
    *(
        "true",
        "True",
        "None",
        "=1+1",
        "@x",
        "'",
        '"',
        "|",
        "`",
        "\x00",
        "\r",
        "\n",
        "\x1b[2J",
        "\ud83d\ude00",
        "﻿",
        " ",
        "\t",
    ),
    *(
        "ffff",
        "g",
        "f" * 5000,
        "unfinished",
        "flagged; order-dependent",
        ";;;",
        "a" * 10000,
        "\\x{d}",
        "\\x{110000}",
        "<b>",
    ),
]
VALUES = [
    *(
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        '""',
        '"x"',
        "[]",
        "[[]]",
        "{}",
        "{a = 1}",
        "9" * 30,
        "9" * 5000,
        "1979-05-27",
    ),
    *(
        '["a", 1]',
        '"\\u0000"',
        '"\\r"',
        "[" * 3000 + "]" * 3000,
        "0.5",
        "[0, 0]",
        "[1.5]",
        '[{model = "x"}]',
        "07:32:00",
        "'(('",
    ),
]
KEYS = [
    *(
        "dataset",
        "models",
        "defenses",
        "threats",
        "attacks",
        "samples",
        "seed",
        "seeds",
        "title",
        "about",
        "model",
        "robust",
    ),
    *(
        "source",
        "verdict",
        "external",
        "leaderboard",
        "training",
        "measure",
        "generator",
        "epochs",
        "batch_size",
        "judge",
        "x",
    ),
    *("physical", "device", "task", "examples", "eot", '""', '"a.b"', "a.b.c", "leaderboard.title"),
]
Told = Callable[[list[str]], int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a leaderboard, where nothing is computed."""

    def reached(*_: object, **__: object) -> None:
        raise UserError("reached the work")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for place in ("leaderboard.build.build", "leaderboard.generators.build", "run.evaluate.run"):
        monkeypatch.setattr(f"robustbench_lite.{place}", reached)
    return tmp_path


def fresh(stem: str, folder: Path) -> Path:
    for path in FOLDER.glob(f"{stem}.*"):
        shutil.copy(path, folder)
    return folder / f"{stem}.csv"


def mutated(text: str, chance: random.Random) -> str:
    """The text with some cells, or characters, replaced, taken away, or twice there."""
    for _ in range(chance.randint(1, 4)):
        lines = text.split("\n")
        place = chance.randrange(len(lines))
        kind = chance.randrange(6)
        if kind < 3:
            cells = lines[place].split(",")
            cells[chance.randrange(len(cells))] = chance.choice(CELLS)
            lines[place] = ",".join(cells)
        elif kind == 3:
            lines.insert(place, chance.choice(lines))
        elif kind == 4:
            del lines[place]
        else:
            at = chance.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:at] + chance.choice(CELLS) + lines[place][at + chance.randrange(5) :]
        text = "\n".join(lines) or "\n"
    return text


def toml(chance: random.Random) -> str:
    """Keys and values in tables, some of them doubled, nested, or of the wrong kind."""
    lines = []
    for _ in range(chance.randint(0, 8)):
        kind = chance.randrange(5)
        key = chance.choice(KEYS)
        lines.append(f"[{key}]" if kind == 0 else f"[[{key}]]" if kind == 1 else f"{key} = {chance.choice(VALUES)}")
    return "\n".join(lines) + "\n"


def answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code; an exception goes through, and a mistake has one sentence, without control characters."""
    code = main(words)
    err = capsys.readouterr().err
    assert code in (0, 1, 2), (code, err)
    if code == 2:
        assert err.startswith("rbl: "), err
        assert "Traceback" not in err
    assert not any(ord(mark) < 32 and mark != "\n" for mark in err), err
    return code


@pytest.mark.parametrize("stem, what", [("digits-linf", ""), ("digits-linf", ".samples"), ("digits-linf", ".timings"),
    ("detectors-mnist", ".detection"), ("physical-mnist", ".physical"), ("generators-mnist", "")])  # fmt: skip
def test_an_odd_table_is_told(stem: str, what: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fresh(stem, folder)
    file = path.with_name(f"{stem}{what}.csv")
    whole = file.read_text()
    chance = random.Random(f"{stem}{what}")
    for _ in range(COUNT):
        text = mutated(whole, chance)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        name = str(path)
        commands = [["validate", name], ["show", name], ["diff", name, str(FOLDER / path.name)], ["seal", name]]
        commands += [["merge", name, name, "--out", "merged.csv"]]
        answered(["leaderboard", *chance.choice(commands)], capsys)
        if "generators" not in stem:
            answered(["check", "--baseline", name, "--quiet"], capsys)


@pytest.mark.parametrize("kind", ["board", "edited", "generators"])
def test_an_odd_plan_is_told(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fresh("generators-mnist" if kind == "generators" else "digits-linf", folder)
    plan = path.with_suffix(".toml")
    whole, chance = plan.read_text(), random.Random(kind)
    for _ in range(COUNT):
        plan.write_bytes((toml(chance) if kind == "board" else mutated(whole, chance)).encode("utf-8", "surrogatepass"))
        answered(["leaderboard", "build", str(plan), "--quiet"], capsys)
        answered(["leaderboard", "validate", str(path)], capsys)
        if kind != "generators":
            answered(["check", "--baseline", str(path), "--quiet"], capsys)


@pytest.mark.parametrize("option", ["device", "examples"])
def test_a_carriage_return_in_a_plan_is_shown(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = fresh("digits-linf", folder).with_suffix(".toml")
    plan.write_text(f'{option} = "\\r"\n{plan.read_text()}')
    assert main(["leaderboard", "build", str(plan), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rbl: {option} '\\x{{d}}' has a control character, \\x{{d}} (a line end of Windows?)")
    assert len(said.splitlines()) == 1


def test_an_odd_verdict_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, verdict, chance = folder / "a.toml", folder / "v.json", random.Random(0)
    plan.write_text('models = ["linear"]\n[[external]]\nverdict = "v.json"\n')
    whole = '{"samples": [{"index": 3, "fate": "broken"}], "system": {"model": "m", "defense": "d", "digest": "e"},'
    whole += '\n"threat": "Linf:0.1", "data": {"digest": "f"},\n"file": {"name": "x"}}'
    odd = ["1e400", "null", "[]", "{}", '"x"', "-1", "true", "[" * 3000, '{"a": 1}', "9" * 5000, "NaN"]
    for _ in range(COUNT):
        at = chance.randrange(len(whole))
        text = whole[:at] + chance.choice(odd) + whole[at + chance.randrange(12) :]
        verdict.write_text(text)
        answered(["leaderboard", "build", str(plan), "--quiet"], capsys)


def test_bytes_that_are_no_text_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, chance = fresh("digits-linf", folder), random.Random(1)
    for suffix in (".csv", ".samples.csv", ".toml"):
        file = path.with_name(f"digits-linf{suffix}")
        whole = file.read_bytes()
        for _ in range(max(COUNT // 6, 1)):
            at = chance.randrange(len(whole))
            file.write_bytes(whole[:at] + bytes(chance.randrange(256) for _ in range(8)) + whole[at:])
            answered(["leaderboard", "validate", str(path)], capsys)
            answered(["check", "--baseline", str(path), "--quiet"], capsys)
        file.write_bytes(whole)
