"""What is deployed: a classifier and everything around it, from pixels in [0, 1] to an answer.

Normalisation, resizing, purification, rejection and randomness all live inside a `System`, so attacks work in pixel space,
always. A system never changes: parts are added by making a new one.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError, cut
from robustbench_lite.guard import calling
from robustbench_lite.hashing.values import digest_and_packages
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Outputs(Rows):
    """What a system says of n images.

    Args:
        scores: (n, k) float32, logits.
        reject: (n,) float32, the detector's score minus its threshold: above 0 the image is rejected; None without one.
        code: (n, latent), the mean code. log_variance: (n, latent), of the Gaussian around it, or None where the code is a
            point. image: (n, c, h, w), the reconstruction. sigma_x2: (n,), the variance of each pixel around it, of a VAE.
            All None of a system that only classifies; see `Observed`.
    """

    scores: Tensor
    reject: Tensor | None = None
    code: Tensor | None = None
    log_variance: Tensor | None = None
    image: Tensor | None = None
    sigma_x2: Tensor | None = None

    def prediction(self) -> Tensor:
        """The class with the largest score, (n,) int64."""
        return self.scores.argmax(1)

    def accepted(self) -> Tensor:
        """Which images are not rejected, (n,) bool. A NaN detector score rejects nothing: it is no alarm."""
        if self.reject is None:
            return torch.ones(len(self.scores), dtype=torch.bool, device=self.scores.device)
        return ~(self.reject > 0)


class Observed(nn.Module):
    """A model that says more than scores: it encodes an image, reconstructs it, and has the reconstruction judged."""

    def observe(self, x: Tensor) -> Outputs:
        """Images (n, c, h, w) -> scores, code and reconstruction, all differentiable."""
        raise NotImplementedError

    def drawn(self, x: Tensor, draws: Draws, index: int = 0) -> Tensor:
        """The scores (n, k) of what a draw of the code is decoded to; where the code is a point, as `forward`."""
        return self.observe(x).scores

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> scores (n, k)."""
        return self.observe(x).scores


