"""How far generated images lie from real ones, by the features of a classifier: Fréchet distance, kernel distance, score.

The features are those of this project's own classifiers, not of Inception, so the figures compare with each other and
never with a published FID, KID or Inception score.
"""

import torch
from torch import Tensor

_BLOCK = 1000


def frechet(one: Tensor, other: Tensor) -> float:
    """The Fréchet distance of the Gaussians with the features' means and covariances (Heusel 2017, arXiv 1706.08500).

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)). It is too large by a term of order 1/n: compare it at one n alone, and
    take n of five times the features and more.

    Args:
        one, other: (n, d), (m, d).
    """
    (mean, root), (other_mean, other_root) = _moments(one), _moments(other)
    # The singular values of S1^(1/2) S2^(1/2) are the roots of the eigenvalues of S1 S2, without the rounding errors of
    # size sqrt(1e-16) that a root of an eigenvalue near 0 has.
    shared = torch.linalg.svdvals(root @ other_root).sum()
    traces = root.pow(2).sum() + other_root.pow(2).sum()
    return max(0.0, float((mean - other_mean).pow(2).sum() + traces - 2 * shared))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,), and the symmetric root of the covariance (d, d), in float64."""
    rows = features.double()
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(rows) - 1, 1))
    return mean, vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """The squared maximum mean discrepancy under (a.b / d + 1)^3, without bias (KID: Bińkowski 2018, arXiv 1801.01401).

    It is 0 in the mean for two samples of one distribution, at any n, and so may be a little below.

    Args:
        one, other: (n, d), (m, d), two rows and more.
    """
    n, m = len(one), len(other)
    within = (_kernels(one, one) - _diagonal(one)) / (n * (n - 1))
    other_within = (_kernels(other, other) - _diagonal(other)) / (m * (m - 1))
    return within + other_within - 2 * _kernels(one, other) / (n * m)


def _kernels(one: Tensor, other: Tensor) -> float:
    """The sum of the kernel over all pairs, block by block."""
    wide, columns = one.shape[1], other.double().T
    return sum(float((part.double() @ columns / wide + 1).pow(3).sum()) for part in one.split(_BLOCK))


def _diagonal(rows: Tensor) -> float:
    return float((rows.double().pow(2).sum(1) / rows.shape[1] + 1).pow(3).sum())


def classifier_score(chances: Tensor) -> float:
    """exp of the mean divergence of p(y|x) from p(y), 1 to classes (Salimans 2016, arXiv 1606.03498, sec. 4).

    High where every answer is sure and all classes come equally often; it does not see copies within a class.

    Args:
        chances: (n, classes), rows sum to 1.
    """
    rows = chances.double()
    whole = rows.mean(0)
    return float((torch.special.xlogy(rows, rows) - torch.special.xlogy(rows, whole)).sum(1).mean().exp())
