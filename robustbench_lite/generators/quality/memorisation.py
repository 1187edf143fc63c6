"""Copies: are samples nearer to the training images than new real ones are, and how soon do two of them coincide?"""

import torch
from torch import Tensor

from robustbench_lite.generators.quality.manifolds import nearest

#: two images are as good as the same where they are nearer than all but this share of new real images to training images
_SAME = 0.01


def copy_figures(samples: Tensor, train: Tensor, unseen: Tensor) -> dict[str, float]:
    """`nearest_train`, `nearest_train_real`: median distances of samples and of unseen real images to the training images.

    `memorised` is the share of samples nearer to a training image than 99 % of the unseen real images are: 0.01 is what
    new images have. Blurred images lie near to everything, so read it beside `recall`.

    Args:
        samples, train: (n, c, h, w), (m, c, h, w); `train` is all that the generator has seen.
        unseen: (k,), the distances of unseen real images to the nearest training image, L2 over the pixels.
    """
    own = nearest(samples, train)
    return {
        "nearest_train": float(own.median()),
        "nearest_train_real": float(unseen.median()),
        "memorised": float((own <= same_distance(unseen)).double().mean()),
    }


def same_distance(unseen: Tensor) -> float:
    """The distance up to which two images count as duplicates; `unseen` as in `copy_figures`."""
    return float(unseen.quantile(_SAME))


def support(samples: Tensor, closer_than: float) -> float:
    """How many different images a generator has, from how often two samples coincide (Arora 2017, arXiv 1706.08224).

    Two of n equally likely images are the same with chance 1/n, so the pairs are divided by the duplicates among them.
    Without any the figure is the number of pairs, a lower bound; with unequal chances it is the smaller effective number.

    Args:
        samples: (n, c, h, w). closer_than: the L2 distance up to which two of them are the same.
    """
    rows = samples.flatten(1).double()
    pairs = len(rows) * (len(rows) - 1) // 2
    return pairs / max(int((torch.pdist(rows) <= closer_than).sum()), 1)
