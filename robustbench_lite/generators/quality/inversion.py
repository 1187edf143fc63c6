"""How near a generator can come to real images: inference via optimisation (Metz et al. 2017, arXiv 1611.02163, sec. 3.4)."""

import math
from dataclasses import dataclass

from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import choose
from robustbench_lite.generators.base import Network
from robustbench_lite.generators.inversion import invert
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Codes(Rows):
    """Real images and their latent points.

    Args:
        y: (n,) labels. z: (n, latent). errors: (n,), the mean squared errors of the points' images over the pixels.
        draws: the images' random streams.
    """

    y: Tensor
    z: Tensor
    errors: Tensor
    draws: Draws


def inverted(
    network: Network, data: Dataset, images: int, *, seed: int = 0, restarts: int = 5, steps: int = 500
) -> Codes:
    """The latent points nearest to `images` of a split (all classes as evenly as they allow, at most all), by Adam."""
    rows = choose(data, min(images, len(data)))
    device = network.device
    x, y = data.batch(rows).to(device), data.labels_at(rows).to(device)
    draws = Draws.for_images(seed, x, y)
    z, errors = invert(network, x, y, draws, restarts=restarts, steps=steps)
    return Codes(y=y, z=z, errors=errors, draws=draws)


def inversion_figures(held: Codes, seen: Codes) -> dict[str, float]:
    """`ivom`, the mean error of held-out images, `ivom_train` of training images, and their standard errors `_se`.

    A generator that has lost a mode cannot come near to its images; one that has memorised comes nearer to the training
    images. A large latent space comes near to anything: compare generators with latents of one size.
    """
    figures = {}
    for name, codes in (("ivom", held), ("ivom_train", seen)):
        errors = codes.errors.double()
        figures[name] = float(errors.mean())
        figures[f"{name}_se"] = float(errors.std()) / math.sqrt(len(errors)) if len(errors) > 1 else 0.0
    return figures
