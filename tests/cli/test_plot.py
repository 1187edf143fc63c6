"""`rbl plot` and `rbl report --html`: files from a run's folder alone."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robustbench_lite.cli import main

Here = Callable[..., int]
SHORT = "--dataset digits --model linear --samples 20 --attack fgsm --attack pgd:steps=3,restarts=1 --no-diagnostics"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a small run, with a detector; nothing may be changed in it."""
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RBL_CACHE", str(cache))
        patch.chdir(out.parent)
        threats = ("--threat", "Linf:0.1", "--threat", "Linf:0.2")
        defenses = ("--defense", "none", "--defense", "softmax-threshold")
        assert main(["evaluate", *SHORT.split(), *threats, *defenses, "--out", str(out), "--quiet"]) == 0
    return out


NAMES = ("bars", "claims", "curve", "queries", "time", "roc")


def test_drawings_are_written_their_names_printed_and_the_same_twice(
    folder: Path, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a", "b"):
        assert here("plot", str(folder), "--format", "svg", "--out", place) == 0
        assert capsys.readouterr().out.splitlines() == [str(Path(place) / f"{name}.svg") for name in NAMES]
    for name in NAMES:
        content = (tmp_path / "a" / f"{name}.svg").read_bytes()
        assert content.startswith(b"<?xml")
        assert content == (tmp_path / "b" / f"{name}.svg").read_bytes()


def test_pngs_are_the_default_and_lie_in_the_folder_of_the_run(
    folder: Path, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert here("plot", "copy") == 0
    assert capsys.readouterr().out.splitlines() == [f"copy/plots/{name}.png" for name in NAMES]
    for name in NAMES:
        assert (tmp_path / f"copy/plots/{name}.png").read_bytes().startswith(b"\x89PNG")
    # what evaluate has drawn, plot draws again
    assert (tmp_path / "copy/plots/bars.png").read_bytes() == (tmp_path / "copy/bars.png").read_bytes()


def test_the_page_is_one_file_the_same_twice_and_its_name_is_printed(
    folder: Path, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.html", "deeper/b.html"):
        assert here("report", str(folder), "--html", name) == 0
        assert capsys.readouterr().out == f"{name}\n"
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "deeper/b.html").read_text(encoding="utf-8")
    for section in ("results", "claims", "curves", "queries", "time", "attacks", "pairs", "detectors", "examples"):
        assert f'<section id="{section}"' in text
    started = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["started"]
    assert f"<dd>{started.replace('+', '&#43;')}</dd>" in text or f"<dd>{started}</dd>" in text
    assert "pgd:steps=3,restarts=1" in text.replace("<wbr>", "")
    assert "data:image/png;base64," in text


def test_a_run_that_was_stopped_has_a_page_and_plots(
    folder: Path, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every optional file is gone, and half of the records with them."""
    copy = tmp_path / "stopped"
    shutil.copytree(folder, copy)
    needed = {"slice.json", "timings.parquet", "records"}
    for path in copy.iterdir():
        if path.name not in needed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    cells = sorted((copy / "records").iterdir())
    for path in cells[::2]:
        shutil.rmtree(path)
    assert here("report", "stopped", "--html", "page.html") == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r"unfinished: fgsm on linear, .*: no records", text)
    assert "This run holds no plan." in text
    assert here("plot", "stopped") == 0
    assert "stopped/plots/bars.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("plot", "."), "'.' holds no run; give the folder that rbl evaluate --out wrote"),
        (("plot", ".", "--format", "pdf"), "format=pdf; accepted: png, svg"),
        (("report", ".", "--html", "page.txt"), "html='page.txt'; accepted: a file whose name ends in .html"),
        (("report", ".", "--html", "page.html"), "'.' holds no run; give the folder that rbl evaluate --out wrote"),
    ],
)
def test_mistakes_are_a_sentence(
    arguments: tuple[str, ...], told: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(*arguments) == 2
    assert capsys.readouterr().err == f"rbl: {told}\n"
