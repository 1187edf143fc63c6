"""Checks of options that attacks share; each raises a `UserError` that says what is accepted."""

import math
from collections.abc import Sequence

from robustbench_lite.attack import Attack
from robustbench_lite.errors import UserError, nearest


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
    """The option is a finite number above 0, or None."""
    given = getattr(attack, option)
    if given is not None and not 0 < given < math.inf:
        raise UserError(f"{attack.name}: {option}={given:g}; accepted: more than 0, or none")
