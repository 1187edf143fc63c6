"""Autoencoders: linear (which is principal components), deep, and denoising."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import in_blocks
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Code, Density, Generator, Network, Play, Shape
from robustbench_lite.generators.networks import Kind, Painter, Reader, kind_for
from robustbench_lite.training import Batch, Moment, Recipe


class LinearNetwork(Network):
    """z = U (x - u0), x^ = U^T z + u0, with one matrix for both ways and u0 the mean training image."""

    mean: Tensor

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__(shape, 0, latent)
        size = shape[0] * shape[1] * shape[2]
        self.matrix = nn.Parameter(torch.empty(latent, size))
        nn.init.orthogonal_(self.matrix)
        self.register_buffer("mean", torch.zeros(size))

    def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
        """See `Network.encode`."""
        return Code(mean=(x.flatten(1) - self.mean) @ self.matrix.T)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.decode`; a linear image may leave [0, 1]."""
        return (z @ self.matrix + self.mean).view(-1, *self.shape)


class DeepNetwork(Network):
    """An encoder and a decoder with a bottleneck between them.

    Args:
        kind, width: of both. gaussian: the code is a Gaussian, mean and log variance, instead of a point.
        num_classes: of the labels that both are told; 0 without.
    """

    def __init__(
        self, kind: Kind, shape: Shape, latent: int, width: int, *, num_classes: int = 0, gaussian: bool = False
    ) -> None:
        super().__init__(shape, num_classes, latent)
        self.gaussian = gaussian
        self.reader = Reader(kind, shape, num_classes, width, latent * (1 + gaussian), norm=False)
        self.painter = Painter(kind, shape, latent, num_classes, width, norm=False)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
        """See `Network.encode`."""
        found = self.reader(x, self.labels(y))
        if not self.gaussian:
            return Code(mean=found)
        mean, log_variance = found.chunk(2, 1)
        return Code(mean=mean, log_variance=log_variance.clamp(-10, 10))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.decode`."""
        image: Tensor = self.painter(z, self.labels(y))
        return image


@dataclass(frozen=True, kw_only=True)
class LinearAutoencoder(Generator):
    """One matrix there and back: least squares finds the span of the first principal components (Bourlard and Kamp 1988).

    Args:
        latent: numbers in the code.
    """

    name: ClassVar[str] = "linear-autoencoder"
    density: ClassVar[Density] = "none"
    source: ClassVar[str] = "Bourlard, Kamp 1988, Biological Cybernetics 59; Baldi, Hornik 1989, Neural Networks 2"
    latent: int = 10

    def __post_init__(self) -> None:
        check_latent(self.name, self.latent)

    def build(self, shape: Shape, num_classes: int) -> Network:
        """See `Generator.build`."""
        size = shape[0] * shape[1] * shape[2]
        if self.latent > size:
            raise UserError(f"{self.name}: latent={self.latent}; accepted: up to {size}, the numbers in an image")
        return LinearNetwork(shape, self.latent)

    def prepare(self, network: Network, data: Dataset) -> None:
        """The mean training image."""
        assert isinstance(network, LinearNetwork)
        network.mean.copy_(mean_image(data).flatten())

    def recipe(self, data: Dataset) -> Recipe:
        """Adam at a large rate that falls to zero: the loss has no local minima but the principal ones."""
        return with_steps(data, 6000, Recipe(epochs=1, batch_size=128, learning_rate=0.01))

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        return Reconstructing(network=network, recipe=recipe)


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Generator):
    """An encoder, a bottleneck and a decoder, by least squares.

    Args:
        latent: numbers in the code. network: `mlp`, `conv` or `auto`, by the size of the images. width: units of the
            smaller hidden layer, or channels of the first convolution; left out, 128 and 32.
    """

    name: ClassVar[str] = "autoencoder"
    density: ClassVar[Density] = "none"
    source: ClassVar[str] = "Hinton, Salakhutdinov 2006, Science 313"
    latent: int = 10
    network: Literal["auto", "mlp", "conv"] = "auto"
    width: int | None = None

    def __post_init__(self) -> None:
        check_latent(self.name, self.latent)
        check_width(self.name, self.width)

    def build(self, shape: Shape, num_classes: int) -> Network:
        """See `Generator.build`."""
        kind = kind_for(shape, self.network)
        return DeepNetwork(kind, shape, self.latent, self.width or usual_width(kind))

    def recipe(self, data: Dataset) -> Recipe:
        """Adam 1e-3 with linear decay: 3,000 steps at least, ten epochs at least."""
        return with_steps(data, 3000, Recipe(epochs=1, batch_size=128))

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        return Reconstructing(network=network, recipe=recipe)


@dataclass(frozen=True, kw_only=True)
class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that is shown noisy images and has to bring back the clean ones (Vincent et al. 2008).

    Args:
        sigma: standard deviation of the Gaussian noise; a noisy image is cut at [0, 1].
        latent, network, width: as for `autoencoder`.
    """

    name: ClassVar[str] = "denoising-autoencoder"
    source: ClassVar[str] = "Vincent, Larochelle, Bengio, Manzagol 2008, ICML"
    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma <= 10:
            raise UserError(f"{self.name}: sigma={self.sigma:g}; accepted: more than 0 and up to 10, such as 0.1")

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        return Reconstructing(network=network, recipe=recipe, sigma=self.sigma)


@dataclass(kw_only=True, eq=False)
class Reconstructing(Play):
    """Half the squared distance of an image's reconstruction, summed over its numbers, averaged over the images.

    Args:
        sigma: of the noise that the network is shown; the image to bring back is the clean one.
    """

    sigma: float = 0.0

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """See the class."""
        x = batch.x
        if self.sigma:
            x = (x + self.sigma * batch.draws.normal(x.shape[1:], "noise")).clamp(0, 1)
        error = (self.network.reconstruct(x, batch.y) - batch.x).square().flatten(1).sum(1).mean()
        self.note("reconstruction_error", error)
        return error / 2


def mean_image(data: Dataset) -> Tensor:
    """The mean of all images, (c, h, w) float32; summed in float64, a block at a time."""
    total = torch.zeros(data.shape, dtype=torch.float64)
    for x in in_blocks(data):
        total += x.double().sum(0)
    return (total / len(data)).float()


def check_latent(name: str, latent: int) -> None:
    """Refuse a code without numbers.

    Raises:
        UserError: not from 1 to 4096.
    """
    if not 1 <= latent <= 4096:
        raise UserError(f"{name}: latent={latent}; accepted: 1 to 4096")


def check_width(name: str, width: int | None) -> None:
    """Refuse a network without units.

    Raises:
        UserError: not from 1 to 4096.
    """
    if width is not None and not 1 <= width <= 4096:
        raise UserError(f"{name}: width={width}; accepted: 1 to 4096")


def usual_width(kind: Kind) -> int:
    """Units of a hidden layer, or channels of the first convolution."""
    return {"points": 200, "mlp": 128, "conv": 32}[kind]


def with_steps(data: Dataset, steps: int, recipe: Recipe) -> Recipe:
    """The recipe with as many epochs as give that many steps, ten at least."""
    return replace(recipe, epochs=max(10, -(-steps * recipe.batch_size // len(data))))
