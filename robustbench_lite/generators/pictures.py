"""What a generator can be seen by: rows of images with a name each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import in_blocks
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.generators.base import Trained
from robustbench_lite.generators.latent import ATTRIBUTES, direction, interpolate, traverse
from robustbench_lite.randomness import Draws

#: images in a row, rows of a sheet, and images whose codes are looked at
_ACROSS, _DOWN, _READ = 10, 6, 500
Row = tuple[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Sitter:
    """A generator and the images that it is seen beside.

    Args:
        train, test: the splits of its data. seed: of the latent points.
    """

    trained: Trained
    train: Dataset
    test: Dataset
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.trained.network.device

    def draws(self, count: int) -> Draws:
        """Streams for so many samples."""
        return Draws.numbered(self.seed, range(count), self.device)

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """The first test images and their labels."""
        rows = range(min(count, len(self.test)))
        return self.test.batch(rows).to(self.device), self.test.labels_at(rows).to(self.device)

    def samples(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Samples; of a conditional generator the classes in turn."""
        network = self.trained.network
        y = torch.arange(count, device=self.device) % network.num_classes if network.conditional else None
        return self.trained.sample(self.draws(count), y), y


def samples(sitter: Sitter) -> list[Row]:
    """Samples, row by row; of a conditional generator a class a column, as far as there is room."""
    across = min(sitter.trained.network.num_classes or _ACROSS, _ACROSS)
    images, _ = sitter.samples(across * _DOWN)
    return [("samples" if not row else "", images[row * across : (row + 1) * across]) for row in range(_DOWN)]


def reconstructions(sitter: Sitter) -> list[Row]:
    """Test images, and what the network brings back of them."""
    x, y = sitter.some(_ACROSS)
    back = sitter.trained.network.reconstruct(x, y)
    return [("test images", x), ("reconstructed", back), ("difference", (back - x).abs())]


def interpolation(sitter: Sitter) -> list[Row]:
    """From one latent point to another along the sphere: codes of test images, or points of the prior."""
    z, y = _ends(sitter, 2 * _DOWN)
    between = interpolate(z[::2], z[1::2])
    return [
        ("interpolated" if not row else "", sitter.trained.network.decode(points, _same(y, 2 * row, len(points))))
        for row, points in enumerate(between)
    ]


def traversal(sitter: Sitter) -> list[Row]:
    """One coordinate of a latent point at a time from -3 to 3: those that change the image most."""
    z, y = _ends(sitter, 1)
    network = sitter.trained.network
    found = []
    for coordinate in range(min(network.latent, 64)):
        images = network.decode(traverse(z, coordinate)[0], _same(y, 0, 9))
        found.append((float(images.std(0).mean()), coordinate, images))
    best = sorted(found, key=lambda entry: -entry[0])[:_DOWN]
    return [(f"coordinate {coordinate}", images) for _, coordinate, images in best]


def arithmetic(sitter: Sitter) -> list[Row]:
    """Test images with the direction of an attribute taken off and added, a row an attribute."""
    network = sitter.trained.network
    x, y = sitter.some(_READ)
    z = network.encode(x, y).mean
    found = []
    for name, attribute in ATTRIBUTES.items():
        values = attribute(x)
        step = direction(z, values > values.median())
        points = z[:1] + torch.linspace(-2, 2, 9, device=z.device)[:, None] * step
        found.append((name, network.decode(points, _same(y, 0, 9))))
    return found


def neighbours(sitter: Sitter) -> list[Row]:
    """Samples, and below each the training image that is nearest to it: has it been learned by heart?"""
    images, _ = sitter.samples(_ACROSS)
    nearest, least = torch.zeros_like(images), torch.full((len(images),), torch.inf, device=images.device)
    for x in in_blocks(sitter.train):
        block = x.to(images.device)
        distance, place = torch.cdist(images.flatten(1), block.flatten(1)).min(1)
        closer = distance < least
        nearest[closer], least = block[place[closer]], torch.minimum(least, distance)
    return [("samples", images), ("nearest training image", nearest)]


#: by name: the sheet, and whether the generator at hand can have it
SHEETS: dict[str, tuple[Callable[[Sitter], list[Row]], Callable[[Sitter], bool]]] = {
    "samples": (samples, lambda sitter: sitter.trained.density != "none"),
    "reconstructions": (reconstructions, lambda sitter: sitter.trained.network.encodes),
    "interpolation": (interpolation, lambda sitter: True),
    "traversal": (traversal, lambda sitter: True),
    "arithmetic": (
        arithmetic,
        lambda sitter: sitter.trained.network.encodes and sitter.test.shape[0] == 1 and min(sitter.test.shape[1:]) >= 8,
    ),
    "neighbours": (neighbours, lambda sitter: sitter.trained.density != "none"),
}


@torch.no_grad()
def sheet(name: str, sitter: Sitter) -> list[Row]:
    """The rows of one sheet, on the CPU.

    Raises:
        UserError: no such sheet, or one that this generator cannot have.
    """
    if name not in SHEETS:
        raise unknown("sheet", name, SHEETS)
    make, fits = SHEETS[name]
    if not fits(sitter):
        raise UserError(f"{sitter.trained.name} has no {name}; accepted for it: {', '.join(possible(sitter))}")
    return [(label, images.clamp(0, 1).cpu()) for label, images in make(sitter)]


def possible(sitter: Sitter) -> list[str]:
    """The sheets that this generator can have."""
    return [name for name, (_, fits) in SHEETS.items() if fits(sitter)]


def _ends(sitter: Sitter, count: int) -> tuple[Tensor, Tensor | None]:
    """Latent points to start from: codes of test images where there is an encoder, else of the prior."""
    network = sitter.trained.network
    if network.encodes:
        x, y = sitter.some(count)
        return network.encode(x, y).mean, y if network.conditional else None
    pairs = torch.arange(count, device=sitter.device) // 2 % max(network.num_classes, 1)
    return network.prior(sitter.draws(count)), pairs if network.conditional else None


def _same(y: Tensor | None, row: int, count: int) -> Tensor | None:
    return None if y is None else y[row].expand(count)
