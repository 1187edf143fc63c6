"""Checks may take as long as the attacks did: what comes after that is unchecked, and says so."""

import pytest
import torch
from toys import Climb, samples, two_layers

from robustbench_lite.results.diagnostics import Diagnostic, judged, unchecked
from robustbench_lite.run import budget, checks, evaluate, probes
from robustbench_lite.run.budget import Budget
from robustbench_lite.run.evaluate import _closer
from robustbench_lite.run.reporter import Silent


def test_a_check_that_begins_ends_and_later_ones_are_unchecked() -> None:
    now, told = [100.0], list[tuple[str, int]]()
    one = Budget(12, clock=lambda: now[0], tell=lambda name, place: told.append((name, place)))

    def slow() -> Diagnostic:
        now[0] += 8
        return judged("zero-gradients", 0.0, 10)

    names = ("zero-gradients", "answers-vary", "nan-scores")
    found = [one.check(name, slow) for name in names]
    assert [check.status for check in found] == ["clear", "clear", "unchecked"]
    assert found[-1] == unchecked("nan-scores", "no time left (budget 12 s)", for_now=True)
    assert told == [("zero-gradients", 0), ("answers-vary", 1)]


def test_without_a_number_there_is_no_end() -> None:
    assert Budget(clock=lambda: 1e18).check("nan-scores", lambda: judged("nan-scores", 0.0, 1)).status == "clear"


def test_what_records_tell_stands_where_there_was_no_time_to_look_closer() -> None:
    told = judged("noise-beats-gradient", 0.5, 10)
    late = unchecked("noise-beats-gradient", "no time left (budget 1 s)", for_now=True)
    looked = unchecked("noise-beats-gradient", "no sample is right on its clean image")
    assert _closer(told, late) is told
    assert _closer(told, None) is told
    assert _closer(told, looked) is looked


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check may take any time, but what the attacks took; and that was nothing."""
    monkeypatch.setattr(checks, "LEAST", 0.0)
    monkeypatch.setattr(evaluate._Collected, "seconds", lambda self, cells: 0.0)
    return


class Listening(Silent):
    """Notes which checks it is told of."""

    def __init__(self) -> None:
        self.checks: list[str] = []

    def progress(self, stage: str, step: int, steps: int, broken: int, left: int, share: float) -> None:
        if stage in probes.PROBES:
            self.checks.append(stage)
            assert 1 <= step <= steps
            assert 0 <= share < 1


def found(reporter: Silent) -> dict[str, tuple[str, str]]:
    system = two_layers()
    x, y, _ = samples(system, 20)
    result = evaluate.evaluate(system, x, y, attacks=["fgsm", Climb(steps=2)], threat="Linf:0.02", reporter=reporter)
    rows = result.diagnostics.to_dict("records")
    return {row["diagnostic"]: (row["status"], row["detail"]) for row in rows}


@pytest.mark.usefixtures("no_time")
def test_a_run_says_what_it_had_no_time_for_and_what_records_tell_all_the_same() -> None:
    heard = Listening()
    told = found(heard)
    assert heard.checks == []
    assert told["zero-gradients"] == ("unchecked", "no time left (budget 0 s)")
    assert told["survives-unbounded-eps"] == ("unchecked", "no time left (budget 0 s)")
    assert told["invalid-examples"][0] == "clear"
    assert told["not-converged"][0] in ("clear", "unchecked")


def test_the_checks_are_told_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST", 1e9)
    heard = Listening()
    told = found(heard)
    assert "zero-gradients" in heard.checks
    assert heard.checks == [name for name in probes.PROBES if name in heard.checks]
    assert not any(detail.startswith("no time left") for _, detail in told.values())
    assert budget.LEAST > 0
    assert torch.is_grad_enabled()
