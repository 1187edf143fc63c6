"""Variational autoencoders, with and without labels."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.generators.autoencoders import (
    DeepNetwork,
    check_latent,
    check_width,
    usual_width,
    with_steps,
)
from robustbench_lite.generators.base import Code, Density, Generator, Network, Play, Shape
from robustbench_lite.generators.networks import is_small, kind_for
from robustbench_lite.training import Batch, Moment, Recipe

#: a latent unit is active if its mean varies by more over the images (Burda et al. 2016, arXiv 1509.00519, sec. 5.2)
_ACTIVE = 0.01
#: the observation variance of images of up to 16x16, where a learned one starts as well, and of larger ones
_SMALL, _LARGE = 0.05, 0.2
#: images that are looked at to tell which units are active
_LOOKED_AT = 2000


@dataclass(frozen=True, kw_only=True)
class VAE(Generator):
    """A Gaussian code with a standard normal prior, and a Gaussian image around the decoder's.

    The loss of an image is the Kullback-Leibler divergence sum(mu^2 + s^2 - ln s^2 - 1) / 2 plus the squared distance of
    the reconstruction over twice the observation variance. With a variance of 1 this is the form of many lectures; there
    a latent unit pays only where it explains more than 1 of variance, which no direction of images in [0, 1] of digits does:
    every unit dies, and every sample is the mean image (Lucas et al. 2019, arXiv 1911.02469). Such a training fails.
    Too small a variance has the code hold everything, also what a label tells: images come back well, and samples are poor.

    Args:
        latent: numbers in the code. sigma_x2: the observation variance, or `learned`, one number for all pixels; left out,
            0.05 for images of up to 16x16 and 0.2 for larger ones, whose pixels say more together.
        network, width: as for `autoencoder`.
    """

    name: ClassVar[str] = "vae"
    density: ClassVar[Density] = "approximate"
    source: ClassVar[str] = "Kingma, Welling 2014, arXiv 1312.6114, sec. 2.3, app. B"
    latent: int = 16
    sigma_x2: float | Literal["learned"] | None = None
    network: Literal["auto", "mlp", "conv"] = "auto"
    width: int | None = None
    conditional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_latent(self.name, self.latent)
        check_width(self.name, self.width)
        if self.sigma_x2 not in (None, "learned") and not 0 < float(self.sigma_x2) < math.inf:
            raise UserError(f"{self.name}: sigma_x2={self.sigma_x2:g}; accepted: above 0, such as 0.05, or learned")

    def build(self, shape: Shape, num_classes: int) -> Network:
        """See `Generator.build`."""
        kind = kind_for(shape, self.network)
        classes, width = num_classes if self.conditional else 0, self.width or usual_width(kind)
        usual = _SMALL if is_small(shape) else _LARGE
        sigma_x2 = usual if self.sigma_x2 is None else self.sigma_x2
        return VariationalNetwork(kind, shape, self.latent, width, classes, sigma_x2)

    def recipe(self, data: Dataset) -> Recipe:
        """Adam 1e-3 with linear decay: 5,000 steps at least, ten epochs at least."""
        return with_steps(data, 5000, Recipe(epochs=1, batch_size=128))

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        return Variational(network=network, recipe=recipe)

    @torch.no_grad()
    def verdict(self, network: Network, data: Dataset) -> dict[str, Any]:
        """How many latent units are active.

        Raises:
            UserError: none is, so that every sample is the same image.
        """
        count = min(len(data), _LOOKED_AT)
        chosen = torch.linspace(0, len(data) - 1, count).long().numpy()
        device = network.device
        x, y = data.batch(chosen).to(device), data.labels_at(chosen).to(device)
        spread = network.encode(x, y).mean.var(0)
        active = int((spread > _ACTIVE).sum())
        if not active:
            raise UserError(
                f"{self}: no latent unit is active, so that every sample is the mean image; "
                "lower sigma_x2 (0.05 suits digits; or learned) or train for longer"
            )
        told: dict[str, Any] = {"active_units": active}
        if self.sigma_x2 == "learned":
            assert isinstance(network, VariationalNetwork)
            told["sigma_x2"] = float(network.sigma_x2)
        return told


@dataclass(frozen=True, kw_only=True)
class ConditionalVAE(VAE):
    """A VAE whose encoder and decoder are told the label, so that the code need not hold it.

    Args:
        latent, sigma_x2, network, width: as for `vae`.
    """

    name: ClassVar[str] = "conditional-vae"
    source: ClassVar[str] = "Sohn, Lee, Yan 2015, NeurIPS; Kingma et al. 2014, arXiv 1406.5298"
    conditional: ClassVar[bool] = True


class VariationalNetwork(DeepNetwork):
    """A `DeepNetwork` with a Gaussian code, and the observation variance."""

    log_sigma_x2: Tensor

    def __init__(
        self, kind: Any, shape: Shape, latent: int, width: int, num_classes: int, sigma_x2: float | Literal["learned"]
    ) -> None:
        super().__init__(kind, shape, latent, width, num_classes=num_classes, gaussian=True)
        if sigma_x2 == "learned":
            # Not from 1, where every unit dies before the variance has come down.
            self.log_sigma_x2 = nn.Parameter(torch.tensor(_SMALL).log())
        else:
            self.register_buffer("log_sigma_x2", torch.tensor(float(sigma_x2)).log())

    @property
    def sigma_x2(self) -> Tensor:
        """See `Network.sigma_x2`."""
        return self.log_sigma_x2.exp()


@dataclass(kw_only=True, eq=False)
class Variational(Play):
    """The negative evidence lower bound, averaged over the images, without its constant."""

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """See the class."""
        network = self.network
        assert isinstance(network, VariationalNetwork)
        code = network.encode(batch.x, batch.y)
        z = code.sample(batch.draws.normal((network.latent,), "latent", moment.replay))
        error = (network.decode(z, batch.y) - batch.x).square().flatten(1).sum(1).mean()
        divergence = kl_to_prior(code).mean()
        self.note("reconstruction_error", error)
        self.note("kl", divergence)
        numbers = batch.x[0].numel()
        return divergence + error / (2 * network.sigma_x2) + numbers * network.log_sigma_x2 / 2


def kl_to_prior(code: Code) -> Tensor:
    """KL(N(mu, s^2) || N(0, 1)) of n codes, (n,), in nats: sum(mu^2 + s^2 - ln s^2 - 1) / 2 (Kingma, Welling 2014, app. B)."""
    assert code.log_variance is not None
    return (code.mean.square() + code.log_variance.exp() - code.log_variance - 1).sum(1) / 2
