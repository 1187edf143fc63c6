"""Defense-GAN: show the classifier the nearest image that a generator can make."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Network, Trained, load_generator, train_generator
from robustbench_lite.generators.inversion import invert, nearest
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Purifier, System, itself


@dataclass(frozen=True, kw_only=True)
class DefenseGAN(Defense):
    """Project the image onto the range of a generator of clean images, and classify the projection (Samangouei et al. 2018).

    z* = argmin_z of the mean squared error of G(z) to x, by gradient descent with momentum from several random points; the
    nearest image counts. The starting points come from the sample's own random streams, so another look at the same image
    may show another projection.

    What the generator cannot make is lost: read the clean accuracy first, since the projection of a clean image is often
    another digit. The descent has no useful gradient by the image, so plain white-box attacks report robustness that is
    not there. The adversary who knows the defense differentiates the projection at the point that it found, and averages over
    starting points (EOT). Taking it for the identity (BPDA, as published) spends the budget on what the generator cannot
    make, and is weaker.

    Args:
        generator: FILE.safetensors of a generator, or one to train on the training images, such as `wgan-gp:latent=8`.
            It must have learned from training images alone.
        epochs: of the generator's training, instead of its own recipe's.
        restarts: starting points. steps: gradients from each; the paper has 10 and 200.
        learning_rate: of the descent, divided by 10 for its last fifth; left out, the paper's 10.
        backward: what the adversary takes the projection for: its own `derivative`, or the `identity`.
    """

    name: ClassVar[str] = "defense-gan"
    adaptivity: ClassVar[Adaptivity] = "adaptive"
    source: ClassVar[str] = (
        "Samangouei, Kabkab, Chellappa 2018, arXiv 1805.06605; broken by BPDA: Athalye, Carlini, Wagner 2018, arXiv "
        "1802.00420, sec. 5.4.1"
    )
    generator: str = "wgan-gp"
    epochs: int | None = None
    restarts: int = 4
    steps: int = 100
    learning_rate: float | None = None
    backward: Literal["derivative", "identity"] = "derivative"

    def __post_init__(self) -> None:
        for option in ("restarts", "steps"):
            at_least(self, option, 1)
        if self.epochs is not None:
            at_least(self, "epochs", 1)
        positive(self, "learning_rate")
        if self.epochs is not None and _is_file(self.generator):
            raise UserError(f"{self.name}: epochs={self.epochs} with a generator that is trained already")

    def defend(self, system: System, workshop: Workshop) -> System:
        """The projection in front of the system.

        Raises:
            UserError: a generator without a prior, that wants to be told the label, or of other images.
        """
        found = self._made(workshop)
        if found.density == "none":
            raise UserError(f"{self.name}: {found.name} has no prior to start from; accepted: a VAE or a GAN")
        if found.network.conditional:
            raise UserError(
                f"{self.name}: {found.name} is told the label, which nobody knows here; accepted: an unconditional one"
            )
        if tuple(found.network.shape) != tuple(system.input_shape):
            raise UserError(f"{self.name}: {found.name} makes images {found.network.shape}, not {system.input_shape}")
        network = found.network.to(workshop.device)
        told = {"name": found.name, "digest": found.digest, "data": found.card.get("data")}
        return replace(system, purifiers=(self.part(network), *system.purifiers)).with_notes({"generator": told})

    def part(self, network: Network) -> Purifier:
        """The projection onto what this network makes."""
        project = Projection(network=network, defense=self)
        plain = self.backward == "identity"
        return Purifier(
            apply=project, surrogate=itself if plain else None, derived=None if plain else project.derived,
            random=True, modules=(network,), name=str(self),
        )  # fmt: skip

    def _made(self, workshop: Workshop) -> Trained:
        if _is_file(self.generator):
            return load_generator(self.generator)
        return train_generator(
            self.generator, workshop.train, seed=workshop.seed, epochs=self.epochs, device=workshop.device,
            progress=workshop.progress,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Images to the nearest that the network makes, by the options of the defense."""

    network: Network
    defense: DefenseGAN

    def __call__(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """(n, c, h, w) in [0, 1] -> the same; another `index`, other starting points."""
        z, _ = self.latent(x, draws, index)
        with torch.no_grad():
            return self.network.decode(z).clamp(0, 1)

    def derived(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """The same images, with the gradient of the nearest point by x (see `nearest`)."""
        z, _ = self.latent(x, draws, index)
        return nearest(self.network, x, z).clamp(0, 1)

    def latent(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> tuple[Tensor, Tensor]:
        """The latent points (n, latent) of the projections, and their mean squared errors (n,)."""
        assert draws is not None, "starting points are drawn from the samples' streams"
        streams = replace(draws, key=draws.words(2, "projection", index))
        return invert(
            self.network, x.detach(), None, streams, restarts=self.defense.restarts, steps=self.defense.steps,
            learning_rate=self.defense.learning_rate, optimizer="momentum",
        )  # fmt: skip


def _is_file(generator: str) -> bool:
    return Path(generator).suffix in (".safetensors", ".json")
