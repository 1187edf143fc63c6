"""The search for the weight c between distance and misclassification that `cw` and `lbfgs` share."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from robustbench_lite.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Weights(Rows):
    """The present c of n rows, and what is known of it; all (n,).

    Args:
        c: float64. low, high: float64, the largest that is known not to break, and the smallest that does.
        tried: int64, how many c were tried before.
    """

    c: Tensor
    low: Tensor
    high: Tensor
    tried: Tensor

    @classmethod
    def begin(cls, none: Tensor, c: float) -> Self:
        """The first c, for as many rows as there are zeros in `none` (n,) int64."""
        zero = none.double()
        return cls(c=zero + c, low=zero, high=zero + torch.inf, tried=none)

    def after(self, hit: Tensor) -> Self:
        """The next c, when this one broke the sample or not, (n,) bool: the middle, or 10 times as much."""
        low, high = torch.where(hit, self.low, self.c), torch.where(hit, self.c, self.high)
        c = torch.where(high < torch.inf, (low + high) / 2, 10 * self.c)
        return replace(self, c=c, low=low, high=high, tried=self.tried + 1)
