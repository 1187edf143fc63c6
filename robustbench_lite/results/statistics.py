"""Exact intervals and paired tests for shares of test images.

Everything here is about the test images that were drawn, never about another training of the same defense: a second
training seed can move a robust accuracy by more than these intervals are wide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share: k of n (Clopper and Pearson 1934, Biometrika 26).

    Conservative: it covers at least as often as it says. With n = 0 nothing is known, and it is (0, 1).

    Examples:
        >>> low, high = clopper_pearson(0, 100)
        >>> low, round(high, 4)  # 1 - 0.025 ** (1 / 100)
        (0.0, 0.0362)

    Raises:
        ValueError: k is not between 0 and n, or the confidence not between 0 and 1.
    """
    _check(k, n, confidence)
    tail = (1 - confidence) / 2
    return share_at_least(k, n, 1 - tail), share_at_most(k, n, 1 - tail)


def share_at_least(k: int, n: int, confidence: float = 0.95) -> float:
    """Exact one-sided lower bound of a share: k of n."""
    _check(k, n, confidence)
    return 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, 1 - confidence))


def share_at_most(k: int, n: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of a share: k of n."""
    _check(k, n, confidence)
    return 1.0 if k == n else float(special.betaincinv(k + 1, n - k, confidence))


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927, JASA 22): covers on average, so it is for plots and not for claims.

    Raises:
        ValueError: as `clopper_pearson`.
    """
    _check(k, n, confidence)
    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri(1 - (1 - confidence) / 2))
    share, shrink = k / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives the end itself up to rounding.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of b against c discordant pairs (McNemar 1947, Psychometrika 12; exact binomial form).

    Examples:
        >>> mcnemar_exact(6, 0)  # twice the chance of six heads
        0.03125

    Raises:
        ValueError: a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts of discordant pairs cannot be negative: {b}, {c}")
    if b == c:  # includes b + c = 0; twice the tail would be above 1
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(b, c), b + c, 0.5)))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two systems (or two attacks) on the same images: who keeps which images that the other loses."""

    n: int
    only_first: int
    only_second: int
    p: float

    @property
    def difference(self) -> float:
        """Share of the first minus share of the second; NaN without images."""
        return (self.only_first - self.only_second) / self.n if self.n else math.nan


def mcnemar(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare two boolean arrays (n,) of the same images in the same order, by the exact McNemar test.

    Raises:
        ValueError: the arrays differ in shape.
    """
    a, b = _aligned(first, second)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return Paired(n=len(a), only_first=only_a, only_second=only_b, p=mcnemar_exact(only_a, only_b))


def claimed_minus_actual(claimed: ArrayLike, actual: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The difference of two paired shares, and its one-sided lower bound: "at least so much of the claim is not there".

    Method: the counts of the two kinds of discordant pair are each binomial in n, so an exact lower bound of the one
    minus an exact upper bound of the other, each at half the error, holds at least as often as `confidence` says
    (Bonferroni). Conditioning on the number of discordant pairs would give a larger bound that does not: it takes the
    rate of discordance for known.

    Args:
        claimed, actual: booleans (n,), the same images in the same order.
        confidence: how often the bound holds, at the least.

    Returns:
        claimed share minus actual share, and the bound in [-1, 1]; (NaN, -1) without images.

    Raises:
        ValueError: the arrays differ in shape.
    """
    pair = mcnemar(claimed, actual)
    if pair.n == 0:
        return math.nan, -1.0
    each = 1 - (1 - confidence) / 2
    gone = share_at_least(pair.only_first, pair.n, each)
    won = share_at_most(pair.only_second, pair.n, each)
    return pair.difference, gone - won


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Step-down correction of several p-values (Holm 1979, Scand. J. Statist. 6); a NaN stays and is not counted.

    Examples:
        >>> holm([0.01, 0.5, math.nan])
        (0.02, 0.5, nan)
    """
    p = np.asarray(p_values, dtype=float)
    order = [int(place) for place in np.argsort(p) if not math.isnan(p[place])]
    adjusted, running = np.full(len(p), math.nan), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * float(p[place])))
        adjusted[place] = running
    return tuple(float(value) for value in adjusted)


def _aligned(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired arrays need one shape (n,): {a.shape} and {b.shape}")
    return a, b


def _check(k: int, n: int, confidence: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
