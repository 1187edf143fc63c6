"""MagNet: reject what an autoencoder cannot bring back, and show the classifier the rest as it comes back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.autoencoders import FirstAutoencoder, Pack, SecondAutoencoder, learned, noisy, restored
from robustbench_lite.defenses.detectors import Bench, DetectorDefense, Fitted, threshold_at
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Purifier, System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Recipe

_TEMPERATURES = (10.0, 40.0)
#: the fewest steps of a training: sigmoids learn slowly
_STEPS = 1000
#: an error that never was above zero cannot be a unit
_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class MagNet(DetectorDefense):
    """Autoencoders of clean images: a large reconstruction error rejects, and the reconstruction is what is classified.

    Grey images: autoencoder I (with a pooling; mean squared error, and the reformer) and autoencoder II (mean absolute
    error). Colour: autoencoder II for both, and the Jensen-Shannon divergence between the classifier's answers to the
    image and to its reconstruction, softened by T = 10 and T = 40. Each error is measured in units of its own level at
    the rate of false alarms; the largest of them is the score. So the stated rate is that of the whole detector, where
    the paper states one for each part (0.001 on MNIST, 0.005 and 0.01 on CIFAR-10).

    With a `pack` of several, trained to differ from each other, every answer comes from one that is drawn at random (sec.
    3.3.2, against an adversary who does not know which).

    Everything is differentiable, so the adversary who knows it climbs through reformer and score together; of a pack
    through all that its draws show (EOT).

    Args:
        fpr: share of the held-out training images that the threshold rejects. images: most training images to learn from.
        apart: share of them that the classifier, trained without them, has not learned from, to set the threshold on; 0
            takes some that it may have.
        sigma: of the noise that the autoencoders learn to take out. width: channels of their convolutions; 3 in the paper,
            which small data does not teach in short time.
        divergence: use the Jensen-Shannon divergence; left out, on colour images alone.
        pack: how many autoencoders of each kind there are to draw from; 8 in the paper. diversity: how much they are kept
            apart in training.
        epochs: passes over the training images; left out, the dataset's default, and 1000 steps at least. learning_rate: of
            Adam.
    """

    name: ClassVar[str] = "magnet"
    source: ClassVar[str] = (
        "Meng, Chen 2017, CCS, arXiv 1705.09064; broken by differentiating through all of it: Carlini, Wagner 2017, "
        "arXiv 1711.08478"
    )
    images: int = 10000
    sigma: float = 0.1
    divergence: bool | None = None
    width: int = 16
    pack: int = 1
    diversity: float = 0.2
    epochs: int | None = None
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma <= 10:
            raise UserError(f"{self.name}: sigma={self.sigma:g}; accepted: more than 0 and up to 10, such as 0.1")
        if not 1 <= self.width <= 1024:
            raise UserError(f"{self.name}: width={self.width}; accepted: 1 to 1024")
        if not 1 <= self.pack <= 256:
            raise UserError(f"{self.name}: pack={self.pack}; accepted: 1 to 256 autoencoders of each kind")
        if not 0 <= self.diversity < 1:
            raise UserError(f"{self.name}: diversity={self.diversity:g}; accepted: 0 to less than 1, such as 0.2")
        Recipe(epochs=1 if self.epochs is None else self.epochs, learning_rate=self.learning_rate)

    def fit(self, bench: Bench, threat: Threat | None) -> Fitted:
        """Both autoencoders, and the unit of each error."""
        seen = bench.over(lambda x: x)
        data = from_tensors(seen.cpu(), bench.y.cpu(), num_classes=bench.system.num_classes)
        shop = Workshop(train=replace(data, split="train"), seed=bench.seed, device=seen.device)
        fitted: Fitted = {}
        for word in self.words(bench.system):
            weights = learned(
                self._maker(bench.system, word),
                data,
                noisy(self.sigma),
                shop,
                word=word,
                epochs=self.epochs,
                least=_STEPS,
                learning_rate=self.learning_rate,
            )
            fitted |= {f"{word}.{name}": value.to(seen.device) for name, value in weights.items()}
        score = self.scorer(bench.system, fitted).to(seen.device).eval()
        errors = bench.over(score.errors, random=self.random)
        return {**fitted, "units": torch.stack([threshold_at(self.fpr, column) for column in errors.T]).float()}

    @property
    def random(self) -> bool:
        """Whether there is something to draw from."""
        return self.pack > 1

    def words(self, system: System) -> tuple[str, ...]:
        """The kinds of autoencoders that are used; the reformer is the first of them."""
        return ("first", "second") if system.input_shape[0] == 1 else ("second",)

    def _maker(self, system: System, word: str) -> Callable[[], nn.Module]:
        """Makes a fresh autoencoder of the kind, or a pack of them."""
        kind = FirstAutoencoder if word == "first" else SecondAutoencoder

        def make() -> nn.Module:
            return kind(system.input_shape[0], self.width)

        return (lambda: Pack(make, self.pack, self.diversity)) if self.random else make

    def scorer(self, system: System, fitted: Fitted) -> "Score":
        """The largest error in its own unit; without units, in one of 1."""
        parts = {word: restored(self._maker(system, word), _under(f"{word}.", fitted)) for word in self.words(system)}
        softened = system.input_shape[0] != 1 if self.divergence is None else self.divergence
        reformer = next(iter(parts.values()))
        return Score(
            parts.get("first"), parts["second"], reformer, system.model if softened else None, fitted.get("units")
        )

    def defend(self, system: System, workshop: Workshop) -> System:
        """The detector beside the system, and the reformer in front of its model.

        Raises:
            UserError: it has a detector already.
        """
        defended = super().defend(system, workshop)
        assert defended.detector is not None
        score = defended.detector.score
        assert isinstance(score, Score)
        if self.random:
            reformer = score.reformer
            part = Purifier(apply=reformer, random=True, modules=(reformer,), name=f"one of {self.pack} autoencoders")
            detector = replace(defended.detector, before=1)
            return replace(defended, purifiers=(*defended.purifiers, part), detector=detector)
        # In front of the model and not among the purifiers: the detector looks at what has not been reformed.
        bypass = system.differentiable_as
        return replace(
            defended,
            model=Reformed(score.reformer, system.model),
            differentiable_as=None if bypass is None else Reformed(score.reformer, bypass),
        )


class Reformed(nn.Module):
    """A classifier that is shown reconstructions."""

    def __init__(self, reformer: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.reformer, self.model = reformer, model

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> logits (n, k)."""
        return self.model(self.reformer(x))


