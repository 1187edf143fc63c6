"""The generator contract: what a network that makes images can do, and how one is described and trained.

A `Generator` is a frozen dataclass of options, found by name through the entry points `robustbench_lite.generators`. It
builds a `Network`, and says what the training loop descends. Images are in [0, 1], NCHW, as everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import plugins, specs
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.training import Batch, Moment, Recipe

Shape = tuple[int, int, int]
#: what a model tells of the density it has learned: nothing (no prior to sample from), a bound, or samples alone
Density = Literal["none", "approximate", "implicit"]


@dataclass(frozen=True, kw_only=True)
class Code(Rows):
    """What an encoder says of n images.

    Args:
        mean: (n, latent). log_variance: (n, latent), of a Gaussian around it; None where the code is a point.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """A point of the Gaussian, (n, latent): mean + sigma * noise; the mean where there is none."""
        return self.mean if self.log_variance is None else self.mean + (self.log_variance / 2).exp() * noise


class Network(nn.Module):
    """Something that makes images from latent points.

    Args:
        shape: (c, h, w) of its images. num_classes: of the labels it is conditioned on; 0 without. latent: numbers in z.
    """

    def __init__(self, shape: Shape, num_classes: int, latent: int) -> None:
        super().__init__()
        self.shape, self.num_classes, self.latent = shape, num_classes, latent

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (n, latent) and, where it is conditional, labels y (n,) -> images (n, c, h, w) in [0, 1]."""
        raise NotImplementedError

    def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
        """Images (n, c, h, w) -> their codes.

        Raises:
            UserError: it has no encoder.
        """
        raise UserError("this generator has no encoder; accepted: an autoencoder or a VAE")

    def judge(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Images -> logits that they are real, (n // packing,), above 0: real.

        Raises:
            UserError: it has no discriminator.
        """
        raise UserError("this generator has no discriminator; accepted: a GAN")

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What it makes of images: reconstructions, or logits that they are real."""
        return self.reconstruct(x, y) if self.encodes else self.judge(x, y)

    def labels(self, y: Tensor | None) -> Tensor | None:
        """Labels (n,) as (n, k) float32; None for a generator without labels.

        Raises:
            UserError: labels are needed and missing, or out of range.
        """
        if not self.conditional:
            return None
        if y is None:
            raise UserError("a conditional generator needs labels; give y")
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            raise UserError(f"labels from {int(y.min())} to {int(y.max())}; accepted: 0 to {self.num_classes - 1}")
        return F.one_hot(y, self.num_classes).float()

    def prior(self, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """Latent points (n, latent) from the prior, N(0, 1) in each coordinate, by the rows' own random streams."""
        return draws.normal((self.latent,), "latent", index)

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The image of an image's mean code, (n, c, h, w)."""
        return self.decode(self.encode(x, y).mean, y)

    def completed(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """Real images (n, c, h, w) whose detail is made, by the height of what stays real; none but of a pyramid."""
        return {}

    @property
    def sigma_x2(self) -> Tensor | None:
        """The observation variance, a scalar; None where images have no density."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a network without any."""
        tensors = (*self.parameters(), *self.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def conditional(self) -> bool:
        """Whether it is told the label."""
        return self.num_classes > 0

    @property
    def encodes(self) -> bool:
        """Whether it has an encoder."""
        return type(self).encode is not Network.encode

    @property
    def judges(self) -> bool:
        """Whether it has a discriminator."""
        return type(self).judge is not Network.judge


@dataclass(kw_only=True, eq=False)
class Play:
    """One training of a generator: what the loop descends, and the figures of the epoch under way.

    Args:
        network: is trained in place. recipe: how.
    """

    network: Network
    recipe: Recipe
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """The scalar to descend; it finds the network in training mode."""
        raise NotImplementedError

    def note(self, name: str, value: Tensor) -> None:
        """Count a scalar into the epoch's mean of that name."""
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = (total + float(value.detach()), count + 1)

    def figures(self) -> dict[str, float]:
        """The epoch's means by name; counting begins anew."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Options of a generator, and how it is built and trained.

    Class attributes: `name`; `density`; `source`, the paper; `version`, raised when its weights could change.
    """

    name: ClassVar[str]
    density: ClassVar[Density]
    source: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def build(self, shape: Shape, num_classes: int) -> Network:
        """The network with fresh weights, by torch's global generator.

        Args:
            shape: (c, h, w). num_classes: of the data; one that is not conditional ignores it.

        Raises:
            UserError: images of a size that it is not made for.
        """
        raise NotImplementedError

    def prepare(self, network: Network, data: Dataset) -> None:
        """Set what follows from the training data without a training (its mean image, say)."""

    def recipe(self, data: Dataset) -> Recipe:
        """How it is trained on such images when nobody says."""
        raise NotImplementedError

    def play(self, network: Network, recipe: Recipe) -> Play:
        """What the training loop runs."""
        raise NotImplementedError

    def verdict(self, network: Network, data: Dataset) -> dict[str, Any]:
        """What a finished training is told to have come to, for the card.

        Raises:
            UserError: it has failed: no latent unit is active, say, so that every sample is the same image.
        """
        return {}

    def __str__(self) -> str:
        return str(specs.Spec(self.name, specs.options_of(self)))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator with its weights, in eval mode, frozen.

    Args:
        network: makes the images. card: what its training told. name: `vae:FILE`, say. digest: of the weights.
    """

    network: Network
    card: Mapping[str, Any]
    name: str
    digest: str

    @property
    def density(self) -> Density:
        """What it tells of the density; see `Density`."""
        found: Density = resolve_generator(self.card["architecture"]).density
        return found

    @torch.no_grad()
    def sample(self, draws: Draws, y: Tensor | None = None) -> Tensor:
        """Images (n, c, h, w) in [0, 1], one for each stream.

        Args:
            y: (n,) labels, which a conditional generator needs and another ignores.

        Raises:
            UserError: it has no prior to draw from, or lacks labels.
        """
        if self.density == "none":
            raise UserError(f"{self.name} is an autoencoder without a prior; accepted for sampling: a VAE or a GAN")
        if self.network.conditional and y is None:
            raise UserError(f"{self.name} is conditional and needs labels")
        return self.network.decode(self.network.prior(draws), y if self.network.conditional else None).clamp(0, 1)


def resolve_generator(generator: "str | Generator") -> Generator:
    """A generator from a spec string such as `vae:latent=8`; an object is returned as it is.

    Raises:
        UserError: an unknown name, an unknown option or a value that does not fit.
    """
    if isinstance(generator, Generator):
        return generator
    spec = specs.parse(generator)
    found: Generator = specs.build(plugins.load("generator", spec.name), spec.options)
    return found
