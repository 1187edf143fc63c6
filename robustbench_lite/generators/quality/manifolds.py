"""Are generated samples among the real ones, and are all real ones reached? By balls around each sample.

Precision and recall: Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2. Density and coverage: Naeem et al. 2020,
arXiv 2002.09797, eq. 5 and 6.
"""

import torch
from torch import Tensor

_BLOCK = 1000


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> dict[str, float]:
    """The shares `precision` of fakes inside a ball of a real sample, and `recall` of reals inside a ball of a fake.

    A ball reaches to the sample's third nearest of its own kind. One outlier makes a large ball: see `density_coverage`.

    Args:
        real, fake: features (n, d), (m, d), more rows than neighbours.
    """
    return {
        "precision": float((_held(fake, real, reach(real, neighbours)) > 0).double().mean()),
        "recall": float((_held(real, fake, reach(fake, neighbours)) > 0).double().mean()),
    }


def density_coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> dict[str, float]:
    """`density`, how many real balls hold a fake, over `neighbours`; `coverage`, the share of real balls that hold one.

    Both look at balls of real samples alone. The density is 1 in the mean where both are alike, and may be larger.

    Args:
        real, fake: features (n, d), (m, d), more rows of real ones than neighbours.
    """
    radii = reach(real, neighbours)
    nearest = torch.cat([_squares(part, fake).amin(1) for part in real.split(_BLOCK)])
    return {
        "density": float(_held(fake, real, radii).double().mean()) / neighbours,
        "coverage": float((nearest <= radii).double().mean()),
    }


def reach(rows: Tensor, neighbours: int) -> Tensor:
    """Squared distances (n,) to the k-th nearest other row."""
    found = []
    for at in range(0, len(rows), _BLOCK):
        squares = _squares(rows[at : at + _BLOCK], rows)
        squares[torch.arange(len(squares)), torch.arange(at, at + len(squares))] = float("inf")
        found.append(squares.kthvalue(neighbours, 1).values)
    return torch.cat(found)


def nearest(rows: Tensor, others: Tensor) -> Tensor:
    """Distances (n,) from rows (n, ...) to the nearest of the others (m, ...), in float32 so that many can be looked at."""
    columns = others.flatten(1).float()
    return torch.cat([_squares(part.flatten(1).float(), columns).amin(1) for part in rows.split(_BLOCK)]).sqrt()


def _held(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """How many of the balls hold each point, (n,)."""
    return torch.cat([(_squares(part, centres) <= radii).sum(1) for part in points.split(_BLOCK)])


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances of all pairs of rows, (n, m)."""
    products = (one**2).sum(1, keepdim=True) - 2 * one @ other.T + (other**2).sum(1)
    return products.clamp(min=0)