class Score(nn.Module):
    """Images to the largest of several errors, each in its own unit, (n,).

    Of a `Pack` one member is drawn, and of the next the one in the same place.

    Args:
        squared: the autoencoder whose squared error counts, or None. absolute: the one whose absolute error does.
        model: the classifier whose answers are compared, or None: they are not. units: one for each error.
    """

    units: Tensor

    def __init__(
        self,
        squared: nn.Module | None,
        absolute: nn.Module,
        reformer: nn.Module,
        model: nn.Module | None,
        units: Tensor | None,
    ) -> None:
        super().__init__()
        self.squared, self.absolute, self.reformer, self.model = squared, absolute, reformer, model
        self.register_buffer("units", torch.ones(()) if units is None else units.clamp(min=_LEAST))

    def forward(self, x: Tensor, draws: Draws | None = None, index: Tensor | int = 0) -> Tensor:
        """(n, c, h, w) -> (n,)."""
        return (self.errors(x, draws, index) / self.units).amax(1)

    def errors(self, x: Tensor, draws: Draws | None = None, index: Tensor | int = 0) -> Tensor:
        """(n, c, h, w) -> (n, how many)."""

        def back(part: nn.Module) -> Tensor:
            made: Tensor = part(x, draws, index) if isinstance(part, Pack) else part(x)
            return made

        found = [] if self.squared is None else [(x - back(self.squared)).square().flatten(1).mean(1)]
        found.append((x - back(self.absolute)).abs().flatten(1).mean(1))
        if self.model is not None:
            pair = self.model(x), self.model(back(self.reformer))
            found += [jensen_shannon(*pair, temperature) for temperature in _TEMPERATURES]
        return torch.stack(found, 1)


def jensen_shannon(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The divergence between two answers (n, k), softened by a temperature: (n,), from 0 to ln 2."""
    p, q = (one / temperature).log_softmax(1), (other / temperature).log_softmax(1)
    middle = torch.logaddexp(p, q) - torch.tensor(2.0).log()
    halves = (F.kl_div(middle, each, reduction="none", log_target=True).sum(1) for each in (p, q))
    return torch.stack(tuple(halves)).mean(0)


def _under(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in fitted.items() if name.startswith(prefix)}
