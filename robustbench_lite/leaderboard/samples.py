"""Which samples are left, as text: a hexadecimal digit for four of them."""

import re

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import UserError


def packed(left: NDArray[np.bool_]) -> str:
    """(n,) booleans as ceil(n / 4) hexadecimal digits, the first sample in the highest bit.

    >>> import numpy as np
    >>> packed(np.array([True, False, False, False, True]))
    '88'
    """
    padded = np.zeros(-(-len(left) // 4) * 4, dtype=bool)
    padded[: len(left)] = left
    return "".join(f"{int(''.join('1' if bit else '0' for bit in four), 2):x}" for four in padded.reshape(-1, 4))


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """What `packed` was given.

    Raises:
        UserError: the text is not of n samples.
    """
    if not fits(text, n):
        raise UserError(f"{text[:20]!r} is not the text of {n} samples; build the leaderboard again")
    bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    return np.array([bit == "1" for bit in bits[:n]], dtype=bool)


def fits(text: str, n: int) -> bool:
    """Whether a text is that of n samples: as many digits, and no bit beyond them."""
    spare = -n % 4
    digits = len(text) == -(-n // 4) and re.fullmatch("[0-9a-f]*", text) is not None
    return digits and (not text or int(text[-1], 16) % (1 << spare) == 0)
