"""Checks of options that plugins share; each raises a `UserError` that says what is accepted."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, get_args

from robustbench_lite.errors import UserError, nearest
from robustbench_lite.specs import option_types


class Plugin(Protocol):
    """An attack or a defense, a dataclass of its options."""

    @property
    def name(self) -> Any: ...


def one_of(plugin: Plugin, option: str, accepted: Sequence[str]) -> None:
    """The option is one of these words."""
    given = getattr(plugin, option)
    if given not in accepted:
        guess = nearest(str(given), accepted)
        also = f"; did you mean {guess}?" if guess else ""
        raise UserError(f"{plugin.name}: {option}={given}; accepted: {', '.join(accepted)}{also}")


def at_least(plugin: Plugin, option: str, least: float) -> None:
    """The option is a finite number, not below this."""
    given = getattr(plugin, option)
    if not least <= given < math.inf:
        raise UserError(f"{plugin.name}: {option}={given:g}; accepted: {least:g} and more")


def positive(plugin: Plugin, option: str) -> None:
    """The option is a finite number above 0; or None, if its type has that."""
    given = getattr(plugin, option)
    if given is not None and not 0 < given < math.inf:
        also = ", or none" if type(None) in get_args(option_types(type(plugin))[option]) else ""
        raise UserError(f"{plugin.name}: {option}={given:g}; accepted: more than 0{also}")


def between(plugin: Plugin, option: str, low: float, high: float) -> None:
    """The option is a number above the one and below the other."""
    given = getattr(plugin, option)
    if not low < given < high:
        raise UserError(f"{plugin.name}: {option}={given:g}; accepted: more than {low:g} and less than {high:g}")


def share(plugin: Plugin, option: str) -> None:
    """The option is a number from 0 to 1."""
    given = getattr(plugin, option)
    if not 0 <= given <= 1:
        raise UserError(f"{plugin.name}: {option}={given:g}; accepted: 0 to 1")
