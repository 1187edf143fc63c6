"""The threads of an evaluation: chosen by timing, kept with the results."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.run import threads
from robustbench_lite.run.threads import choose_threads, most_threads

CPU = torch.device("cpu")
LARGE = from_tensors(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], few: float = 0.01) -> None:
    """A clock that says so many seconds for a block with so many threads, and `few` for a few images."""
    monkeypatch.setattr(threads, "_timed", lambda network, x, count: few if len(x) < 32 else seconds[count])


def networks() -> Sequence[nn.Module]:
    return [nn.Identity()]


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ({1: 1.0, 2: 0.5, 4: 0.3}, 4),
        ({1: 1.0, 2: 0.5, 4: 0.45}, 2),
        ({1: 1.0, 2: 0.95, 4: 0.3}, 1),  # what is worth nothing at two is not tried at four
        ({1: 1.0, 2: 3.0, 4: 9.0}, 1),
    ],
)
def test_twice_the_threads_must_be_worth_it(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    clocked(monkeypatch, seconds)
    assert choose_threads(networks, LARGE, CPU) == expected


def test_a_large_network_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, {}, few=1.0)
    assert choose_threads(networks, LARGE, CPU) == 4


def test_tiny_images_and_a_users_wish_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Sequence[nn.Module]:
        raise AssertionError("nothing is loaded to be timed")

    assert choose_threads(never, from_tensors(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])), CPU) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(never, LARGE, CPU) == 2  # the power of two below it
    assert most_threads() == 2


def test_a_network_that_raises_says_so_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("x")

    assert choose_threads(lambda: [Broken()], LARGE, CPU) in (1, 2, 4)


def test_the_choice_is_recorded_and_kept_when_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = two_layers()
    x, y, _ = samples(system, 12)
    chosen = []

    def choose(*arguments: object) -> int:
        chosen.append(1)
        return 2

    monkeypatch.setattr("robustbench_lite.run.evaluate.choose_threads", choose)
    first = rbl.evaluate(system, x, y, attacks="fgsm", threat="Linf:0.02", out=tmp_path, diagnostics=False)
    told = json.loads((tmp_path / "environment.json").read_text())
    assert told["threads"] == 6  # what torch says, here of the fixture
    (tmp_path / "environment.json").write_text(json.dumps({**told, "threads": 4}))
    again = rbl.evaluate(system, x, y, attacks="fgsm", threat="Linf:0.02", out=tmp_path, diagnostics=False)
    assert len(chosen) == 1
    assert np.array_equal(first.records["broken"], again.records["broken"])
