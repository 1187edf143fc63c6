"""Checks of options that attacks share; each raises a `UserError` that says what is accepted."""

import math
from collections.abc import Sequence
from typing import get_args

from robustbench_lite.attack import Attack
from robustbench_lite.errors import UserError, nearest
from robustbench_lite.specs import option_types


def one_of(attack: Attack, option: str, accepted: Sequence[str]) -> None:
    """The option is one of these words."""
    given = getattr(attack, option)
    if given not in accepted:
        guess = nearest(str(given), accepted)
        also = f"; did you mean {guess}?" if guess else ""
        raise UserError(f"{attack.name}: {option}={given}; accepted: {', '.join(accepted)}{also}")


def at_least(attack: Attack, option: str, least: float) -> None:
    """The option is a finite number, not below this."""
    given = getattr(attack, option)
    if not least <= given < math.inf:
        raise UserError(f"{attack.name}: {option}={given:g}; accepted: {least:g} and more")


def positive(attack: Attack, option: str) -> None:
    """The option is a finite number above 0; or None, if its type has that."""
    given = getattr(attack, option)
    if given is not None and not 0 < given < math.inf:
        also = ", or none" if type(None) in get_args(option_types(type(attack))[option]) else ""
        raise UserError(f"{attack.name}: {option}={given:g}; accepted: more than 0{also}")


def between(attack: Attack, option: str, low: float, high: float) -> None:
    """The option is a number above the one and below the other."""
    given = getattr(attack, option)
    if not low < given < high:
        raise UserError(f"{attack.name}: {option}={given:g}; accepted: more than {low:g} and less than {high:g}")


def share(attack: Attack, option: str) -> None:
    """The option is a number from 0 to 1."""
    given = getattr(attack, option)
    if not 0 <= given <= 1:
        raise UserError(f"{attack.name}: {option}={given:g}; accepted: 0 to 1")