@dataclass(frozen=True, kw_only=True)
class Purifier:
    """A step before the classifier, images in, images out.

    Args:
        apply: (x, draws, index) -> x, all in [0, 1]; a deterministic one ignores the last two.
        surrogate: a differentiable stand-in whose gradient the adaptive adversary uses (BPDA: Athalye et al. 2018, arXiv
            1802.00420, sec. 4.1); None where `apply` is differentiable itself.
        derived: instead of a surrogate, `apply` with a gradient of its own: the same values, and backwards a derivative that
            `apply` as deployed does not have.
        random: the step draws random numbers. modules: the networks it computes with, to be frozen and moved.
        noise: standard deviation of the Gaussian noise that the step adds, where that is all it does. Such a step alone
            may leave [0, 1]: clamped noise is not Gaussian, and `certify` counts on it.
        name: what reports call it.
    """

    apply: Callable[[Tensor, Draws | None, Tensor | int], Tensor]
    surrogate: Callable[[Tensor], Tensor] | None = None
    derived: Callable[[Tensor, Draws | None, Tensor | int], Tensor] | None = None
    random: bool = False
    modules: tuple[nn.Module, ...] = ()
    noise: float = 0.0
    name: str = "purifier"

    @property
    def hidden(self) -> bool:
        """Whether who does not know the step has another gradient than who does."""
        return self.surrogate is not None or self.derived is not None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A second opinion that may reject an image.

    Args:
        score: x (n, c, h, w) -> (n,), differentiable for the adaptive adversary; larger = more suspicious.
        threshold: scores above it reject; fixed on clean calibration data.
        modules: the networks that the score is computed with, to be frozen and moved.
        random: the score draws random numbers, and is called with (x, draws, index).
        before: so many of the last purifiers are none of its business: it sees what they are given.

    Raises:
        UserError: a threshold that is no finite number.
    """

    score: Callable[..., Tensor]
    threshold: float
    modules: tuple[nn.Module, ...] = ()
    name: str = "detector"
    random: bool = False
    before: int = 0

    def __post_init__(self) -> None:
        try:
            finite = not isinstance(self.threshold, str) and math.isfinite(self.threshold)
        except (TypeError, ValueError, RuntimeError):  # no number, or a tensor of several
            finite = False
        if not finite:
            raise UserError(f"the threshold of {self.name} is {cut(repr(self.threshold))}; accepted: a finite number")

    def reject(self, x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        """By how much the score of x (n, c, h, w) is above the threshold, (n,).

        Raises:
            UserError: the score is no tensor of floating point.
        """
        score = self.score(x, draws, index) if self.random else self.score(x)
        if not isinstance(score, Tensor) or not score.is_floating_point():
            kind = str(score.dtype) if isinstance(score, Tensor) else type(score).__name__
            raise UserError(
                f"the score of {self.name} is {kind}; accepted: a tensor (n,) of floating point, larger = more suspicious"
            )
        return score - self.threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A deployed classifier: eval mode, frozen weights.

    Args:
        model: images (n, c, h, w) in [0, 1] -> logits (n, k).
        num_classes: k. input_shape: (c, h, w).
        purifiers: applied in order before the model. detector: may reject; None without one.
        randomised: the answer of one image differs from call to call.
        differentiable_as: what the adaptive adversary differentiates instead of `model` (undistilled logits, say).
        channels_last: hand the images to the model in that order of memory, which some machines compute faster in.
    """

    model: nn.Module
    num_classes: int
    input_shape: tuple[int, int, int]
    name: str = "model"
    purifiers: tuple[Purifier, ...] = ()
    detector: Detector | None = None
    model_is_random: bool = False
    differentiable_as: nn.Module | None = None
    channels_last: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    _remembered: tuple[tuple[object, ...], tuple[str, tuple[str, ...]]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for module in self.modules:
            module.eval()
            for weight in module.parameters():  # the copy of a trace has no `requires_grad_` of its own
                weight.requires_grad_(False)

    def __call__(
        self, x: Tensor, draws: Draws | None = None, index: Tensor | int = 0, *, adaptive: bool = False
    ) -> Outputs:
        """The system's answers to x (n, c, h, w); with `adaptive`, the same values with the adversary's gradients.

        Raises:
            ModelError: the model, or another part, raised. torch.OutOfMemoryError: there was not enough memory.
        """
        with calling(self.name):
            return self._answer(x, draws, index, adaptive)

    def _answer(self, x: Tensor, draws: Draws | None, index: Tensor | int, adaptive: bool) -> Outputs:
        last = len(self.purifiers) - (0 if self.detector is None else self.detector.before)
        for purifier in self.purifiers[:last]:
            x = _purify(purifier, x, draws, index, adaptive)
        reject = None
        if self.detector is not None:
            with calling(f"the detector of {self.name}"):
                reject = self.detector.reject(x, draws, index)
        for purifier in self.purifiers[last:]:
            x = _purify(purifier, x, draws, index, adaptive)
        model = self.differentiable_as if adaptive and self.differentiable_as is not None else self.model
        seen = x
        if self.channels_last and model is self.model:
            seen = x.contiguous(memory_format=torch.channels_last)
        said = model.observe(seen) if isinstance(model, Observed) else Outputs(scores=model(seen))
        return replace(said, scores=said.scores.float(), reject=reject)

    @property
    def randomised(self) -> bool:
        """Whether one image's answer differs from call to call."""
        alarm = self.detector is not None and self.detector.random
        return self.model_is_random or alarm or any(part.random for part in self.purifiers)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Every network in it, the classifier first."""
        bypass = () if self.differentiable_as is None else (self.differentiable_as,)
        alarm = () if self.detector is None else self.detector.modules
        return (self.model, *bypass, *(module for part in self.purifiers for module in part.modules), *alarm)

    @property
    def parameters(self) -> int:
        """How many numbers were learned, over all networks; one that serves twice counts once."""
        return sum(
            value.numel() for value in {id(one): one for part in self.modules for one in part.parameters()}.values()
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    def with_model(self, model: nn.Module) -> "System":
        """The same parts around another network."""
        return replace(self, model=model)

    def with_notes(self, told: Mapping[str, Any]) -> "System":
        """The same system, which tells this of itself as well."""
        return replace(self, notes={**self.notes, **told})

    def with_purifier(
        self, apply: Callable[..., Tensor], *, surrogate: Callable[[Tensor], Tensor] | None = None, name: str
    ) -> "System":
        """A deterministic purifier `apply(x) -> x` in front of everything that is there."""
        part = Purifier(apply=lambda x, draws, index: apply(x), surrogate=surrogate, name=name)
        return replace(self, purifiers=(part, *self.purifiers))

    def with_random_purifier(
        self, apply: Callable[[Tensor, Draws | None, Tensor | int], Tensor], *, name: str
    ) -> "System":
        """A purifier that draws random numbers from the sample's own streams, in front of everything that is there."""
        return replace(self, purifiers=(Purifier(apply=apply, random=True, name=name), *self.purifiers))

    def with_noise(self, sigma: float) -> "System":
        """Gaussian noise of standard deviation sigma right before the model, never clamped, from the samples' streams."""
        part = Purifier(apply=partial(_noisy, sigma=sigma), random=True, noise=sigma, name=f"noise:sigma={sigma:g}")
        return replace(self, purifiers=(*self.purifiers, part))

    def with_detector(self, detector: Detector) -> "System":
        """The same system, able to reject."""
        return replace(self, detector=detector)

    def without_detector(self) -> "System":
        """What an adversary sees who does not know of the detector."""
        return replace(self, detector=None)

    def to(self, device: torch.device | str) -> "System":
        """The same system on another device (moves the model in place, as torch does)."""
        for module in self.modules:
            module.to(device)
        return self

    @property
    def digest(self) -> str:
        """16 bytes (hex) over weights, code and parts: two systems that could answer differently differ in it."""
        return self._hashed[0]

    @property
    def packages(self) -> tuple[str, ...]:
        """The installed packages whose code it runs."""
        return self._hashed[1]

    @cached_property
    def _hashed(self) -> tuple[str, tuple[str, ...]]:
        if self._remembered is not None and all(map(operator.is_, self._remembered[0], self._parts)):
            return self._remembered[1]
        return digest_and_packages(*self.hashed_as())

    @property
    def _parts(self) -> tuple[object, ...]:
        return self.model, self.differentiable_as, self.purifiers, self.detector

    def remembered(self) -> "System":
        """The same system, which keeps its present digest as long as it has these parts: asking may change what they hold."""
        return replace(self, _remembered=(self._parts, self._hashed))

    def hashed_as(self) -> tuple[object, ...]:
        """What can change an answer; the name, and notes, cannot."""
        return self.modules, self.purifiers, self.detector, self.input_shape, self.num_classes, self.model_is_random


class _Straight(torch.autograd.Function):
    """The value of the first, the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def _noisy(x: Tensor, draws: Draws | None, index: Tensor | int, *, sigma: float) -> Tensor:
    assert draws is not None, "noise is drawn from the samples' streams"
    return x + sigma * draws.normal(x.shape[1:], "gaussian-noise", index)


def _purify(part: Purifier, x: Tensor, draws: Draws | None, index: Tensor | int, adaptive: bool) -> Tensor:
    if adaptive and part.derived is not None:
        return part.derived(x, draws, index)
    if not adaptive or part.surrogate is None:
        return part.apply(x, draws, index)
    with torch.no_grad():
        hard = part.apply(x, draws, index)
    return straight_through(hard, part.surrogate(x))


def itself(x: Tensor) -> Tensor:
    """The identity: what an adversary differentiates instead of a purifier that returns nearly what it is given."""
    return x


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of the first, the gradient of the second (BPDA: Athalye et al. 2018, arXiv 1802.00420, sec. 4.1)."""
    return cast(Tensor, _Straight.apply(hard, soft))
