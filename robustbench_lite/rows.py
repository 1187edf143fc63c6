"""Things with a sample axis that are sliced and joined together: goals, random streams, attack states, outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

R = TypeVar("R", bound="Rows")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A frozen dataclass whose tensors have the sample axis first.

    Indexing takes the same samples out of every tensor and of every `Rows` inside; everything else (a threat, an
    option) belongs to all samples alike and is kept. Subclasses add fields.
    """

    def __getitem__(self, index: Tensor | slice) -> Self:
        return replace(self, **{name: value[index] for name, value in self._sliceable().items()})

    def __len__(self) -> int:
        for value in self._sliceable().values():
            return len(value)
        return 0

    def to(self, device: torch.device | str) -> Self:
        """The same rows on another device."""
        return replace(self, **{name: value.to(device) for name, value in self._sliceable().items()})

    def _sliceable(self) -> dict[str, Any]:
        own = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: value for name, value in own if isinstance(value, (Tensor, Rows))}


def concat(parts: Sequence[R]) -> R:
    """Join rows of one kind, in order.

    Raises:
        ValueError: there are none, or a field is a tensor in one part and not in another.
    """
    if not parts:
        raise ValueError("nothing to join")
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    columns = [set(part._sliceable()) for part in parts]
    uneven = columns[0].union(*columns) - columns[0].intersection(*columns)
    if uneven:
        raise ValueError(f"{type(first).__name__}.{min(uneven)} is missing in some of the rows to join")
    joined: dict[str, Any] = {}
    for name, value in first._sliceable().items():
        column = [getattr(part, name) for part in parts]
        joined[name] = torch.cat(column) if isinstance(value, Tensor) else concat(column)
    return replace(first, **joined)


def overwrite(table: Rows, into: Tensor, rows: Rows) -> None:
    """Write the rows over those of a table that the caller owns, in place."""
    for name, value in table._sliceable().items():
        other = getattr(rows, name)
        if isinstance(value, Tensor):
            value[into] = other
        else:
            overwrite(value, into, other)


def where(condition: Tensor, yes: R, no: R) -> R:
    """Row by row, from `yes` where the condition (n,) holds, else from `no`."""
    chosen: dict[str, Any] = {}
    for name, value in yes._sliceable().items():
        other = getattr(no, name)
        if isinstance(value, Tensor):
            chosen[name] = torch.where(along(condition, value), value, other)
        else:
            chosen[name] = where(condition, value, other)
    return replace(yes, **chosen)


def along(values: Tensor, like: Tensor) -> Tensor:
    """View one value a sample (n,) so that it broadcasts over `like` (n, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))
