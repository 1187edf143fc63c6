"""Random shifts and mirror images, drawn from each sample's own streams."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.randomness import Draws


def moved(x: Tensor, draws: Draws, crop: int, flip: bool) -> Tensor:
    """x (n, c, h, w), each image shifted by up to `crop` pixels both ways (black comes in), every other mirrored."""
    if flip:
        mirrored = draws.uniform((1,), "flip").view(-1, 1, 1, 1) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
    if not crop:
        return x
    height, width = x.shape[2:]
    corner = draws.integers(2 * crop + 1, (2,), "crop")
    rows = (corner[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (corner[:, 1:] + torch.arange(width))[:, None, None, :]
    padded = F.pad(x, (crop, crop, crop, crop))
    samples = torch.arange(len(x))[:, None, None, None]
    channels = torch.arange(x.shape[1])[None, :, None, None]
    return padded[samples, channels, rows, columns]
