"""The units of a cost: a bare forward and gradient of the system, by a clock that a test can wind."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.run import clocks, units
from robustbench_lite.run.output import _MEASURED
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Silent
from robustbench_lite.run.setting import Setting
from robustbench_lite.run.subject import Subject


class Clock:
    """Seconds that pass only where something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def busy(self, device: torch.device) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clocks, "busy", made.busy)
    return made


class _Slow(torch.autograd.Function):
    """Nothing, that takes 2 ms an image there and 3 ms back, and now and then much longer."""

    @staticmethod
    def forward(ctx, x, clock, hitch):
        ctx.clock = clock
        clock.now += 0.002 * len(x) + next(hitch)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.clock.now += 0.003 * len(grad)
        return grad, None, None


def slow(clock: Clock, hitch: Iterator[float]) -> nn.Module:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = _Slow.apply(x, clock, hitch)
            return torch.stack((x.flatten(1).sum(1), -x.flatten(1).sum(1)), 1)

    return Net()


@contextmanager
def subject_of(model: nn.Module) -> Iterator[Subject]:
    plan = Plan(dataset="tensors", models=("Net",), defenses=("none",), attacks=("fgsm",), samples="all")
    data = from_tensors(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)
    with Setting.of(plan, data=data).opened(model, Silent()) as opened:
        yield opened.subject(opened.build("Net", "none"))


def measured(model: nn.Module) -> units.Units:
    with subject_of(model) as subject:
        return subject.units


def pauses() -> Iterator[float]:
    """Another job comes between every second time."""
    while True:
        yield 0.0
        yield 0.2


def test_units_are_seconds_an_image_and_the_least_of_several(clock: Clock) -> None:
    found = measured(slow(clock, pauses()))
    assert found.forward == pytest.approx(0.002)
    assert found.gradient == pytest.approx(0.003)


def test_a_model_without_a_gradient_has_a_forward_alone(clock: Clock) -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock.now += 0.001 * len(x)
            total = torch.from_numpy(x.detach().numpy().sum((1, 2, 3)))
            return torch.stack((total, -total), 1)

    found = measured(Blind())
    assert found.forward == pytest.approx(0.001)
    assert math.isnan(found.gradient)


@pytest.mark.parametrize("error", [RuntimeError("tired"), SystemExit(0), KeyError("x")])
def test_a_model_that_raises_has_no_units_and_costs_nobody_a_run(error: BaseException) -> None:
    class Tired(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            if self.calls < 0:
                raise error
            return torch.stack((x.flatten(1).sum(1), -x.flatten(1).sum(1)), 1)

    model = Tired()
    with subject_of(model) as subject:
        model.calls = -1
        assert math.isnan(subject.units.forward)


def test_measuring_gives_back_the_random_numbers_that_a_model_draws() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = (x + torch.rand_like(x)).flatten(1).sum(1)
            return torch.stack((total, -total), 1)

    with subject_of(Noisy()) as subject:
        before = torch.get_rng_state()
        assert subject.units.forward >= 0
        assert torch.equal(torch.get_rng_state(), before)


def test_a_run_tells_its_units(tmp_path) -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    options = {"attacks": ["fgsm"], "threat": "Linf:0.1", "diagnostics": False, "out": tmp_path}
    first = rbl.evaluate(system, x, y, **options).timings.iloc[0]
    assert (first[["busy_seconds", "unit_forward", "unit_gradient"]].astype(float) >= 0).all()
    again = rbl.evaluate(system, x, y, **options).timings.iloc[0]  # nothing is computed: what it was stands there
    assert again[list(_MEASURED)].tolist() == first[list(_MEASURED)].tolist()
    assert set(_MEASURED) <= set(pd.read_parquet(tmp_path / "timings.parquet").columns)
