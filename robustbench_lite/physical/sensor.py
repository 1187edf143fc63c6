"""What happens to light on its way into a file, for a batch with one setting a row: blur, colour, noise, levels.

Everything is a sum or a product of elements in a fixed order, and what a vector unit may round in another way in another
batch (exponentials, powers) is computed in float64 and rounded to float32, so a row does not feel its neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.rows import along
from robustbench_lite.system import straight_through


def blur(x: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur, cut off at three standard deviations; the border goes on beyond the image.

    Args:
        x: (n, c, h, w). sigma: (n,) float64, in pixels; 0 leaves a row as it is.
        most: an upper bound of sigma that does not depend on the batch.
    """
    reach = max(1, int(3 * most + 0.999))
    steps = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * sigma[:, None].clamp(min=1e-3) ** 2))
    weights = torch.where(weights < 1e-9, 0.0, weights)  # what is no number to speak of slows every product down
    weights = (weights / row_sum(weights)[:, None]).to(x.dtype)
    padded = F.pad(x, (0, 0, reach, reach), mode="replicate")
    x = _weighted([padded[:, :, k : k + x.shape[2]] for k in range(2 * reach + 1)], weights)
    padded = F.pad(x, (reach, reach, 0, 0), mode="replicate")
    return _weighted([padded[..., k : k + x.shape[3]] for k in range(2 * reach + 1)], weights)


def _weighted(parts: list[Tensor], weights: Tensor) -> Tensor:
    """The sum of the parts (n, c, h, w), each times its column of weights (n, parts), one after the other."""
    total = parts[0] * along(weights[:, 0], parts[0])
    for number, part in enumerate(parts[1:], 1):
        total = total + part * along(weights[:, number], part)
    return total


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from mid-grey by a factor (n,), or towards it; a factor of 1 changes no bit."""
    factor = along(factor.to(x.dtype), x)
    return x * factor + 0.5 * (1 - factor)


def gamma(x: Tensor, exponent: Tensor) -> Tensor:
    """x to the power of (n,) exponents; an exponent of 1 changes no bit. Slopes near black are those at 1e-4."""
    bent = x.double().clamp(min=1e-4) ** along(exponent, x)
    bent = torch.where(x <= 0, 0.0, bent).to(x.dtype)
    return torch.where(along(exponent == 1, x), x, bent)


def levels(x: Tensor) -> Tensor:
    """The nearest of 256 levels, x in [0, 1]; its gradient is that of x (BPDA)."""
    return straight_through((x.detach() * 255).round() / 255, x)
