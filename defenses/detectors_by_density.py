"""A detector that asks how many training images of the predicted class lie near."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.options import positive
from robustbench_lite.defenses.activations import listen
from robustbench_lite.defenses.detectors import Bench, DetectorDefense, Fitted, squares
from robustbench_lite.defenses.detectors_by_neighbours import units_of
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: bandwidths that are tried, as multiples of the typical distance between neighbours
_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: what a point is worth that no training image supports
_FAR = 1e6


@dataclass(frozen=True, kw_only=True)
class KernelDensity(DetectorDefense):
    """Reject where training images of the predicted class are sparse in the last hidden layer.

    The score is minus the logarithm of a Gaussian kernel density over the activations of the training images of that
    class; the bandwidth is the likeliest of a few, each image left out in turn.

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
        bandwidth: of the kernel; left out, chosen by likelihood.
    """

    name: ClassVar[str] = "kde"
    source: ClassVar[str] = (
        "Feinman, Curtin, Shintre and Gardner 2017, Detecting adversarial samples from artifacts, arXiv 1703.00410, sec. "
        "3.1; broken: Carlini and Wagner 2017, arXiv 1705.07263"
    )
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "bandwidth")

    def fit(self, bench: Bench, threat: Threat | None) -> Fitted:
        """Activations, their labels and the bandwidth."""
        (units,) = units_of(bench, 1)
        width = _width(units, bench.y) if self.bandwidth is None else self.bandwidth
        return {"units": units, "labels": bench.y, "width": torch.tensor(width, dtype=torch.float64)}

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """Of the last activation and the answer."""
        return Sparsity(system.model, fitted)


class Sparsity(nn.Module):
    """Images to minus the log-density of their activations in the predicted class, (n,)."""

    units: Tensor
    labels: Tensor
    width: Tensor

    def __init__(self, model: nn.Module, fitted: Fitted) -> None:
        super().__init__()
        self.model = model
        for name in ("units", "labels", "width"):
            self.register_buffer(name, fitted[name].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n,)."""
        scores, (layer,) = listen(self.model, x, 1)
        other = scores.argmax(1)[:, None] != self.labels
        powers = -squares(layer.pooled().double(), self.units) / (2 * self.width**2)
        count = (~other).sum(1).clamp(min=1).double()
        density = torch.logsumexp(powers.masked_fill(other, -_FAR), 1) - count.log()
        return -density.clamp(min=-_FAR)


def _width(units: Tensor, labels: Tensor) -> float:
    """The bandwidth with the largest leave-one-out likelihood within classes, of multiples of the usual distance."""
    apart_by = squares(units, units)
    apart = (labels[:, None] != labels) | torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    alone = apart.all(1)
    nearest = apart_by.masked_fill(apart, torch.inf).amin(1)[~alone]
    usual = math.sqrt(float(nearest.median())) if len(nearest) else 1.0
    usual = usual or 1.0

    def likelihood(width: float) -> float:
        powers = (-apart_by / (2 * width**2)).masked_fill(apart, -torch.inf)[~alone]
        return float(torch.logsumexp(powers, 1).mean()) - units.shape[1] * math.log(width)

    return max((factor * usual for factor in _WIDTHS), key=likelihood)
