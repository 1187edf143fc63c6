"""Generative adversarial networks: one that makes images, and one that tells them from real ones."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.generators.autoencoders import check_latent, check_width, with_steps
from robustbench_lite.generators.base import Density, Generator, Network, Play, Shape
from robustbench_lite.generators.networks import Kind, Painter, Reader, frozen, kind_for
from robustbench_lite.randomness import Draws
from robustbench_lite.training import Batch, Moment, Recipe

Loss = Literal["non-saturating", "minimax", "wasserstein"]
#: samples that are compared with as many images at the end, and the share of their spread that is no collapse
_COMPARED, _SPREAD = 256, 0.05
#: a discriminator below this loss has won: what it tells the generator is nothing any more
_WON = 0.05
#: by kind of network: numbers in z, width of the generator, width of the discriminator
_SIZES: dict[Kind, tuple[int, int, int]] = {"points": (2, 400, 200), "mlp": (16, 128, 128), "conv": (64, 32, 32)}


class AdversarialNetwork(Network):
    """A painter, and a reader that judges `packing` images at once.

    Args:
        widths: of painter and reader. norm: whether the reader normalises its batches.
    """

    def __init__(
        self, kind: Kind, shape: Shape, latent: int, num_classes: int, widths: tuple[int, int], packing: int, norm: bool
    ) -> None:
        super().__init__(shape, num_classes, latent)
        self.packing = packing
        packed = (packing * shape[0], *shape[1:])
        self.painter = Painter(kind, shape, latent, num_classes, widths[0])
        self.reader = Reader(kind, packed, packing * num_classes, widths[1], 1, norm=norm)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.decode`."""
        image: Tensor = self.painter(z, self.labels(y))
        return image

    def judge(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """See `Network.judge`; `packing` images in a row are judged together, and what is left over is not."""
        labels = self.labels(y)
        score: Tensor = self.reader(pack(x, self.packing), None if labels is None else pack(labels, self.packing))
        return score.squeeze(1)


def pack(x: Tensor, count: int) -> Tensor:
    """Every `count` rows of x (n, c, ...) as one of (n // count, count c, ...); for 1 it is x."""
    whole = len(x) // count
    return x if count == 1 else x[: whole * count].reshape(whole, count * x.shape[1], *x.shape[2:])


@dataclass(frozen=True, kw_only=True)
class GAN(Generator):
    """Two networks that learn against each other (Goodfellow et al. 2014), fully connected.

    The discriminator descends -E ln D(x) - E ln(1 - D(G(z))). The generator climbs E ln D(G(z)), which has a slope where it
    is losing (non-saturating), or descends E ln(1 - D(G(z))) (minimax); `wasserstein` is the critic's difference of means
    with a penalty on its slopes between real and generated images (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    With `packing=m` the discriminator sees m images of the same origin at once, which shows it a lack of variety (PacGAN:
    Lin et al. 2018, arXiv 1712.04086). Only its first layer grows; m=1 is the GAN itself.

    Args:
        latent: numbers in z; left out, 2 for points, 16 for fully connected, 64 for convolutional networks.
        loss: `non-saturating`, `minimax` or `wasserstein`. penalty: on the critic's slopes.
        packing: images that are judged together. conditional: tell both networks the label (Mirza, Osindero 2014, arXiv
            1411.1784).
        critic: discriminator steps for each of the generator's; left out, 1, and 5 for wasserstein.
        update: `alternating`, first the one, then the other on what it has learned, or `simultaneous`; left out,
            simultaneous for points, as in PacGAN's experiments, and where `critic` is not 1.
        generator_steps: steps of the generator for each of the discriminator's, where they alternate.
        network: `mlp`, `conv`, or `auto`, by the size of the images.
        width, discriminator_width: units of a hidden layer, or channels of the first convolution; left out, 400 and 200 for
            points, 128 for `mlp`, 32 for `conv`.
    """

    name: ClassVar[str] = "gan"
    density: ClassVar[Density] = "implicit"
    source: ClassVar[str] = "Goodfellow et al. 2014, arXiv 1406.2661, alg. 1"
    latent: int | None = None
    loss: Loss = "non-saturating"
    penalty: float = 10.0
    packing: int = 1
    conditional: bool = False
    critic: int | None = None
    update: Literal["alternating", "simultaneous"] | None = None
    generator_steps: int = 1
    network: Literal["auto", "mlp", "conv"] = "mlp"
    width: int | None = None
    discriminator_width: int | None = None

    def __post_init__(self) -> None:
        if self.latent is not None:
            check_latent(self.name, self.latent)
        check_width(self.name, self.width)
        check_width(self.name, self.discriminator_width)
        for name, top in (("packing", 16), ("critic", 100), ("generator_steps", 100)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= top:
                raise UserError(f"{self.name}: {name}={value}; accepted: 1 to {top}")
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"{self.name}: penalty={self.penalty:g}; accepted: 0 and more")
        if self.update == "alternating" and self._critic() > 1:
            raise UserError(f"{self.name}: critic={self._critic()} is for update=simultaneous")
        if self.update == "simultaneous" and self.generator_steps > 1:
            raise UserError(f"{self.name}: generator_steps={self.generator_steps} is for update=alternating")

    def build(self, shape: Shape, num_classes: int) -> Network:
        """See `Generator.build`."""
        kind = kind_for(shape, self.network)
        latent, width, other = _SIZES[kind]
        widths = (self.width or width, self.discriminator_width or other)
        classes, norm = num_classes if self.conditional else 0, self.loss != "wasserstein"
        return AdversarialNetwork(kind, shape, self.latent or latent, classes, widths, self.packing, norm)

    def recipe(self, data: Dataset) -> Recipe:
        """Adam with little momentum at a constant rate, and the average of the generator's weights.

        Points: 1e-4, 0.8 and batches of 100 packs, as PacGAN's; 20,000 steps, a twentieth of theirs. Images: 1e-3 and 0.5,
        6,000 steps; wasserstein 5e-4 and 0.5, 15,000 steps. That is short, and at the published rates (2e-4 of DCGAN, 1e-4 of
        Wasserstein's) MNIST is half learned by then; give a longer training the published one.
        """
        points, wasserstein = data.shape[1:] == (1, 1), self.loss == "wasserstein"
        recipe = Recipe(
            epochs=1,
            batch_size=(100 if points else 64) * self.packing,
            learning_rate=1e-4 if points else 5e-4 if wasserstein else 1e-3,
            beta1=0.8 if points else 0.5,
            schedule="constant",
            ema=0.0 if points else 0.999,
            replays=1 if self.simultaneous(data.shape) else 1 + self.generator_steps,
        )
        return with_steps(data, 20000 if points else 15000 if wasserstein else 6000, recipe)

    def simultaneous(self, shape: Shape) -> bool:
        """Whether both networks take their step at once."""
        if self.update is not None:
            return self.update == "simultaneous"
        return self._critic() > 1 or (shape[1:] == (1, 1) and self.generator_steps == 1)

    def play(self, network: Network, recipe: Recipe) -> Play:
        """See `Generator.play`."""
        assert isinstance(network, AdversarialNetwork)
        return Adversarial(network=network, recipe=recipe, kind=self.loss, penalty=self.penalty, critic=self._critic())

    def verdict(self, network: Network, data: Dataset) -> dict[str, Any]:
        """See `spread_of_samples`."""
        return {"spread_of_samples": spread_of_samples(self, network, data)}

    def _critic(self) -> int:
        return self.critic or (5 if self.loss == "wasserstein" else 1)


@torch.no_grad()
def spread_of_samples(generator: Generator, network: Network, data: Dataset) -> float:
    """How much samples differ from each other, as a share of how much images do.

    Raises:
        UserError: hardly at all, so that every sample is the same image.
    """
    count = min(_COMPARED, len(data))
    chosen = torch.linspace(0, len(data) - 1, count).long().numpy()
    real, y = data.batch(chosen).to(network.device), data.labels_at(chosen).to(network.device)
    made = network.decode(network.prior(Draws.numbered(0, range(count), network.device)), y)
    share = float(made.std(0).mean() / real.std(0).mean().clamp(min=1e-12))
    if not share >= _SPREAD:  # nor NaN
        raise UserError(
            f"{generator} has collapsed: its samples differ by {share:.1%} of what images do; "
            "try another seed, packing=2, or more epochs"
        )
    return share


@dataclass(frozen=True, kw_only=True)
class DCGAN(GAN):
    """A GAN of strided convolutions with batch normalisation (Radford et al. 2016).

    Args:
        latent, loss, penalty, packing, conditional, critic, update, generator_steps, width, discriminator_width: as for
            `gan`. network: `conv`, `mlp`, or `auto`, by the size of the images.
    """

    name: ClassVar[str] = "dcgan"
    source: ClassVar[str] = "Radford, Metz, Chintala 2016, arXiv 1511.06434, sec. 3"
    network: Literal["auto", "mlp", "conv"] = "conv"


@dataclass(frozen=True, kw_only=True)
class ConditionalGAN(GAN):
    """A GAN whose networks are told the label (Mirza and Osindero 2014).

    Args:
        latent, loss, penalty, packing, critic, update, generator_steps, width, discriminator_width: as for `gan`.
        network: `auto`, by the size of the images, `mlp` or `conv`. conditional: tell both networks the label.
    """

    name: ClassVar[str] = "conditional-gan"
    source: ClassVar[str] = "Mirza, Osindero 2014, arXiv 1411.1784, sec. 3.2"
    conditional: bool = True
    network: Literal["auto", "mlp", "conv"] = "auto"


@dataclass(frozen=True, kw_only=True)
class WassersteinGAN(GAN):
    """A GAN with a Wasserstein critic and a penalty on its slopes (Gulrajani et al. 2017), steady on little data.

    Args:
        latent, penalty, packing, conditional, critic, update, generator_steps, width, discriminator_width: as for `gan`.
        network: `auto`, by the size of the images, `mlp` or `conv`. loss: as for `gan`.
    """

    name: ClassVar[str] = "wgan-gp"
    source: ClassVar[str] = "Gulrajani et al. 2017, arXiv 1704.00028, alg. 1"
    loss: Loss = "wasserstein"
    network: Literal["auto", "mlp", "conv"] = "auto"


@dataclass(kw_only=True, eq=False)
class Adversarial(Play):
    """The discriminator's loss in its turn, the generator's in its own, or both at once.

    Where they alternate, a batch is used again for the generator: the loop replays it. Otherwise the generator takes part
    in every `critic`-th step.

    Args:
        kind: the loss. penalty: on the critic's slopes.
    """

    network: AdversarialNetwork
    kind: Loss
    penalty: float
    critic: int

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """See the class."""
        network, alternating = self.network, self.recipe.replays > 1
        z = network.prior(batch.draws)
        if alternating and moment.replay:
            return self._generator(network.decode(z, batch.y), batch)
        if alternating:
            with torch.no_grad():
                made = network.decode(z, batch.y)
            return self._discriminator(made, batch)
        moving = moment.batch % self.critic == self.critic - 1
        with torch.set_grad_enabled(moving):
            made = network.decode(z, batch.y)
        loss = self._discriminator(made.detach(), batch)
        return loss + self._generator(made, batch) if moving else loss

    def _discriminator(self, made: Tensor, batch: Batch) -> Tensor:
        # In batches of their own: batch normalisation would tell them apart by what is mixed into it.
        real, fake = self.network.judge(batch.x, batch.y), self.network.judge(made, batch.y)
        loss = discriminator_loss(self.kind, real, fake)
        if self.kind == "wasserstein":
            self.note("critic_distance", -loss)
            loss = loss + self.penalty * self._slopes(made, batch)
        else:
            self.note("discriminator_loss", loss)
            self.note("discriminator_won", (loss < _WON).float())
        return loss

    def _generator(self, made: Tensor, batch: Batch) -> Tensor:
        with frozen(self.network.reader):
            loss = generator_loss(self.kind, self.network.judge(made, batch.y))
        self.note("generator_loss", loss)
        return loss

    def _slopes(self, made: Tensor, batch: Batch) -> Tensor:
        """(||slope|| - 1)^2 at random points between real and generated images, packs as a whole; the mean."""
        network = self.network
        share = batch.draws.uniform((1,), "between").view(-1, 1, 1, 1)
        between = (share * batch.x + (1 - share) * made).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(network.judge(between, batch.y).sum(), between, create_graph=True)
        norm = pack(slope, network.packing).flatten(1).square().sum(1).add(1e-12).sqrt()
        return (norm - 1).square().mean()


def discriminator_loss(kind: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """Mean loss of the one who judges, from logits of real and of generated images."""
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: Loss, fake: Tensor) -> Tensor:
    """Mean loss of the one who makes: -ln D, ln(1 - D), or the critic's mean, from logits of generated images."""
    if kind == "wasserstein":
        return -fake.mean()
    return F.softplus(-fake).mean() if kind == "non-saturating" else -F.softplus(fake).mean()
