"""Which samples are left, as text: a hexadecimal digit for four of them."""

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
    digits = -(-n // 4)
    try:
        bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    except ValueError:
        bits = ""
    if len(text) != digits or len(bits) != 4 * digits or "1" in bits[n:]:
        raise UserError(f"{text[:20]!r} is not the text of {n} samples; build the leaderboard again")
    return np.array([bit == "1" for bit in bits[:n]], dtype=bool)
