"""Latent arithmetic as figures: thickness, slant and width of real digits' codes, moved along their directions."""

from dataclasses import asdict

import torch
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import choose
from robustbench_lite.generators.base import Network
from robustbench_lite.generators.latent import ATTRIBUTES, arithmetic
from robustbench_lite.generators.quality.inversion import Codes
from robustbench_lite.generators.quality.judges import answers
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System

#: images whose encoded codes are looked at
IMAGES = 400
#: from this side on, an image shows something whose moments mean anything
_SIDE = 8
#: points that arithmetic needs
_LEAST = 12


def encoded(network: Network, data: Dataset, *, seed: int = 0) -> Codes:
    """The encoder's mean codes of up to 400 images of a split."""
    rows = choose(data, min(IMAGES, len(data)))
    device = network.device
    x, y = data.batch(rows).to(device), data.labels_at(rows).to(device)
    told = y if network.conditional else None
    with torch.no_grad():
        z = network.encode(x, told).mean
        errors = (network.decode(z, told) - x).pow(2).flatten(1).mean(1)
    return Codes(y=y, z=z, errors=errors, draws=Draws.for_images(seed, x, y))


def latent_figures(network: Network, codes: Codes, judge: System) -> dict[str, float]:
    """Of each attribute A: `A_change` along its direction, `A_random` along random ones, `A_kept` and `A_kept_random`.

    Changes are in standard deviations of the attribute, the others the shares whose class stays. Nothing where the images
    are not grey figures of 8 pixels and more, or the codes fewer than 12.
    """
    channels, *sides = network.shape
    if channels != 1 or min(sides) < _SIDE or len(codes) < _LEAST:
        return {}

    def classes(x: Tensor) -> Tensor:
        return answers(judge, x)

    figures: dict[str, float] = {}
    for name, attribute in ATTRIBUTES.items():
        found = asdict(arithmetic(network, codes.z, codes.y, attribute, classes, codes.draws))
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    return figures
