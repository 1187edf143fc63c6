"""The packages in examples/ install without a network, are found by `rbl`, and pass their own tests."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT

from robustbench_lite import plugins

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/pyproject.toml"))
#: several commands, one process: importing torch is what takes long
RUN = "import json, sys; from robustbench_lite.cli import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them, as pip leaves it; they are built in a copy, so that nothing is left in the tree."""
    work = tmp_path_factory.mktemp("examples")
    for example in EXAMPLES:
        for path in (path for path in example.rglob("*") if path.is_file() and not _litter(path)):
            copy = work / "source" / path.relative_to(ROOT / "examples")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    sources = [str(work / "source" / example.name) for example in EXAMPLES]
    done = subprocess.run([*command, "--target", str(work / "site"), *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return work / "site"


def _litter(path: Path) -> bool:
    return any(part in ("build", "__pycache__") or part.endswith(".egg-info") for part in path.parts)


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Find them in this process, for as long as a test runs."""
    monkeypatch.syspath_prepend(installed)
    plugins._offered.cache_clear()
    yield
    plugins._offered.cache_clear()
    for name in [name for name in sys.modules if name.startswith("rbl_example")]:
        del sys.modules[name]


def test_there_is_an_example_of_an_attack() -> None:
    assert "rbl-example-attack" in {example.name for example in EXAMPLES}


def test_rbl_lists_the_installed_attack_and_runs_it_in_one_table_with_its_own(installed: Path, tmp_path: Path) -> None:
    attacks = ["--attack", "fgsm:objective=margin", "--attack", "line-search:looks=4"]
    system = ["--model", "linear", "--defense", "none", "--threat", "Linf:0.1", "--samples", "40"]
    commands = [
        ["list", "attacks"],
        ["evaluate", *system, *attacks, "--no-diagnostics", "--examples", "0", "--quiet", "--out", "run"],
    ]
    changes = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "RBL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | changes,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *line-search\b", done.stdout, re.MULTILINE), done.stdout
    with (tmp_path / "run/summary.csv").open(encoding="utf-8") as file:
        rows = {row["attack"]: row for row in csv.DictReader(file)}
    line, step = rows["line-search:looks=4"], rows["fgsm:objective=margin"]
    assert 0 < float(line["robust_acc"]) <= float(step["robust_acc"]) < float(line["clean_acc"])
    assert 2 <= float(line["forwards"]) <= 5  # the direction, and up to four looks
    assert float(line["backwards"]) == 1


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_its_own_tests_pass(example: Path) -> None:
    """In this process, which has imported all that takes long: without fixtures and parameters, to keep that possible."""
    ran = 0
    for path in sorted((example / "tests").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"rbl_example_tests_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test in (value for name, value in vars(module).items() if name.startswith("test_")):
            test()
            ran += 1
    assert ran > 0
