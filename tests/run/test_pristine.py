"""A copy of a system that was asked nothing: whatever a network remembers, the copy does not."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import two_layers

from robustbench_lite.run.pristine import Pristine
from robustbench_lite.system import Detector, System

X = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
TOTAL = 0.0
HELD: list[float] = []
BESIDE = ModuleType("beside_the_tests_of_pristine")
BESIDE.__file__, BESIDE.held = __file__, []  # type: ignore[attr-defined]
sys.modules[BESIDE.__name__] = BESIDE


class Counting(nn.Module):
    """Adds how often it was asked to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = two_layers().model

    def count(self) -> int:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x) + self.count()
        return scores


class InItself(Counting):
    calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls


class InABuffer(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def count(self) -> int:
        self.calls += 1
        return int(self.calls)


class InAList(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["held"] = []

    def count(self) -> int:
        self.held.append(1)
        return len(self.held)


class OnTheClass(Counting):
    held: ClassVar[list[int]] = []

    def count(self) -> int:
        self.held.append(1)
        return len(self.held)


class InAGlobal(Counting):
    def count(self) -> int:
        HELD.append(1)
        return len(HELD)


class InAGlobalNumber(Counting):
    def count(self) -> int:
        global TOTAL
        TOTAL += 1
        return int(TOTAL)


class InAnotherFile(Counting):
    def count(self) -> int:
        BESIDE.held.append(1)
        return len(BESIDE.held)


class InADefault(Counting):
    def count(self, held: list[int] = []) -> int:  # noqa: B006
        held.append(1)
        return len(held)


def counted() -> int:
    HELD.append(1)
    return len(HELD)


class ThroughAFunction(Counting):
    def count(self) -> int:
        return counted()


class InAClosure(Counting):
    def __init__(self) -> None:
        super().__init__()
        calls = 0

        def count() -> int:
            nonlocal calls
            calls += 1
            return calls

        self.counter = count

    def count(self) -> int:
        return self.counter()


class CopiesAsItself(InAList):
    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiesAsItself":
        return self


KINDS: list[Callable[[], Counting]] = [
    *(InItself, InABuffer, InAList, OnTheClass, InAGlobal, InAGlobalNumber, InAnotherFile, InADefault),
    *(ThroughAFunction, InAClosure, CopiesAsItself),
]


def system_of(net: nn.Module) -> System:
    return System(model=net, num_classes=5, input_shape=(1, 8, 8))


def said(system: System) -> float:
    """What is added to the scores."""
    added = system(X).scores - two_layers()(X).scores
    return float(added.mean().round())


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_has_seen_nothing_and_the_system_forgets_nothing(kind: Callable[[], Counting]) -> None:
    system = system_of(kind())
    start = said(system)
    copied = Pristine.of(system)
    assert isinstance(copied, Pristine), copied
    assert copied.left == ()
    assert said(system) == start + 1
    assert said(system) == start + 2
    with copied.back_then() as early:
        assert said(early) == start + 1
    assert said(system) == start + 3


def test_the_copy_shares_the_weights() -> None:
    system = system_of(InAList())
    copied = Pristine.of(system)
    assert isinstance(copied, Pristine)
    pairs = zip(system.model.parameters(), copied.system.model.parameters(), strict=True)
    assert all(one is other for one, other in pairs)


def test_what_lies_outside_is_put_back_after_an_exception_as_well() -> None:
    system = system_of(InAGlobal())
    copied, before = Pristine.of(system), len(HELD)
    assert isinstance(copied, Pristine)
    HELD.append(1)
    seen = []
    with suppress(RuntimeError), copied.back_then():
        seen.append(len(HELD))
        raise RuntimeError
    assert (seen, len(HELD)) == ([before], before + 1)


def remembering(held: list[int], x: Tensor) -> Tensor:
    held.append(1)
    return x.flatten(1).mean(1) + len(held)


def test_parts_of_a_system_are_followed_too() -> None:
    held: list[int] = []
    score = partial(remembering, held)
    system = two_layers().with_detector(Detector(score=score, threshold=0.0))
    copied = Pristine.of(system)
    assert isinstance(copied, Pristine)
    system(X)
    late = system(X).reject
    with copied.back_then() as early:
        first = early(X).reject
    assert late is not None
    assert first is not None
    assert torch.allclose(late - first, torch.ones(3))


class WithALock(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def count(self) -> int:
        return 0


LOCK = threading.Lock()


class LocksAGlobal(Counting):
    def count(self) -> int:
        with LOCK:
            return len(HELD) * 0


def test_what_cannot_be_copied_is_told() -> None:
    refused = Pristine.of(system_of(WithALock()))
    assert isinstance(refused, str)
    assert "cannot be copied" in refused
    copied = Pristine.of(system_of(LocksAGlobal()))
    assert isinstance(copied, Pristine)
    (name,) = copied.left
    assert name.endswith(".LOCK")
