"""A denoising autoencoder before the classifier."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from robustbench_lite.attack import Attack, craft
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.defenses.autoencoders import Denoiser, Spoil, learned, noisy, restored
from robustbench_lite.defenses.robust import usual_attack, with_radius
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.system import Purifier, System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Recipe


@dataclass(frozen=True, kw_only=True)
class DenoisingAutoencoder(Defense):
    """Clean the image by an autoencoder that has learned to take noise, or known attacks, out of training images.

    Against an attack that does not know it this works; together with the classifier it is one deeper network, and a
    white-box attack through both finds what that one gets wrong.

    Args:
        on: what it learns to take out: `noise`, Gaussian of standard deviation `sigma`, or `attack`, the perturbations that
            `attack` finds on the system behind it, anew in every epoch.
        sigma: of the noise, in the unit of an image in [0, 1]. width: channels of its first convolution.
        attack, threat: with `on=attack`; the threat, left out, is the first one of the evaluation that has a radius.
        epochs: passes over the training data, instead of the dataset's default. learning_rate: of Adam.
    """

    name: ClassVar[str] = "denoising-autoencoder"
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = "the autoencoder is differentiable, and a white-box attack differentiates through it"
    source: ClassVar[str] = (
        "Vincent et al. 2008, ICML (the autoencoder); as a defense: Gu, Rigazio 2015, arXiv 1412.5068, who also find that "
        "the two together fall to a new attack"
    )
    on: Literal["noise", "attack"] = "noise"
    sigma: float = 0.1
    width: int = 16
    attack: Attack = field(default_factory=usual_attack)
    threat: Threat | None = None
    epochs: int | None = None
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 10:
            raise UserError(f"{self.name}: sigma={self.sigma:g}; accepted: more than 0 and up to 10, such as 0.1")
        if not 1 <= self.width <= 1024:
            raise UserError(f"{self.name}: width={self.width}; accepted: 1 to 1024")
        Recipe(epochs=1 if self.epochs is None else self.epochs, learning_rate=self.learning_rate)

    def defend(self, system: System, workshop: Workshop) -> System:
        """The autoencoder in front of the system.

        Raises:
            UserError: `on=attack` without a threat that the attack can run under.
        """
        weights = workshop.part(self, system, lambda: self._learned(system, workshop))
        network = restored(lambda: self._fresh(system), weights).to(workshop.device)
        part = Purifier(apply=lambda x, draws, index: network(x), modules=(network,), name=str(self))
        return replace(system, purifiers=(part, *system.purifiers))

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """With attack and threat resolved, where it learns from them."""
        if self.on == "noise":
            return super().recipe(workshop)
        threat = str(self._against(workshop))
        return {**super().recipe(workshop), "threat": threat, "attack": [self.attack.version, repr(self.attack)]}

    def _learned(self, system: System, workshop: Workshop) -> dict[str, Tensor]:
        spoil = noisy(self.sigma) if self.on == "noise" else self._attacked(system, workshop)
        given: dict[str, Any] = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        return learned(lambda: self._fresh(system), workshop.train, spoil, workshop, **given)

    def _fresh(self, system: System) -> Denoiser:
        return Denoiser(system.input_shape[0], self.width)

    def _against(self, workshop: Workshop) -> Threat:
        needed = (
            f"{self.name} with on=attack needs a threat with a radius; write {self.name}:on=attack,threat=(Linf:8/255)"
        )
        threat = with_radius(self.threat, workshop, needed)
        self.attack.check(threat, workshop.train.num_classes)
        return threat

    def _attacked(self, system: System, workshop: Workshop) -> Spoil:
        threat, seen = self._against(workshop), system.without_detector().to(workshop.device)

        def spoil(batch: Batch) -> Tensor:
            return craft(self.attack, seen, batch.x, Goal(y=batch.y), threat, batch.draws)

        return spoil
