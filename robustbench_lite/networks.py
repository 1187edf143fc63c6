"""Networks that an option of an attack names: a text where the user writes it, an object when the attack runs.

An attack may not load models itself. Its option is typed `Model` (a network with its weights) or `Architecture` (one
that it will train); the harness fills in what the text means, once the data is known, by the zoo's own rules.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError
from robustbench_lite.seeding import seeded
from robustbench_lite.system import System

P = TypeVar("P")


@dataclass(frozen=True)
class Model:
    """A network with its weights, such as `resnet56;weights=FILE`, or several joined by `+`: the mean of their logits.

    Args:
        text: as the user writes it. system: what it means; None until the harness has loaded it. Two models of the same
            text are equal.
    """

    text: str
    system: System | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def hashed_as(self) -> tuple[object, ...]:
        """The network, once it is loaded: the text may name a file, which may be moved."""
        return (self.text,) if self.system is None else (self.system,)

    def loaded(self) -> System:
        """The network, in eval mode, frozen.

        Raises:
            UserError: nobody has loaded it: the attack was not started by an evaluation.
        """
        if self.system is None:
            raise UserError(f"the model {self.text!r} is named but not loaded; only an evaluation loads it")
        return self.system


@dataclass(frozen=True)
class Architecture:
    """A network to be trained, such as `small-cnn` or `mlp:hidden=64`.

    Args:
        text: as the user writes it. build: makes it with fresh weights, by torch's global generator; None until the
            harness has found it. Two architectures of the same text are equal.
    """

    text: str
    build: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def hashed_as(self) -> tuple[object, ...]:
        """A network of that architecture with initial weights, once it is known how to build it."""
        if self.build is None:
            return (self.text,)
        with seeded(0):
            return (self.build(),)

    def fresh(self) -> nn.Module:
        """A new network.

        Raises:
            UserError: as `Model.loaded`.
        """
        if self.build is None:
            raise UserError(f"the architecture {self.text!r} is named but not found; only an evaluation finds it")
        return self.build()


class Shelf(Protocol):
    """Who knows what the texts mean, for one system: its image shape and its number of classes."""

    def model(self, text: str) -> System: ...
    def architecture(self, text: str) -> Callable[[], nn.Module]: ...


def bound(plugin: P, shelf: Shelf) -> P:
    """The plugin with every network that an option of it, or of a plugin inside it, names; one that is there stays.

    Raises:
        UserError: there is no such network, or it does not fit.
    """
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(plugin):  # type: ignore[arg-type]  # any dataclass instance
        value = getattr(plugin, item.name)
        if isinstance(value, Model) and value.system is None:
            changes[item.name] = replace(value, system=_mean([shelf.model(one) for one in specs.joined(value.text)]))
        elif isinstance(value, Architecture) and value.build is None:
            changes[item.name] = replace(value, build=shelf.architecture(value.text))
        elif item.init and dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = bound(value, shelf)
            changes |= {} if inner is value else {item.name: inner}
    return replace(plugin, **changes) if changes else plugin  # type: ignore[type-var]  # as above


def _mean(members: list[System]) -> System:
    if len(members) == 1:
        return members[0]
    return replace(members[0], model=Mean(members), name="+".join(member.name for member in members), notes={})


class Mean(nn.Module):
    """The mean of the logits of several systems (Dong et al. 2018, arXiv 1710.06081, sec. 3.3)."""

    def __init__(self, members: list[System]) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.model for member in members)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> logits (n, k)."""
        return torch.stack([member(x) for member in self.members]).mean(0)
