"""LAPGAN: an ordinary GAN for the smallest image of a Laplacian pyramid, and a conditional one for every band above it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import in_blocks
from robustbench_lite.errors import UserError
from robustbench_lite.generators import pyramid
from robustbench_lite.generators.autoencoders import check_width
from robustbench_lite.generators.base import Density, Generator, Network, Play, Shape
from robustbench_lite.generators.gan import (
    GAN,
    Adversarial,
    AdversarialNetwork,
    discriminator_loss,
    generator_loss,
    pack,
    spread_of_samples,
)
from robustbench_lite.generators.networks import frozen
from robustbench_lite.training import Batch, Moment, Recipe

#: numbers in z of the coarsest GAN, and units of the smaller hidden layer of its two networks
_LATENT, _HIDDEN, _JUDGING = 16, 128, 512
#: half the images are hidden from a band's discriminator's dense layer, as published
_DROPOUT = 0.5


class BandPainter(nn.Module):
    """A plane of noise (n, 1, h, w), a smooth image (n, c, h, w) and labels (n, k) -> the band above it, -1 to 1."""

    def __init__(self, channels: int, labels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels + 1 + labels, width, 7, padding=3), nn.ReLU(),
            nn.Conv2d(width, width, 7, padding=3), nn.ReLU(),
            nn.Conv2d(width, channels, 5, padding=2), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor, smooth: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the class."""
        return cast(Tensor, self.body(torch.cat((2 * smooth - 1, noise, *_maps(labels, smooth)), 1)))


