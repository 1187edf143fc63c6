"""Whatever a user's code does, the harness hears of it by one of two errors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.errors import ModelError, UserError, cause_of
from robustbench_lite.guard import calling, is_memory_error, no_early_end


class OddError(BaseException):
    """Not even an Exception."""


class MuteError(Exception):
    """Fails at saying what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error, told",
    [
        (KeyError("x"), "the model raised KeyError: 'x'"),
        (AssertionError(), "the model raised AssertionError"),
        (SystemExit(0), "the model raised SystemExit: 0"),
        (OddError("odd"), "the model raised OddError: odd"),
        (GeneratorExit(), "the model raised GeneratorExit"),
        (MuteError(), "the model raised MuteError"),
        (RuntimeError("one\n\ntwo"), "the model raised RuntimeError: one"),
        (RuntimeError("failed.\nTraceback of TorchScript (most recent call last):\n  x\nRuntimeError: sizes"),
         "the model raised RuntimeError: sizes"),
        (ValueError("v" * 1000), f"the model raised ValueError: {'v' * 121}…{'v' * 66}"),
    ],
)  # fmt: skip
def test_any_exception_becomes_one(error: BaseException, told: str) -> None:
    with pytest.raises(ModelError) as caught, calling("the model"):
        raise error
    assert str(caught.value) == told
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [UserError("u"), ModelError("m"), torch.OutOfMemoryError("o"), KeyboardInterrupt()])
def test_what_is_understood_already_goes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, calling("the model"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_of_the_cpu_is_memory(error: BaseException) -> None:
    assert is_memory_error(error)
    with pytest.raises(torch.OutOfMemoryError), calling("the model"):
        raise error


def test_a_cause_is_never_empty_and_leaves_out_the_stack_of_cpp() -> None:
    assert cause_of(ValueError("\n \n")) == "ValueError"
    assert cause_of(RuntimeError("Exception raised from f\nsizes differ\nframe #0: g")) == "RuntimeError: sizes differ"


def test_nobody_ends_the_process_but_one_that_was_forked_ends() -> None:
    before = os._exit
    with no_early_end():
        with pytest.raises(SystemExit, match=r"os._exit\(0\) was called"):
            os._exit(0)
        child = os.fork()
        if not child:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert os._exit is before


class Fails(nn.Module):
    """Answers so many times, or clean images alone, and then does something else."""

    def __init__(self, network: nn.Module, then: Callable[[], object], after: int | None = None) -> None:
        super().__init__()
        self.network, self.then, self.left = network, then, after

    def forward(self, x: Tensor) -> Tensor:
        if self.left is None:
            bad = bool(((x * 255 - (x * 255).round()).abs() > 1e-3).any())
        else:
            self.left -= 1
            bad = self.left < 0
        if bad:
            self.then()
        scores: Tensor = self.network(x)
        return scores


def raises(error: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


def leaves() -> None:
    os._exit(0)


class Backward(torch.autograd.Function):
    """Fails where gradients are taken."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Tensor:
        raise SystemExit(0)


def test_a_gradient_that_fails_costs_the_attacks_that_take_it() -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    network = system.model

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = network(Backward.apply(x))
            return scores

    result = rbl.evaluate(Model(), x, y, attacks=["noise:draws=2", "fgsm"], threat="Linf:0.0203")
    assert result.failed == {"fgsm on Model, Linf:0.0203": "Model raised SystemExit: 0"}
    rows = result.table.set_index("attack")["robust_acc"]
    assert rows.notna()["noise:draws=2"]
    assert rows.isna()["fgsm"]


THEN: dict[str, Callable[[], object]] = {
    "SystemExit": raises(SystemExit(0)),
    "AssertionError": raises(AssertionError()),
    "KeyError": raises(KeyError("layer")),
    "StopIteration": raises(StopIteration()),
    "RecursionError": raises(RecursionError()),
    "OddError": raises(OddError()),
    "MuteError": raises(MuteError()),
    "os._exit": leaves,
}


@pytest.mark.parametrize("then", THEN.values(), ids=THEN)
@pytest.mark.parametrize("after", [None, 0, 1, 20])
def test_a_model_that_fails_at_any_call_costs_its_cells_and_nothing_else(
    then: Callable[[], object], after: int | None
) -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    x = (x * 255).round() / 255
    model = Fails(system.model, then, after)
    attacks = ["fgsm", "pgd:steps=3,restarts=1"]
    if after in (0, 1):  # it does not even answer clean images
        with pytest.raises(UserError, match="Fails"):
            rbl.evaluate(model, x, y, attacks=attacks, threat="Linf:0.0203")
        return
    result = rbl.evaluate(model, x, y, attacks=attacks, threat="Linf:0.0203")
    assert 1 <= len(result.failed) <= 2
    worst = result.table[result.table["attack"] == "worst-case"].iloc[0]
    assert worst["robust_acc"] != worst["robust_acc"]  # no number: two bounds
    assert worst["robust_acc_low"] < worst["robust_acc_high"]


def test_the_other_systems_of_a_plan_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(
        "from torch import nn\n\n\nclass M(nn.Linear):\n    def __init__(self):\n        super().__init__(64, 10)\n"
        "        self.left = 6\n\n    def forward(self, x):\n        self.left -= 1\n        assert self.left >= 0\n"
        "        return super().forward(x.flatten(1))\n\n\ndef make():\n    return M()\n"
    )
    from robustbench_lite.run.evaluate import run
    from robustbench_lite.run.plan import Plan

    plan = Plan(models=("bad.py:make", "linear"), defenses=("none",), attacks=("fgsm",), samples="first:20")
    result = run(plan, out=tmp_path / "run")
    assert list(result.failed) == ["fgsm on bad.py:make, Linf:0.2"]
    rows = result.table.set_index("model").query("attack == 'worst-case'")
    assert rows.loc["linear", "n"] == rows.loc["bad.py:make", "n"] == 20
    assert rows["robust_acc"].notna().tolist() == [False, True]


class FailsAt(nn.Module):
    """Answers images, and raises where another method of its own is called."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.network = two_layers().model
        setattr(self, method, lambda *args, **options: raises(KeyError(method))())

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores


@pytest.mark.parametrize("method", ["train", "to", "named_parameters"])
def test_a_model_that_fails_before_it_is_asked_is_told_with_its_cause(method: str) -> None:
    x, y, _ = samples(two_layers(), 4)
    with pytest.raises(UserError, match=f"FailsAt raised KeyError: '{method}'"):
        rbl.evaluate(FailsAt(method), x, y, attacks="fgsm", threat="Linf:0.1")


class Large(nn.Module):
    """There is memory for so many images at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.network, self.most = two_layers().model, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise MemoryError
        scores: Tensor = self.network(x)
        return scores


def test_a_model_with_memory_for_one_image_is_asked_one_by_one() -> None:
    system = two_layers()
    x, y, _ = samples(system, 6)
    one, many = (
        rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1").table["robust_acc"].tolist()
        for model in (Large(1), Large(1000))
    )
    assert one == many


def test_a_model_without_memory_for_one_image_is_refused() -> None:
    x, y, _ = samples(two_layers(), 4)
    with pytest.raises(UserError, match="not enough memory to show Large one image"):
        rbl.evaluate(Large(0), x, y, attacks="fgsm", threat="Linf:0.1")


def test_lazy_layers_without_weights_are_refused() -> None:
    x, y, _ = samples(two_layers(), 4)
    with pytest.raises(UserError, match="lazy layers whose weights are not made yet"):
        rbl.evaluate(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), x, y, attacks="fgsm", threat="Linf:0.1")


@pytest.mark.parametrize("seed", [None, 0.5, "1"])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    x, y, _ = samples(two_layers(), 4)
    with pytest.raises(UserError, match="accepted: whole numbers"):
        rbl.evaluate(two_layers().model, x, y, attacks="fgsm", threat="Linf:0.1", seed=seed)
