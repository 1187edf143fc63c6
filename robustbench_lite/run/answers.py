"""Answers to the same images, set side by side: do they differ by more than rounding?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.rows import Rows
from robustbench_lite.system import Outputs

#: what rounding may do to scores, as a share of their size
_DUST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Answers(Rows):
    """What a system says of n images: scores (n, k), and by how much a detector's score is above its threshold (n,).

    `reject` is None without a detector.
    """

    scores: Tensor
    reject: Tensor | None = None

    @classmethod
    def of(cls, outputs: Outputs) -> "Answers":
        """Those of a system, cut off from their graph."""
        reject = None if outputs.reject is None else outputs.reject.detach()
        return cls(scores=outputs.scores.detach(), reject=reject)

    def apart(self, other: "Answers") -> Tensor:
        """How far the two answers to each image are apart, (n,) float64; infinite where only one of them is finite.

        Scores are measured by the spread of the image's scores, a detector's score by its range over the images. Where
        one of the two has no detector, scores alone are compared.
        """
        found = _apart(self.scores, other.scores, spread(self.scores)[:, None]).amax(1)
        if self.reject is None or other.reject is None:
            return found
        alarm = self.reject.double().nan_to_num(0.0, 0.0, 0.0)
        wide = torch.maximum(alarm.max() - alarm.min(), _DUST * alarm.abs().max())
        return torch.maximum(found, _apart(self.reject, other.reject, wide))


def spread(scores: Tensor) -> Tensor:
    """How far apart the finite scores of each row are, (n, k) -> (n,) float64; at least as far as in a row of the middle.

    It does not feel a constant that all logits share. A score that is alone finite is compared with zero.
    """
    scores = scores.double()
    high = scores.nan_to_num(-torch.inf, -torch.inf, -torch.inf).amax(1)
    low = scores.nan_to_num(torch.inf, torch.inf, torch.inf).amin(1)
    largest = scores.nan_to_num(0.0, 0.0, 0.0).abs().amax(1)
    high = torch.where(scores.isfinite().sum(1) > 1, high, low + largest)
    wide = torch.maximum((high - low).nan_to_num(0.0, 0.0, 0.0), _DUST * largest)
    return torch.maximum(wide, wide.median()) if len(wide) else wide


def _apart(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """|one - other| / scale, 0 where both are the same infinity or NaN, infinite where only one is."""
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    difference = (one - other).abs() / scale.clamp(min=1e-300)
    return difference.nan_to_num(torch.inf, torch.inf).masked_fill(same, 0)
