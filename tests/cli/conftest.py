"""`rbl` as a user runs it (a process of its own) and as quickly as a test wants it (in this process)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.cli import main

FORCING = ("FORCE_COLOR", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
Start = Callable[..., "subprocess.Popen[str]"]
Rbl = Callable[..., "subprocess.CompletedProcess[str]"]
QUIET_WORLD = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def environment(cache: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """One thread, a hundred columns, no colours, and models cached for this test session only."""
    kept = {name: value for name, value in os.environ.items() if name not in FORCING}
    return {**kept, **QUIET_WORLD, "RBL_CACHE": str(cache), **(more or {})}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(cache: Path, tmp_path: Path) -> Start:
    """Start `rbl` in a process of its own, in an empty folder.

    With `plugins` it is that of rbl_with_plugins.py; no file may grow above `largest_file` KiB.
    """

    def begin(
        *arguments: str, plugins: bool = False, largest_file: int | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        program = [str(Path(__file__).with_name("rbl_with_plugins.py"))] if plugins else ["-m", "robustbench_lite"]
        limited = [] if largest_file is None else ["bash", "-c", f'ulimit -f {largest_file}; exec "$@"', "bash"]
        return subprocess.Popen(
            [*limited, sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(cache, env),
            preexec_fn=_hears_ctrl_c,
        )

    return begin


def _hears_ctrl_c() -> None:
    """What is started by a shell in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def rbl(start: Start) -> Rbl:
    """Run `rbl` so to its end."""

    def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., int]:
    """Run `rbl` in this process, in an empty folder; output goes to `capsys`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(cache))
    for name in FORCING:
        monkeypatch.delenv(name, raising=False)
    for name, value in QUIET_WORLD.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: main(arguments)
