"""How a law says what it found, and how the findings of all laws become one message."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import PluginError, UserError
from robustbench_lite.rows import Rows

S = TypeVar("S")


class LawError(AssertionError):
    """A law does not hold."""


@dataclass(frozen=True)
class Finding:
    """A law that does not hold, where, and why."""

    law: str
    where: str
    why: str


def try_laws(laws: Sequence[Callable[[S], None]], subject: S, where: str = "") -> list[Finding]:
    """Run every law on the subject; a law that crashes is broken too."""
    found = []
    for law in laws:
        with unmoved_generators():
            try:
                law(subject)
            except LawError as error:
                found.append(Finding(title(law), where, str(error)))
            except Exception as error:  # what a plugin raises is the finding
                found.append(Finding(title(law), where, f"it raised {type(error).__name__}: {error}"))
    return found


def report(name: str, found: Sequence[Finding]) -> None:
    """Raise one error with all findings; nothing where there are none.

    Raises:
        PluginError: there are some.
    """
    if not found:
        return
    laws = len({finding.law for finding in found})
    places: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        places.setdefault((finding.law, finding.why), []).append(finding.where)
    lines = [f"{name} breaks {laws} law{'s' if laws > 1 else ''}:"]
    for (law, why), where in places.items():
        at = f" ({'; '.join(where)})" if any(where) else ""
        lines.append(f"  - {law}{at}: {why}")
    raise PluginError("\n".join(lines))


def title(law: Callable[..., None]) -> str:
    """`law_same_seed_same_bytes` -> `same seed same bytes`."""
    return law.__name__.removeprefix("law_").replace("_", " ")


def same(one: Rows, other: Rows, what: str) -> None:
    """Refuse rows that differ in a bit; NaN equals NaN.

    Raises:
        LawError: they differ; says in which field and rows, and by how much.
    """
    for path, left, right in _pairs(one, other, ""):
        if left.shape != right.shape or left.dtype != right.dtype:
            raise LawError(f"{what}: {path} is {_kind(left)} and {_kind(right)}")
        unequal = (left != right) & ~((left != left) & (right != right))
        rows = unequal.view(len(left), -1).any(1).nonzero().view(-1).tolist() if left.numel() else []
        if rows:
            apart = (left.double() - right.double()).nan_to_num(nan=torch.inf).abs().max()
            raise LawError(f"{what}: {path} differs in row {_shown(rows)}, by up to {float(apart):.2g}")


def refuses(act: Callable[[], object], what: str) -> None:
    """Hold the plugin to a `UserError`.

    Raises:
        LawError: it raised something else, or nothing.
    """
    try:
        act()
    except UserError:
        return
    except Exception as error:
        raise LawError(f"{what} raised {type(error).__name__} ({error}), not UserError") from error
    raise LawError(f"{what} was accepted")


def generators() -> tuple[bytes, ...]:
    """The state of the global generators of torch, numpy and Python."""
    kind, keys, place, gauss, cached = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr((kind, place, gauss, cached)).encode() + np.asarray(keys).tobytes(),
        repr(random.getstate()).encode(),
    )


def seed_generators(seed: int) -> None:
    """Put the global generators where a plugin that draws from them would show it."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # the global generator is the point
    random.seed(seed)


@contextmanager
def unmoved_generators() -> Iterator[None]:
    """The caller's global random state, as it was, whatever happens inside."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _pairs(one: Rows, other: Rows, path: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    left, right = one._sliceable(), other._sliceable()
    if left.keys() != right.keys():
        raise LawError(f"{path or 'the state'} has {sorted(left)} here and {sorted(right)} there")
    for name, value in left.items():
        if isinstance(value, Tensor):
            yield f"{path}{name}", value, right[name]
        else:
            yield from _pairs(value, right[name], f"{path}{name}.")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}{tuple(tensor.shape)}".removeprefix("torch.")


def _shown(rows: list[Any]) -> str:
    return ", ".join(map(str, rows[:4])) + (", …" if len(rows) > 4 else "")
