"""A system as it was before it was asked anything: what remembers earlier images answers otherwise than this copy does.

The copy shares the weights. Its modules are copied with all they hold in lists, counters and buffers. What user code keeps
elsewhere (see `places`) no copy of a module brings along: it is put back as it was while the copy is asked, and as it is
now afterwards.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustbench_lite.errors import cause_of
from robustbench_lite.guard import calling
from robustbench_lite.run.held import Roots, copies, shared
from robustbench_lite.run.places import Place, places_of
from robustbench_lite.system import System

#: values of more bytes are not copied
LARGE = 1 << 26


@dataclass(frozen=True, kw_only=True, eq=False)
class Pristine:
    """A copy of a system, and what its code keeps outside of its modules.

    Args:
        system: the copy. places: where values are kept. values: what was there. left: the places that could not be copied.
    """

    system: System
    places: tuple[Place, ...]
    values: tuple[Any, ...]
    left: tuple[str, ...] = ()

    @classmethod
    def of(cls, system: System) -> "Pristine | str":
        """A copy of the system as it is now; the reason, where it cannot be copied."""
        every = places_of(system)
        kept = [place for place in every if not _large(place.get())]
        memo: dict[int, Any] = {
            id(weight): weight for module in _modules(system, kept) for weight in module.parameters()
        }
        try:
            copied, values = _copied(system, kept, memo)
        except Exception:  # one of the values; which, is found out one by one
            kept = [place for place in kept if _can_be_copied(place, memo)]
            try:
                copied, values = _copied(system, kept, memo)
            except Exception as error:  # whatever a user's object says to being copied
                return f"{system.name} cannot be copied: {cause_of(error.__cause__ or error)}"
        outside = tuple(place.name for place in every if place not in kept)
        both = (_roots(system, kept, [place.get() for place in kept]), _roots(copied, kept, values))
        left = (*outside, *shared(*both))
        return cls(system=copied, places=tuple(kept), values=values, left=left)

    def like(self, system: System) -> "Pristine":
        """The copy, asked in the way that was found to suit the system."""
        asked = replace(self.system, model_is_random=system.model_is_random, channels_last=system.channels_last)
        return replace(self, system=asked)

    @contextmanager
    def back_then(self) -> Iterator[System]:
        """The copy, while all that lies outside of it is as it was."""
        now = [place.get() for place in self.places]
        try:
            _put(self.places, self.values)
            yield self.system
        finally:
            _put(self.places, now)


def _copied(system: System, kept: list[Place], memo: dict[int, Any]) -> tuple[System, tuple[Any, ...]]:
    """All in one go, so that what two of them share is shared by their copies."""
    values = tuple(place.get() for place in kept)
    memo = copies(_roots(system, kept, values), memo)
    with calling(system.name):
        copied: tuple[System, tuple[Any, ...]] = copy.deepcopy((system, values), memo)
    return copied


def _roots(system: System, places: list[Place], values: Sequence[Any]) -> Roots:
    """What a system calls, and what lies in places outside of it."""
    parts = [(part, one.name) for one in system.purifiers for part in (one.apply, one.surrogate, one.derived)]
    score = None if system.detector is None else system.detector.score
    outside = [(value, place.name) for place, value in zip(places, values, strict=True)]
    return [*((module, system.name) for module in system.modules), *parts, (score, "the detector"), *outside]


def _can_be_copied(place: Place, memo: dict[int, Any]) -> bool:
    try:
        with calling(place.name):
            copy.deepcopy(place.get(), dict(memo))
    except Exception:  # whatever a user's object says to being copied
        return False
    return True


def _put(places: tuple[Place, ...], values: Any) -> None:
    for place, value in zip(places, values, strict=True):
        with suppress(AttributeError, TypeError):  # a class that lets nothing be put
            place.put(value)


def _modules(system: System, kept: list[Place]) -> list[nn.Module]:
    return [*system.modules, *(value for place in kept if isinstance(value := place.get(), nn.Module))]


def _large(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() > LARGE
    if isinstance(value, np.ndarray):
        return value.nbytes > LARGE
    if isinstance(value, (list, tuple, dict)):
        held = list(value.values()) if isinstance(value, dict) else value
        return any(map(_large, held[:1000]))
    return False
