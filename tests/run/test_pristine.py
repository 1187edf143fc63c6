"""A copy of a system that was asked nothing: whatever a network remembers, the copy does not."""

import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from types import ModuleType
from typing import Any, ClassVar
from weakref import WeakValueDictionary

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


class OnAFunction(Counting):
    def count(self) -> int:
        noted = vars(counted)
        noted["calls"] = noted.get("calls", 0) + 1
        return int(noted["calls"])


class OfTheThread(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.own = threading.local()
        self.own.held = []

    def count(self) -> int:
        self.own.held.append(1)
        return len(self.own.held)


CONTEXT: ContextVar[list[int]] = ContextVar("held", default=[])  # noqa: B039


class InTheContext(Counting):
    def count(self) -> int:
        CONTEXT.get().append(1)
        return len(CONTEXT.get())


class InAModuleOfOthers(Counting):
    def count(self) -> int:
        math.held_by_tests = [*getattr(math, "held_by_tests", []), 1]  # type: ignore[attr-defined]
        return len(math.held_by_tests)  # type: ignore[attr-defined]


class InTheEnvironment(Counting):
    def count(self) -> int:
        os.environ["RBL_TEST_CALLS"] = str(int(os.environ.get("RBL_TEST_CALLS", "0")) + 1)
        return int(os.environ["RBL_TEST_CALLS"])


class Box:
    """Hands itself out where it is to be copied."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Box":
        return self


class InABox(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.box = Box()

    def count(self) -> int:
        self.box.held.append(1)
        return len(self.box.held)


class InAWeakTable(InABox):
    def __init__(self) -> None:
        super().__init__()
        self.table = WeakValueDictionary({"box": self.box})

    def count(self) -> int:
        self.table["box"].held.append(1)
        return len(self.table["box"].held)


KINDS: list[Callable[[], Counting]] = [
    *(InItself, InABuffer, InAList, OnTheClass, InAGlobal, InAGlobalNumber, InAnotherFile, InADefault),
    *(ThroughAFunction, InAClosure, CopiesAsItself, OnAFunction, OfTheThread, InTheContext, InAModuleOfOthers),
    *(InTheEnvironment, InABox, InAWeakTable),
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


class Cached(Counting):
    """Adds what it is told at the first call and is told again later."""

    def __init__(self) -> None:
        super().__init__()
        calls = 0

        @functools.cache
        def told() -> int:
            return calls

        def count() -> int:
            nonlocal calls
            calls += 1
            return told()

        self.counter = count

    def count(self) -> int:
        return self.counter()


def test_caches_of_functions_are_emptied_for_the_copy() -> None:
    system = system_of(Cached())
    copied = Pristine.of(system)
    assert isinstance(copied, Pristine)
    assert [said(system), said(system)] == [1, 1]
    with copied.back_then() as early:
        assert said(early) == 1
    assert said(system) == 3


class Single:
    """An object of which there is one."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def __reduce__(self) -> str:
        return "SINGLE"


SINGLE = Single()


class InASingle(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["single"] = SINGLE

    def count(self) -> int:
        return len(self.single.held)


def test_what_the_copy_shares_is_told() -> None:
    copied = Pristine.of(system_of(InASingle()))
    assert isinstance(copied, Pristine)
    assert copied.left == ("model.single", "model.single.held")


def generated() -> Iterator[int]:
    yield from range(10**9)


class Generates(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = generated()

    def count(self) -> int:
        return next(self.numbers)


def test_a_generator_cannot_be_copied() -> None:
    refused = Pristine.of(system_of(Generates()))
    assert isinstance(refused, str)
    assert "generator" in refused
