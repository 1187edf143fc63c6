"""A run's folder belongs to one plan: who shares it, and who is refused by name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.run.folder_claim import claimed
from robustbench_lite.run.plan import Plan

PLAN = Plan(attacks=("fgsm", "pgd"), threats=("Linf:0.1",), samples="first:20")
OTHER = replace(PLAN, threats=("Linf:0.2",))


#: another process that works in the folder until it is told to end
HOLDER = """
import sys
from pathlib import Path
from robustbench_lite.run.folder_claim import claimed
from robustbench_lite.run.plan import Plan
with claimed(Path(sys.argv[1]), Plan.from_toml(sys.argv[2])):
    print("here", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """A process of that plan that is at work in the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder), plan.to_toml()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def finished(folder: Path, plan: Plan) -> None:
    """What a run that is over has left."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.toml").write_text(plan.to_toml())
    (folder / "timings.parquet").touch()


def test_two_runs_of_one_plan_share_a_folder_and_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    with holder(tmp_path, PLAN) as process:
        with claimed(tmp_path, replace(PLAN, batch_size=7)):
            pass
        told = rf"process {process.pid} .*threats: Linf:0.1, not Linf:0.2.*--out"
        with pytest.raises(UserError, match=told), claimed(tmp_path, OTHER):
            pass
    with claimed(tmp_path, OTHER):  # it was killed, and claims nothing any more
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"samples": "first:5"},
        {"attacks": ("fgsm",)},
        {"attacks": ("fgsm", "pgd", "noise")},
        {"threats": ("Linf:0.1", "L2:1")},
        {"device": "cpu", "examples": "all"},
    ],
    ids=str,
)
def test_more_or_less_of_the_same_goes_on_in_the_folder(change: dict[str, object], tmp_path: Path) -> None:
    finished(tmp_path, PLAN)
    with claimed(tmp_path, replace(PLAN, **change)):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    "change, told",
    [
        ({"threats": ("Linf:0.2",)}, "threats: Linf:0.1, not Linf:0.2"),
        ({"seed": 1}, "seed: 0, not 1"),
        ({"dataset": "mnist", "models": ("mlp",)}, "dataset: digits, not mnist; models: small-cnn, not mlp"),
    ],
)
def test_results_of_another_plan_are_not_written_over(change: dict[str, object], told: str, tmp_path: Path) -> None:
    finished(tmp_path, PLAN)
    other = replace(PLAN, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=told), claimed(tmp_path, other):
        pass
    with claimed(tmp_path, other, fresh=True):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"plan": 3}', b"\xff\xfe"])
def test_a_damaged_claim_or_plan_keeps_nobody_out(content: bytes, tmp_path: Path) -> None:
    finished(tmp_path, PLAN)
    (tmp_path / "plan.toml").write_bytes(content)
    (tmp_path / ".claim.json").write_bytes(content)
    with claimed(tmp_path, OTHER):
        pass
