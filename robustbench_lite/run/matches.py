"""How often answers agree with labels by chance alone."""

import math

import numpy as np
from scipy import special

#: above so many images the normal distribution does
EXACT = 300


def as_many_by_chance(answers: np.ndarray, labels: np.ndarray, right: int) -> float:
    """The chance that these answers, in a random order, agree with at least `right` of the labels.

    Exact for few images: the factorial moments of the number of agreements are rook numbers of the table of answers by
    labels (Riordan 1958, An introduction to combinatorial analysis, ch. 7). Answers that are all the same agree as often in
    any order, so their chance is 1.

    Args:
        answers, labels: (n,) classes from 0.

    Examples:
        >>> as_many_by_chance(np.array([0, 1]), np.array([0, 1]), 2)
        0.5
        >>> as_many_by_chance(np.array([1, 1, 1]), np.array([1, 1, 0]), 2)
        1.0
    """
    n, size = len(labels), int(max(answers.max(), labels.max())) + 1
    given, true = np.bincount(answers, minlength=size), np.bincount(labels, minlength=size)
    if right < 1:
        return 1.0
    if n > EXACT:
        return _nearly(given.astype(float), true.astype(float), n, right)
    rooks = [1]
    for a, b in zip(given.tolist(), true.tolist(), strict=True):
        part = [math.comb(a, t) * math.comb(b, t) * math.factorial(t) for t in range(min(a, b) + 1)]
        rooks = [
            sum(rooks[i] * part[j - i] for i in range(max(0, j - len(part) + 1), min(j, len(rooks) - 1) + 1))
            for j in range(len(rooks) + len(part) - 1)
        ]
    ways = sum(
        (-1) ** (j - right) * math.comb(j - 1, right - 1) * rook * math.factorial(n - j)
        for j, rook in enumerate(rooks)
        if j >= right
    )
    return ways / math.factorial(n)


def _nearly(given: np.ndarray, true: np.ndarray, n: int, right: int) -> float:
    """The same by mean and variance."""
    both = given * true
    mean = both.sum() / n
    pairs = both.sum() ** 2 - (both**2).sum() + (given * (given - 1) * true * (true - 1)).sum()
    variance = max(pairs / (n * (n - 1)) + mean - mean**2, 0.0)
    if variance < 1e-9:
        return float(right <= mean + 1e-9)
    return float(special.ndtr((mean + 0.5 - right) / math.sqrt(variance)))
