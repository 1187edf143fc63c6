"""Small convolutional autoencoders that take perturbations out of images, and how they learn it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop
from robustbench_lite.randomness import Draws
from robustbench_lite.training import Batch, Moment, Progress

#: (a batch) -> what the autoencoder is shown instead of its images
Spoil = Callable[[Batch], Tensor]


class Denoiser(nn.Module):
    """A small U-Net: half the resolution in between, and a path beside it for what is fine.

    Ronneberger, Fischer, Brox 2015, arXiv 1505.04597, with one level. It could copy the image, so it is good for taking out
    what it has learned to, and no measure of what images are like.

    Args:
        width: channels of the first convolution; twice as many at half the resolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(channels, width, 3, padding=1)
        self.deep = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.back = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> the same."""
        fine = self.shallow(x).relu()
        small = self.back(self.deep(F.avg_pool2d(fine, 2, ceil_mode=True)).relu()).relu()
        wide = F.interpolate(small, size=x.shape[2:])
        return self.last(torch.cat((wide, fine), 1)).sigmoid()


class FirstAutoencoder(nn.Module):
    """MagNet's "defensive device I": two convolutions around a pooling, and their mirror image; sigmoids throughout.

    Meng and Chen 2017, arXiv 1705.09064, table 1; three channels there.
    """

    def __init__(self, channels: int, width: int = 3) -> None:
        super().__init__()
        self.encode = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
        self.decode = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> the same."""
        small = F.avg_pool2d(self.encode[0](x).sigmoid(), 2, ceil_mode=True)
        code = self.decode[0](self.encode[1](small).sigmoid()).sigmoid()
        wide = F.interpolate(code, size=x.shape[2:])
        return self.last(self.decode[1](wide).sigmoid()).sigmoid()


class SecondAutoencoder(nn.Module):
    """MagNet's "defensive device II": convolutions alone, which follow the image closely. As above, table 1."""

    def __init__(self, channels: int, width: int = 3) -> None:
        super().__init__()
        self.encode = nn.Conv2d(channels, width, 3, padding=1)
        self.decode = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> the same."""
        return self.last(self.decode(self.encode(x).sigmoid()).sigmoid()).sigmoid()


class Pack(nn.Module):
    """Several autoencoders of one kind that are kept apart from each other, to draw one from.

    Meng and Chen 2017, arXiv 1705.09064, sec. 3.3.2: eight, with a diversity of 0.2.

    Args:
        make: a fresh one. count: how many. diversity: the weight of what keeps them apart.
    """

    def __init__(self, make: Callable[[], nn.Module], count: int, diversity: float) -> None:
        super().__init__()
        self.members = nn.ModuleList([make() for _ in range(count)])
        self.diversity = diversity

    def forward(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """(n, c, h, w) in [0, 1] -> the same: what one of them makes of an image, drawn from the image's streams.

        All are asked, so that an image's answer does not depend on who else is in the batch.
        """
        assert draws is not None, "a member is drawn from the samples' streams"
        which = draws.integers(len(self.members), (1,), "autoencoder", index).squeeze(1)
        return self.every(x)[which, torch.arange(len(x), device=x.device)]

    def every(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> (count, n, c, h, w), what each of them makes of the images."""
        return torch.stack([member(x) for member in self.members])

    def loss(self, shown: Tensor, x: Tensor) -> Tensor:
        """The sum of their squared errors, less `diversity` times the sum of their squared distances to their mean."""
        said = self.every(shown)
        apart = (said - said.mean(0)).square().flatten(1).mean(1)
        return ((said - x).square().flatten(1).mean(1) - self.diversity * apart).sum()


def restored(make: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    """The network with these weights, in eval mode."""
    with training.seeded(0):  # what initialises it draws from the global generator
        network = make()
    network.load_state_dict(weights)
    return network.eval()


def noisy(sigma: float) -> Spoil:
    """Gaussian noise of this standard deviation, anew in every epoch, cut at the box: what is purified is an image."""
    return lambda batch: (batch.x + sigma * batch.draws.normal(batch.x.shape[1:], "autoencoder")).clamp(0, 1)


def learned(
    make: Callable[[], nn.Module],
    data: Dataset,
    spoil: Spoil,
    workshop: Workshop,
    *,
    word: str = "autoencoder",
    epochs: int | None = None,
    least: int = 0,
    learning_rate: float | None = None,
) -> dict[str, Tensor]:
    """The weights of an autoencoder that has learned to bring back the images of this data: least squares, pixel by pixel.

    Args:
        make: a fresh network; one that is several autoencoders (`Pack`) has a loss of its own. spoil: what it is shown.
        word: makes its initial weights differ from a sibling's.
        epochs, learning_rate: instead of the data's default recipe. least: steps, where the epochs are the default's.
    """
    with training.seeded(training.derive(workshop.seed, word)):
        network = make()

    def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        if isinstance(model, Pack):
            return model.loss(spoil(batch), batch.x)
        return F.mse_loss(model(spoil(batch)), batch.x)

    recipe = training.default_recipe(data, network)
    enough = max(recipe.epochs, -(-least * recipe.batch_size // len(data)))
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    recipe = replace(recipe, epochs=enough if epochs is None else epochs, learning_rate=rate)
    progress: Progress | None = workshop.progress
    training.fit(network, data, loss, recipe=recipe, seed=workshop.seed, device=workshop.device, progress=progress)
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}
