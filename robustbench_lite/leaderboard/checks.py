"""Checks as the gate sees them: those that count images are measurements, and may be above their limit by chance.

`doubling-breaks-more` fires at 3 images of 100. A system of which 2 in 100 would break if one tried for ever shows 3 or more
with every third attack seed, so that a gate which cries whenever a check fires anew cries without reason. Checks of another kind
(an example outside the ball, a gradient that is exactly zero) have nothing to do with chance.
"""

from scipy import special

from robustbench_lite.results.thresholds import THRESHOLDS

#: a share of the images that were looked at, with a limit above 0
SHARES = frozenset(
    {
        *("noise-beats-gradient", "black-box-beats-gradient", "transfer-beats-gradient", "one-step-beats-iterative"),
        *("plain-gradients-vanish", "loss-stands-still", "not-converged", "doubling-breaks-more"),
        *("denied-by-verdict", "order-dependent", "mode-dependent", "stateful", "detector-without-slope"),
    }
)
#: a number of images, with a limit above 0
COUNTS = frozenset({"not-monotone-in-eps"})


def counted(name: str) -> bool:
    """Whether a check counts images and forgives some of them, so that chance may lift it over its limit."""
    return name in SHARES or name in COUNTS


def images(name: str, value: float, n: int) -> float:
    """How many of the n images a check that counts has found."""
    return round(value * n) if name in SHARES else value


def chance(name: str, value: float, n: int) -> float:
    """How often a check that counts comes out so high where the truth is exactly its limit: the upper binomial tail.

    >>> round(chance("doubling-breaks-more", 0.03, 100), 2), round(chance("doubling-breaks-more", 0.12, 100), 6)
    (0.32, 1e-06)
    """
    rate = THRESHOLDS[name].limit / (n if name in COUNTS else 1)
    found = images(name, value, n)
    return float(special.bdtrc(found - 1, n, rate)) if found > 0 else 1.0
