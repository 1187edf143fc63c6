"""How step sizes shrink; of each row by its own count of steps."""

import math

import torch
from torch import Tensor


def cosine(k: Tensor, steps: int, first: float, last: float) -> Tensor:
    """From `first` at step 0 to `last` at step `steps` along half a cosine: k (n,) int64 -> (n,) float64."""
    # Rounded to float32: the last bit of a cosine, which may differ with the place in memory, is gone then.
    swing = torch.cos(k.double() * (math.pi / steps)).float().double()
    return last + (first - last) * (1 + swing) / 2
