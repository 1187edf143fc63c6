"""Detectors that look at the classifier's answers alone: how sure it is, and whether a squeezed image changes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.defenses.detectors import DetectorDefense, Fitted
from robustbench_lite.defenses.transformations import BitDepth, Median
from robustbench_lite.errors import UserError
from robustbench_lite.system import System, straight_through


@dataclass(frozen=True, kw_only=True)
class SoftmaxThreshold(DetectorDefense):
    """Reject answers that the classifier is not sure of.

    The score is ln((1 - p) / p) of the largest probability p: ordered as 1 - p, and free of its saturation. Most attacks
    at a fixed eps end far beyond the boundary, where wrong answers are surer than right ones ever were; whoever knows the
    threshold climbs a little further.

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
    """

    name: ClassVar[str] = "softmax-threshold"
    source: ClassVar[str] = (
        "Hendrycks and Gimpel 2017, A baseline for detecting misclassified and out-of-distribution examples, arXiv 1610.02136"
    )

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """Of the logits."""
        return Doubt(system.model)


class Doubt(nn.Module):
    """Images to ln((1 - p) / p), (n,), p the largest probability."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n,)."""
        ranked = self.model(x).double().sort(dim=1, descending=True).values
        return torch.logsumexp(ranked[:, 1:], 1) - ranked[:, 0]


@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing(DetectorDefense):
    """Reject images whose probabilities change when they are squeezed: rounded to fewer bits, or smoothed.

    The score is the largest L1 distance between the probabilities of the image and of its squeezed versions, 0 to 2. The
    paper's third squeezer, non-local means, is left out. Rounding has no gradient, so the adaptive adversary takes the
    identity's (BPDA). An example that is wrong with confidence stays wrong when squeezed.

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
        bits: of the rounded version; left out, 1 for grey images and 5 for others, the paper's.
        window: side of the median's window, in pixels; 1 leaves the median out.
    """

    name: ClassVar[str] = "feature-squeezing"
    source: ClassVar[str] = (
        "Xu, Evans and Qi 2018, Feature squeezing, arXiv 1704.01155; broken: He et al. 2017, arXiv 1706.04701"
    )
    bits: int | None = None
    window: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise UserError(f"feature-squeezing: bits={self.bits}; accepted: 1 to 8, or none")
        if not 1 <= self.window <= 15:
            raise UserError(f"feature-squeezing: window={self.window}; accepted: 1 to 15")

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """Over the squeezers."""
        rounded = BitDepth(bits=self.bits or (1 if system.input_shape[0] == 1 else 5))
        squeezers: list[Callable[[Tensor], Tensor]] = [lambda x: straight_through(rounded.transform(x), x)]
        if self.window > 1:
            squeezers.append(Median(size=self.window).transform)
        return Disagreement(system.model, squeezers)


class Disagreement(nn.Module):
    """Images to the largest L1 distance between their probabilities and those of a squeezed version, (n,)."""

    def __init__(self, model: nn.Module, squeezers: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.model, self.squeezers = model, squeezers

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n,)."""
        said = self._probabilities(x)
        moved = [(said - self._probabilities(squeezer(x))).abs().sum(1) for squeezer in self.squeezers]
        return torch.stack(moved).amax(0)

    def _probabilities(self, x: Tensor) -> Tensor:
        return self.model(x).double().softmax(1)
