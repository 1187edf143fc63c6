"""Which pixels an answer hangs on: the slope of a class's logit, and what covering a patch does to it.

    Saliency(smooth=50).maps(system, x, k, draws)    # (n, h, w)

Simonyan, Vedaldi and Zisserman 2014, arXiv 1312.6034, sec. 3; Smilkov et al. 2017, arXiv 1706.03825 (SmoothGrad); Zeiler and
Fergus 2014, arXiv 1311.2901, sec. 4.2 (occlusion).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite import specs
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.guard import calling
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System

#: images that go through the system at once
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a map is made; `maps` gives one an image."""

    name: ClassVar[str]
    #: what the colours mean, and whether small values are the important ones
    reads: ClassVar[str]

    @property
    def forwards(self) -> int:
        """How many images go through the system for one map of a small image; 0 where it depends on the size."""
        return 0

    def check(self, height: int, width: int) -> None:
        """Refuse images of which every map would be flat.

        Raises:
            UserError: options that mean nothing at this size.
        """

    def maps(self, system: System, x: Tensor, k: Tensor, draws: Draws, *, batch: int = BATCH) -> Tensor:
        """One map an image.

        Args:
            x: (n, c, h, w) in [0, 1]. k: (n,) int64, the class that is explained.

        Returns:
            (n, h, w) float32.
        """
        parts = [self._some(system, x[cut], k[cut], draws[cut]) for cut in _cuts(len(x), batch)]
        return torch.cat(parts)

    def _some(self, system: System, x: Tensor, k: Tensor, draws: Draws) -> Tensor:
        raise NotImplementedError

    def __str__(self) -> str:
        return str(specs.Spec(self.name, specs.options_of(self)))


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """The largest slope of the class's logit over a pixel's colours, max_c |dz_k / dx_c|.

    Args:
        smooth: average the slope over so many noisy copies of the image (SmoothGrad); 0: at the image alone.
        sigma: of that noise, as a share of the image's range.
        times_input: multiply the slope by the pixel.
    """

    name: ClassVar[str] = "saliency"
    reads: ClassVar[str] = "slope of the logit; high = the answer hangs on it"
    smooth: int = 0
    sigma: float = 0.15
    times_input: bool = False

    def __post_init__(self) -> None:
        if self.smooth < 0:
            raise UserError(f"saliency: smooth={self.smooth}; accepted: 0 and more")
        if not 0 <= self.sigma < float("inf"):
            raise UserError(f"saliency: sigma={self.sigma:g}; accepted: 0 and more")

    @property
    def forwards(self) -> int:
        """One, or one a noisy copy."""
        return max(self.smooth, 1)

    def _some(self, system: System, x: Tensor, k: Tensor, draws: Draws) -> Tensor:
        if not self.smooth:
            slope = _slope(system, x, k, draws, 0)
        else:
            spread = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1) * self.sigma
            slope = torch.zeros_like(x)
            for copy in range(self.smooth):  # the noise may leave [0, 1]: a slope is asked for, no answer
                noise = draws.normal(x.shape[1:], "smooth", copy)
                slope = slope + _slope(system, x + spread * noise, k, draws, copy) / self.smooth
        return (slope * x if self.times_input else slope).abs().amax(1)


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """Cover a patch of the image, see what is left of the class, slide on; windows that overlap are averaged.

    Args:
        size: side of the patch; none: a quarter of the image's shorter side.
        stride: pixels from one window to the next; none: half the patch.
        cover: grey, the image's mean colour, black, or blur, what stands there out of focus.
        show: probability, p of the class with the patch covered (low: the answer hangs on the patch), or drop, how much its
            logit falls (high: it does).
    """

    name: ClassVar[str] = "occlusion"
    reads: ClassVar[str] = "probability with the patch covered; low = the answer hangs on it"
    size: int | None = None
    stride: int | None = None
    cover: Literal["grey", "mean", "black", "blur"] = "grey"
    show: Literal["probability", "drop"] = "probability"

    def __post_init__(self) -> None:
        for option in ("size", "stride"):
            if (given := getattr(self, option)) is not None and given < 1:
                raise UserError(f"occlusion: {option}={given}; accepted: 1 and more, or none")

    def check(self, height: int, width: int) -> None:
        """Refuse a patch that covers the whole image: there would be one window, and one value everywhere."""
        if (most := max(height, width)) <= (self.size or 0) and most > 1:
            raise UserError(
                f"occlusion: size={self.size} covers an image of {height}x{width}; accepted: 1 to {most - 1}"
            )

    def _some(self, system: System, x: Tensor, k: Tensor, draws: Draws) -> Tensor:
        cover, row = self._cover(x), torch.arange(len(x), device=x.device)
        whole = system(x, draws, 0).scores[row, k]
        total, seen = x.new_zeros((len(x), *x.shape[2:])), x.new_zeros(x.shape[2:])
        with torch.no_grad():
            for number, (top, left, high, wide) in enumerate(self.windows(x.shape[2], x.shape[3])):
                covered = x.clone()
                place = (..., slice(top, top + high), slice(left, left + wide))
                covered[place] = cover[place]
                scores = system(covered, draws, number + 1).scores
                value = scores.softmax(1)[row, k] if self.show == "probability" else whole - scores[row, k]
                total[place] += value[:, None, None]
                seen[place] += 1
        return total / seen

    def windows(self, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """Every window's top, left, height and width; all of them lie inside, and together they cover the image."""
        size = self.size or max(min(height, width) // 4, 1)
        stride = min(self.stride or max(size // 2, 1), size)
        high, wide = min(size, height), min(size, width)
        for top in _places(height - high, stride):
            for left in _places(width - wide, stride):
                yield top, left, high, wide

    def _cover(self, x: Tensor) -> Tensor:
        """What stands where the patch is, (n, c, h, w)."""
        if self.cover == "mean":
            return x.mean((2, 3), keepdim=True).expand_as(x)
        if self.cover == "blur":
            side = 2 * max(min(x.shape[2:]) // 4, 1) + 1
            padded = F.pad(x, [side // 2] * 4, mode="replicate")
            return F.avg_pool2d(padded, side, stride=1)
        return torch.full_like(x, 0.5 if self.cover == "grey" else 0.0)


METHODS: dict[str, type[Method]] = {"saliency": Saliency, "occlusion": Occlusion}


def method(text: str | Method) -> Method:
    """The method of a spec string such as `saliency:smooth=50` or `occlusion:size=4,show=drop`.

    Raises:
        UserError: an unknown name, option or value.
    """
    if isinstance(text, Method):
        return text
    spec = specs.parse(text)
    if spec.name.lower() not in METHODS:
        raise unknown("method", spec.name, METHODS)
    return specs.build(METHODS[spec.name.lower()], spec.options)


def _slope(system: System, x: Tensor, k: Tensor, draws: Draws, index: int) -> Tensor:
    """dz_k / dx, (n, c, h, w)."""
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        scores = system(leaf, draws, index, adaptive=True).scores
        chosen = scores.gather(1, k[:, None]).sum()
        if not chosen.requires_grad:
            raise UserError(f"no gradient comes through {system.name}, so it has no saliency; take method=occlusion")
        with calling(system.name):
            (found,) = torch.autograd.grad(chosen, leaf)
    return found


def _places(last: int, stride: int) -> list[int]:
    """0, stride, 2 stride, … and the last one."""
    return sorted({*range(0, last, stride), last})


def _cuts(count: int, batch: int) -> Iterator[slice]:
    for begin in range(0, count, batch):
        yield slice(begin, begin + batch)
