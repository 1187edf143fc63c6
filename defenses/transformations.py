"""Transformations of the image before the classifier sees it, always the same ones: JPEG, fewer bits, filters."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.physical import sensor
from robustbench_lite.physical.jpeg import jpeg
from robustbench_lite.system import System, straight_through


@dataclass(frozen=True, kw_only=True)
class _Transformation(Defense):
    """`transform` before the classifier; its own gradient where it has one, else that of doing nothing (BPDA)."""

    adaptivity: ClassVar[Adaptivity] = "adaptive"

    def transform(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) in [0, 1] to such images."""
        raise NotImplementedError

    def defend(self, system: System, workshop: Workshop) -> System:
        """The transformation in front of the system."""
        soft = _itself if self.adaptivity == "adaptive" else None
        return system.with_purifier(self.transform, surrogate=soft, name=str(self))

    def refuse_outside(self, name: str, low: float, high: float) -> None:
        """Refuse an option out of its range.

        Raises:
            UserError: saying which.
        """
        value = getattr(self, name)
        if not low <= value <= high:
            raise UserError(f"{self.name}: {name}={value:g}; accepted: {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class JPEG(_Transformation):
    """Store the image as JPEG and read it back: what is hard to see is rounded away.

    It has no gradient, so plain white-box attacks report robustness that is not there; the adaptive adversary
    differentiates the identity instead. The arithmetic is libjpeg's, colour at half resolution.

    Args:
        quality: 1 to 100, as libjpeg counts; a lower one rounds more.
    """

    name: ClassVar[str] = "jpeg"
    source: ClassVar[str] = (
        "Dziugaite, Ghahramani, Roy 2016, arXiv 1608.00853; Guo et al. 2018, arXiv 1711.00117; "
        "broken by BPDA: Athalye, Carlini, Wagner 2018, arXiv 1802.00420"
    )
    quality: int = 75

    def __post_init__(self) -> None:
        self.refuse_outside("quality", 1, 100)

    def defend(self, system: System, workshop: Workshop) -> System:
        """The file format in front of the system.

        Raises:
            UserError: the images are neither grey nor in colour.
        """
        if system.input_shape[0] not in (1, 3):
            raise UserError(f"{self.name} takes images of 1 or 3 channels, not {system.input_shape[0]}")
        return super().defend(system, workshop)

    @torch.no_grad()
    def transform(self, x: Tensor) -> Tensor:
        return jpeg(x, torch.full((len(x),), float(self.quality), device=x.device))


@dataclass(frozen=True, kw_only=True)
class BitDepth(_Transformation):
    """Round pixels to `bits` bits before the model sees them.

    Its gradient is zero almost everywhere: plain white-box attacks report robustness that is not there. The adaptive
    adversary differentiates the identity instead (BPDA). It stops nothing that moves a pixel by more than half a step.

    Args:
        bits: 1 to 8; an 8-bit image with 8 bits stays as it is.
    """

    name: ClassVar[str] = "bit-depth"
    source: ClassVar[str] = (
        "Xu, Evans, Qi 2018, Feature squeezing, arXiv 1704.01155; Guo et al. 2018, arXiv 1711.00117; "
        "broken by BPDA: Athalye, Carlini, Wagner 2018, arXiv 1802.00420, sec. 4.1"
    )
    bits: int = 3

    def __post_init__(self) -> None:
        self.refuse_outside("bits", 1, 8)

    def transform(self, x: Tensor) -> Tensor:
        levels = 2**self.bits - 1
        return (x * levels).round() / levels


@dataclass(frozen=True, kw_only=True)
class Median(_Transformation):
    """Each pixel becomes the median of its neighbourhood: lone changed pixels vanish, edges stay.

    Its gradient goes to one pixel of each window, and that is enough: a climb along it ends lower than one along the
    gradient of the window's mean.

    Args:
        size: side of the window in pixels; an even one reaches further up and left, as scipy.ndimage.median_filter does,
            and takes the upper of the two middle values.
    """

    name: ClassVar[str] = "median"
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = "a median is one of its pixels, so it has a gradient, and a white-box attack follows it"
    source: ClassVar[str] = "Xu, Evans, Qi 2018, Feature squeezing, arXiv 1704.01155, sec. 3.2"
    size: int = 3

    def __post_init__(self) -> None:
        self.refuse_outside("size", 2, 15)

    def transform(self, x: Tensor) -> Tensor:
        before = self.size // 2
        after = self.size - 1 - before
        padded = F.pad(x, (before, after, before, after), mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.sort(-1).values[..., self.size**2 // 2]


@dataclass(frozen=True, kw_only=True)
class Blur(_Transformation):
    """Gaussian blur: high frequencies, where small perturbations like to be, are damped.

    The classifier behind it is simply another network, smooth in the image: plain white-box attacks break it.

    Args:
        sigma: standard deviation in pixels.
    """

    name: ClassVar[str] = "blur"
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = "the blur is linear, and a white-box attack differentiates it together with the network"
    source: ClassVar[str] = (
        "baseline of Xu, Evans, Qi 2018, arXiv 1704.01155, and of google-research/selfstudy-adversarial-robustness"
    )
    sigma: float = 0.5

    def __post_init__(self) -> None:
        self.refuse_outside("sigma", 0.1, 20)

    def transform(self, x: Tensor) -> Tensor:
        sigma = torch.full((len(x),), self.sigma, dtype=torch.float64, device=x.device)
        return boxed(sensor.blur(x, sigma, self.sigma))


@dataclass(frozen=True, kw_only=True)
class TotalVariation(_Transformation):
    """Replace the image by the minimiser z of |z - x|^2 / 2 + weight * TV(z): flat areas, few edges.

    TV(z) is the sum of the lengths of the discrete gradient, in each channel by itself. The dual problem is solved by a
    fixed number of accelerated projected gradient steps, and the gradient is that of these steps.

    Args:
        weight: of the variation; where the image is cut in two flat halves, their difference shrinks by
            weight * (1 / width of the one + 1 / width of the other).
        steps: of the minimisation; too few for a large weight leave it unfinished, which costs smoothness alone.
    """

    name: ClassVar[str] = "tv"
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = (
        "every step of the minimisation is differentiable, and a white-box attack unrolls them all"
    )
    source: ClassVar[str] = (
        "Rudin, Osher, Fatemi 1992, Physica D 60; Beck, Teboulle 2009, IEEE TIP 18 (the steps); as a defense: Guo et al. "
        "2018, arXiv 1711.00117; broken: Athalye, Carlini, Wagner 2018, arXiv 1802.00420"
    )
    weight: float = 0.1
    steps: int = 30

    def __post_init__(self) -> None:
        self.refuse_outside("weight", 0, 10)
        self.refuse_outside("steps", 1, 1000)

    def transform(self, x: Tensor) -> Tensor:
        if self.weight == 0:
            return x
        dual = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        ahead, momentum = dual, 1.0
        for _ in range(self.steps):
            # 8 bounds the squared norm of the discrete gradient
            climbed = ahead + _gradient(x - self.weight * _adjoint(ahead)) / (8 * self.weight)
            # Clamped before the root, whose slope at zero is infinite.
            moved = climbed / climbed.square().sum(0).clamp(min=1).sqrt()
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / grown * (moved - dual)
            dual, momentum = moved, grown
        return boxed(x - self.weight * _adjoint(dual))


def _gradient(z: Tensor) -> Tensor:
    """Differences to the pixel below and to the right, (2, n, c, h, w); zero at the border."""
    return torch.stack((F.pad(z.diff(dim=2), (0, 0, 0, 1)), F.pad(z.diff(dim=3), (0, 1))))


def _adjoint(p: Tensor) -> Tensor:
    """The transpose of `_gradient`, (n, c, h, w)."""
    down, right = p[0][:, :, :-1], p[1][:, :, :, :-1]
    return (F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))) + (F.pad(right, (1, 0)) - F.pad(right, (0, 1)))


def boxed(x: Tensor) -> Tensor:
    """Rounding dust outside [0, 1] taken off; white stays white for the gradient too."""
    return straight_through(x.detach().clamp(0, 1), x)


def _itself(x: Tensor) -> Tensor:
    return x
