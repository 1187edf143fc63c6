"""Names that users give their files come out of every table, page, picture and CSV as text, whatever is in them."""

import csv
import html
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.escaping import read_csv

Here = Callable[..., int]
NET = """from torch import nn
def make(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""
#: a file's name -> how it is shown
NAMES = {
    "\x1b[31mred\r\n.py": r"\x{1b}[31mred\x{d}\x{a}.py",
    "=1+1[red]x[-red]$\\foo$.py": "=1+1[red]x[-red]$\\foo$.py",
    "a|b`<i>*x*.py": "a|b`<i>*x*.py",
}
WORDS = ("--defense", "none", "--attack", "fgsm", "--attack", "pgd:steps=2,restarts=1", "--threat", "Linf:0.1")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_odd_name_is_shown_everywhere_and_rules_nothing(
    name: str, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(NET, encoding="utf-8")
    model, shown = f"{name}:make", f"{NAMES[name]}:make"
    more = ("--threat", "Linf:0.2", "--samples", "first:10", "--out", "run")
    assert here("evaluate", "--model", model, *WORDS, *more, "--log", "log") == 0
    out, err = capsys.readouterr()
    assert f"fgsm on {shown}, Linf:0.1: robust accuracy" in err
    for said in (out, err, (tmp_path / "log").read_text(encoding="utf-8")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)

    def report(*options: str) -> str:
        assert here("report", "run", *options) == 0
        said = capsys.readouterr()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said.out + said.err)
        assert "unfinished" not in said.out + said.err
        return said.out

    assert shown in report("--format", "table").replace("\n", "").replace(" ", "")
    assert shown in report("--details").replace("\n", "").replace(" ", "")
    tables = [line for line in report("--format", "markdown").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {8}
    assert html.unescape(tables[2]).startswith(f"| {shown} |")
    for text in (report("--format", "csv"), *(path.read_text(encoding="utf-8") for path in tmp_path.glob("run/*.csv"))):
        for row in csv.reader(text.splitlines()):
            assert not any(re.match(r"[=+@]", cell) for cell in row)
    diagnostics = read_csv(tmp_path / "run/diagnostics.csv", dtype=str)
    assert set(diagnostics["model"]) == {shown}
    assert set(read_csv(tmp_path / "run/summary.csv", dtype=str)["model"]) == {shown}
    report("--html", "run.html")
    assert "<i>" not in (tmp_path / "run.html").read_text(encoding="utf-8")
    assert here("plot", "run") == 0
    again = pd.read_parquet(tmp_path / "run/timings.parquet")["seconds"].tolist()
    assert here("evaluate", "--model", model, *WORDS, *more, "--quiet") == 0  # nothing is computed anew
    assert pd.read_parquet(tmp_path / "run/timings.parquet")["seconds"].tolist() == again


def test_class_names_with_control_characters_are_refused(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for place, name in enumerate(("cat\x1b[2J", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8), color=100 * place).save(tmp_path / "images" / name / "x.png")
    assert here("evaluate", "--dataset", "folder:images", "--model", "linear", *WORDS) == 2
    said = capsys.readouterr().err
    assert r"the class 'cat\x{1b}[2J' has a control character, \x{1b}; write it without" in said