class BandReader(nn.Module):
    """The image that a band and a smooth image give together, and the smooth one -> a logit (n,): is the band real?

    Args:
        channels, size: of an image. labels: k. packing: how many are judged together.
    """

    def __init__(self, channels: int, size: tuple[int, int], labels: int, width: int, packing: int) -> None:
        super().__init__()
        self.packing = packing
        height, breadth = (size[0] + 1) // 2, (size[1] + 1) // 2
        self.body = nn.Sequential(
            nn.Conv2d(packing * (2 * channels + labels), width, 5, padding=2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 5, stride=2, padding=2), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Dropout(_DROPOUT), nn.Linear(width * height * breadth, 1),
        )  # fmt: skip

    def forward(self, band: Tensor, smooth: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the class."""
        seen = torch.cat((2 * (smooth + band) - 1, 2 * smooth - 1, *_maps(labels, smooth)), 1)
        return cast(Tensor, self.body(pack(seen, self.packing)).squeeze(1))


class CoarsestNetwork(AdversarialNetwork):
    """The GAN of the smallest images, whose discriminator sees them centred and scaled.

    They are dark and of little contrast: as they are, what they have in common drowns what they differ by, and the
    discriminator stays at chance.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, num_classes: int, packing: int) -> None:
        super().__init__("mlp", shape, _LATENT, num_classes, (_HIDDEN, _JUDGING), packing, norm=True)
        self.register_buffer("centre", torch.tensor(0.5))
        self.register_buffer("scale", torch.tensor(0.5))

    def judge(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.judge`."""
        # The reader takes [0, 1] to [-1, 1]; what it sees here has a mean of 0 and a spread of 1.
        return super().judge(((x - self.centre) / self.scale + 1) / 2, y)


class PyramidNetwork(Network):
    """A GAN for the coarsest image, a painter and a reader for each band.

    z holds the coarsest GAN's numbers and then a plane of noise a band, the finest first.
    """

    def __init__(self, shape: Shape, num_classes: int, levels: int, width: int, packing: int) -> None:
        self.sizes = pyramid.sizes(shape[1:], levels)
        super().__init__(shape, num_classes, _LATENT + sum(map(prod, self.sizes[:-1])))
        small = (shape[0], *self.sizes[-1])
        self.levels, self.packing = levels, packing
        self.coarsest = CoarsestNetwork(small, num_classes, packing)
        self.painters = nn.ModuleList(BandPainter(shape[0], num_classes, width) for _ in range(levels))
        self.readers = nn.ModuleList(
            BandReader(shape[0], size, num_classes, width, packing) for size in self.sizes[:-1]
        )

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.decode`; from the coarsest image up."""
        return self.risen(self.coarsest.decode(z[:, :_LATENT], y), z, y, self.levels)

    def completed(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """See `Network.completed`: in sampling a level gets made images, in training real ones; this tells what that costs."""
        found = {}
        for level in range(1, self.levels + 1):
            x = pyramid.down(x)
            found[x.shape[2]] = self.risen(x, z, y, level)
        return found

    def risen(self, x: Tensor, z: Tensor, y: Tensor | None, level: int) -> Tensor:
        """An image (n, c, h, w) of a level, from 0 for the finest, and the bands above it as they are made: full size."""
        labels, planes = self.labels(y), self.planes(z)
        for above in reversed(range(level)):
            smooth = pyramid.up(x, self.sizes[above])
            x = smooth + self.painters[above](planes[above], smooth, labels)
        return x.clamp(0, 1)

    def judge(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.judge`: the sum of what the discriminators of all levels say, each of its own part."""
        labels = self.labels(y)
        told = [reader(band, smooth, labels) for reader, band, smooth in self.apart(x)]
        return torch.stack([*told, self.coarsest.judge(pyramid.coarsest(x, self.levels), y)]).sum(0)

    def planes(self, z: Tensor) -> list[Tensor]:
        """The planes of noise in z, (n, 1, h, w) each, the finest first."""
        parts = z[:, _LATENT:].split([prod(size) for size in self.sizes[:-1]], 1)
        return [part.view(-1, 1, *size) for part, size in zip(parts, self.sizes, strict=False)]

    def apart(self, x: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Of every level, the finest first: the reader, the band of x, and the smooth image below it."""
        for size, reader in zip(self.sizes, self.readers, strict=False):
            small = pyramid.down(x)
            smooth = pyramid.up(small, size)
            yield reader, x - smooth, smooth
            x = small


@dataclass(frozen=True, kw_only=True)
class LAPGAN(Generator):
    """A pyramid of GANs: the coarsest makes a small image, each of the others the detail that a size up needs.

    Every level is trained by itself, on real smooth images, so that it can be told what it lacks; in sampling it gets the
    images of the level below, which is a mismatch that the metrics show.

    Args:
        levels: bands; left out, as many as bring the smaller side to 8 or below, one at least. width: channels of a
            band's networks; left out, 64 as published for colour and 16 for grey.
        packing: images that are judged together, at each level. conditional: tell all networks the label.
    """

    name: ClassVar[str] = "lapgan"
    density: ClassVar[Density] = "implicit"
    source: ClassVar[str] = "Denton, Chintala, Szlam, Fergus 2015, arXiv 1506.05751, sec. 2.2; Burt, Adelson 1983"
    levels: int | None = None
    width: int | None = None
    packing: int = 1
    conditional: bool = False

    def __post_init__(self) -> None:
        check_width(self.name, self.width)
        if self.levels is not None and not 1 <= self.levels <= 6:
            raise UserError(f"{self.name}: levels={self.levels}; accepted: 1 to 6")
        if not 1 <= self.packing <= 16:
            raise UserError(f"{self.name}: packing={self.packing}; accepted: 1 to 16")

    def build(self, shape: Shape, num_classes: int) -> Network:
        """See `Generator.build`."""
        side = min(shape[1:])
        if not 8 <= side <= max(shape[1:]) <= 64:
            raise UserError(f"{self.name} is for images of 8x8 to 64x64; these are {shape[1]}x{shape[2]}")
        levels = self.levels or max(1, next(count for count in range(7) if pyramid.sizes(shape[1:], count)[-1][0] <= 8))
        if min(pyramid.sizes(shape[1:], levels)[-1]) < 2:
            raise UserError(f"{self.name}: levels={levels} leave nothing of {shape[1]}x{shape[2]}")
        width = self.width or (64 if shape[0] == 3 else 16)
        return PyramidNetwork(shape, num_classes if self.conditional else 0, levels, width, self.packing)

    def prepare(self, network: Network, data: Dataset) -> None:
        """How bright the smallest images are, and how much they vary."""
        assert isinstance(network, PyramidNetwork)
        small = torch.cat([pyramid.coarsest(x, network.levels) for x in in_blocks(data)])
        network.coarsest.centre.copy_(small.mean())
        network.coarsest.scale.copy_(small.std(correction=0).clamp(min=1e-3))

    def recipe(self, data: Dataset) -> Recipe:
        """As for `dcgan`."""
        return GAN(packing=self.packing).recipe(data)

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        assert isinstance(network, PyramidNetwork)
        coarsest = Adversarial(network=network.coarsest, recipe=recipe, kind="non-saturating", penalty=0.0, critic=1)
        return Levels(network=network, recipe=recipe, coarsest=coarsest)

    def verdict(self, network: Network, data: Dataset) -> dict[str, Any]:
        """See `spread_of_samples`."""
        return {"spread_of_samples": spread_of_samples(self, network, data)}


@dataclass(kw_only=True, eq=False)
class Levels(Play):
    """The losses of all levels, which share no weights: each is descended as if it were alone."""

    network: PyramidNetwork
    coarsest: Adversarial

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """See the class."""
        network, labels = self.network, self.network.labels(batch.y)
        planes = network.planes(network.prior(batch.draws))
        small = pyramid.coarsest(batch.x, network.levels).clamp(0, 1)
        total = self.coarsest.loss(model, Batch(x=small, y=batch.y, indices=batch.indices, draws=batch.draws), moment)
        for noise, painter, (reader, band, smooth) in zip(
            planes, network.painters, network.apart(batch.x), strict=True
        ):
            if moment.replay:
                with frozen(reader):
                    loss = generator_loss("non-saturating", reader(painter(noise, smooth, labels), smooth, labels))
                self.note(f"generator_loss_{band.shape[2]}", loss)
            else:
                with torch.no_grad():
                    made = painter(noise, smooth, labels)
                real, fake = reader(band, smooth, labels), reader(made, smooth, labels)
                loss = discriminator_loss("non-saturating", real, fake)
                self.note(f"discriminator_loss_{band.shape[2]}", loss)
            total = total + loss
        return total

    def figures(self) -> dict[str, float]:
        """Those of the bands, and those of the coarsest level."""
        return {**super().figures(), **self.coarsest.figures()}


def _maps(labels: Tensor | None, like: Tensor) -> tuple[Tensor, ...]:
    """Labels (n, k) as k constant planes; nothing without labels."""
    return () if labels is None else (labels[:, :, None, None].expand(-1, -1, *like.shape[2:]),)
