"""What counts of noisy answers prove: radii, certified accuracy, and what a smoothed classifier is worth without attack.

Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918, sec. 3.2. Every certificate is wrong with a chance of at most alpha, over
the noise that was drawn; the intervals of shares are about the test images.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from robustbench_lite.results.statistics import clopper_pearson, mcnemar_exact, share_at_least

#: what is counted of one image: `selected`, the class that n0 draws chose; `hits`, how many of n fresh draws agree; of the
#: fresh ones also the class that came most often, how often it came, and how often the next one
COUNTS = ("index", "label", "selected", "hits", "top", "top_hits", "next_hits")
#: and what follows: `p_low`, a lower bound of the chance of the selected class; `radius` (0: it abstains); whether a
#: certificate is there, and for the right class; the answer (-1: it abstains) and whether that is right
CERTIFICATES = (*COUNTS, "p_low", "radius", "certified", "correct", "answer", "right")
#: of a table of certified accuracies; `radius` is in L2, `linf` the same ball's inner cube
TABLE = ("radius", "linf", "certified", "n", "accuracy", "low", "high")


def radius(hits: int, n: int, alpha: float, sigma: float) -> float:
    """The L2 radius that is proved by `hits` of n draws for a class chosen by other draws; 0 where nothing is.

    sigma * Phi^-1(p), p the exact one-sided lower bound of the class's chance at confidence 1 - alpha; nothing is proved
    unless it is above 1/2.
    """
    low = share_at_least(hits, n, 1 - alpha)
    return sigma * float(special.ndtri(low)) if low > 0.5 else 0.0


def certificates(counts: pd.DataFrame, *, n: int, alpha: float, sigma: float) -> pd.DataFrame:
    """The counts (COUNTS) with what follows from them (CERTIFICATES).

    The answer is the paper's PREDICT: the class that came most often, unless a two-sided binomial test cannot tell it from
    the next one at level alpha.
    """
    rows = counts[list(COUNTS)].copy()
    low = [share_at_least(int(hits), n, 1 - alpha) for hits in rows["hits"]]
    rows["p_low"] = np.asarray(low, dtype=float)
    rows["radius"] = np.asarray([radius(int(hits), n, alpha, sigma) for hits in rows["hits"]], dtype=float)
    rows["certified"] = rows["p_low"] > 0.5
    rows["correct"] = rows["certified"] & (rows["selected"] == rows["label"])
    pairs = zip(rows["top_hits"], rows["next_hits"], strict=True)
    sure = np.asarray([mcnemar_exact(int(top), int(then)) <= alpha for top, then in pairs], dtype=bool)
    rows["answer"] = np.where(sure, rows["top"], -1)
    rows["right"] = rows["answer"] == rows["label"]
    return rows[list(CERTIFICATES)]


def certified_accuracy(rows: pd.DataFrame, radii: Sequence[float], dimensions: int) -> pd.DataFrame:
    """The share of all images that no perturbation shorter than r can take from their right class, for every r (TABLE).

    Args:
        rows: `certificates`. dimensions: numbers in an image.
    """
    n, found = len(rows), []
    for r in radii:
        k = int((rows["correct"] & (rows["radius"] >= r)).sum())
        share = k / n if n else math.nan
        found.append((float(r), float(r) / math.sqrt(dimensions), k, n, share, *clopper_pearson(k, n)))
    return pd.DataFrame(found, columns=list(TABLE))


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Of the smoothed classifier: accuracy and abstentions of its answers, abstentions of certificates, mean radius.

    The mean radius is over all images, 0 where the certificate is missing or for a wrong class (Zhai et al. 2020, arXiv
    2001.02378, "average certified radius").
    """
    n = max(len(rows), 1)
    return {
        "images": len(rows),
        "accuracy": float(rows["right"].sum()) / n,
        "answers_abstained": float((rows["answer"] < 0).sum()) / n,
        "certificates_abstained": float((~rows["certified"]).sum()) / n,
        "mean_radius": float((rows["radius"] * rows["correct"]).sum()) / n,
    }
