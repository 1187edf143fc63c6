"""No unit test asserts a time: benchmarks do, and what depends on a clock is given one that a test winds.

A test that fails on a busy machine teaches people to run it again.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
#: names of the module `time` that read a clock or wait for one
CLOCKS = {"time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "sleep"}
CLOCKS |= {"process_time_ns", "thread_time", "thread_time_ns"}
#: who may, and why
ALLOWED = {
    "waiting.py": "waits for other processes, and gives up only where one hangs",
    "measuring.py": "the clock of the benchmarks",
    "chromium.py": "waits for a browser",
    "cli/rbl_with_plugins.py": "an attack that takes its time, so that there is something to interrupt",
    "cli/test_progress.py": "a thread of rich draws the screen five times a second",
    "generators/side_by_side.py": "a script",
    "run/kill_driver.py": "kills at random moments",
    "run/test_trouble.py": "files that are old",
    "peers/test_boundary_strength.py": "prints seconds, judges none",
    "peers/test_decision_strength.py": "prints seconds, judges none",
}
FILES = sorted(path for path in TESTS.rglob("*.py") if "benchmarks" not in path.relative_to(TESTS).parts)


def clocks_read(source: str) -> Iterator[str]:
    """Every clock that a module reads or waits for, with its line: in the code itself, not in texts that it holds."""
    tree = ast.parse(source)
    names = {"time", "timeit"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "timeit"):
            yield from (f"line {node.lineno}: from {node.module} import {alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names |= {alias.asname for alias in node.names if alias.name in ("time", "timeit") and alias.asname}
    for node in ast.walk(tree):
        known = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
        if known and (node.value.id == "timeit" or node.attr in CLOCKS):
            yield f"line {node.lineno}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(TESTS)) for path in FILES])
def test_no_test_reads_a_clock(path: Path) -> None:
    """Put what measures into tests/benchmarks, wait by `waiting.until`, or give the code under test a clock of its own."""
    if str(path.relative_to(TESTS)) in ALLOWED:
        return
    assert list(clocks_read(path.read_text(encoding="utf-8"))) == []


def test_what_is_allowed_is_there() -> None:
    assert [name for name in ALLOWED if not (TESTS / name).is_file()] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\nassert time.perf_counter() < 3",
        "import time as t\nt.monotonic()",
        "from time import sleep",
        "import timeit\ntimeit.timeit('1')",
        "def f():\n    import time\n    time.sleep(1)",
    ],
)
def test_a_new_one_is_noticed(source: str) -> None:
    assert list(clocks_read(source))


def test_no_property_has_a_deadline() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
