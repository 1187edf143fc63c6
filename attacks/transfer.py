"""Transfer: examples of one model, shown to another."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attack import EOT, Model, Needs
from robustbench_lite.attacks.elsewhere import Elsewhere
from robustbench_lite.attacks.options import at_least
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import System

#: the smallest share of its width that input diversity shrinks an image to (299 of 330 pixels in the paper)
SHRINK = 0.9
#: how many standard deviations the Gaussian reaches to each side
_DEVIATIONS = 3.0


@dataclass(frozen=True, kw_only=True)
class Transfer(Elsewhere):
    """Craft on another model, and show the examples to this one.

    The system under attack is never asked. How far examples transfer depends on how alike the two models are: a low
    success says that this source was a poor one, not that the system is robust, and a source that was trained as the
    system was flatters the adversary. A source without weights is trained on the data set's training images.

    The options change what the inner attack sees of the source, whatever attack it is; they can be combined. Momentum,
    and the look-ahead of NI-FGSM, belong to the inner attack: attack=(mifgsm:lookahead=true).

    Args:
        attack: the inner attack, run on the source.
        model: the source, such as (resnet56;weights=FILE); several, joined by +, answer with the mean of their logits.
        di: input diversity: the chance that a query shows the source the image shrunk to 0.9 of its width or more and
            put at a random place on black; 0: never. The paper's is 0.5.
        ti: translation invariance: the width in pixels, an odd number, of the Gaussian that the gradients are smoothed
            with; 1: none. The paper's is 15 of 299 pixels.
        si: scale invariance: how many copies, each half as bright as the one before, the gradients are averaged over;
            1: the image alone. The paper's is 5; a step costs so many queries of the source.
    """

    name: ClassVar[str] = "transfer"
    needs: ClassVar[Needs] = Needs.NOTHING
    source: ClassVar[str] = (
        "Dong et al. 2018, arXiv 1710.06081 (momentum, ensembles); Xie et al. 2019, arXiv 1803.06978 (input diversity); "
        "Dong et al. 2019, arXiv 1904.02884 (translation invariance); Lin et al. 2020, arXiv 1908.06281 (look-ahead, "
        "scale invariance)"
    )
    model: Model = field(default_factory=lambda: Model("small-cnn"))
    di: float = 0.0
    ti: int = 1
    si: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "ti", 1)
        at_least(self, "si", 1)
        if not 0 <= self.di <= 1:
            raise UserError(f"{self.name}: di={self.di:g}; accepted: a chance from 0 to 1")
        if self.ti % 2 == 0:
            raise UserError(f"{self.name}: ti={self.ti}; accepted: an odd number of pixels")
        if self.si > 1 and self.attack.eot is not None:
            raise UserError(f"{self.name}: si={self.si}, but {self.attack} averages over draws of its own")

    @property
    def crafted_on(self) -> System:
        """The source, as it is."""
        return self.model.loaded()

    def climbed(self) -> System:
        """The source, behind what the options put before it; the gradient is smoothed last."""
        system = self.crafted_on
        if self.di > 0:
            system = system.with_random_purifier(self._shrunk, name="di")
        if self.ti > 1:
            system = system.with_purifier(lambda x: x, surrogate=self._smoothed, name="ti")
        return system

    @property
    def averaged(self) -> EOT | None:
        """The copies of `si`."""
        return EOT(draws=self.si, transform=self._dimmed) if self.si > 1 else None

    def _shrunk(self, x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        """Each image at a size and place of its own, or as it is."""
        assert draws is not None  # `craft` gives them
        chance, size, top, left = draws.uniform((4,), "di", index).to(torch.float64).unbind(1)
        moved = placed(x, size, top, left)
        return torch.where(along(chance < self.di, x), moved, x)

    def _smoothed(self, x: Tensor) -> Tensor:
        """A convolution with the Gaussian, each channel by itself; its own gradient is the same convolution."""
        return smoothed(x, self.ti)

    def _dimmed(self, x: Tensor, draws: Draws, index: Tensor) -> Tensor:
        """Copy number `index` of the image; each query shows `si` of them in turn."""
        return x * along(0.5 ** (index % self.si).to(x.dtype), x)


def placed(x: Tensor, size: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Images (n, c, h, w) shrunk to between `SHRINK` of their size and one pixel less, and put on black, same shape.

    Bilinear, each row with its own numbers (n,) in [0, 1): how large, how far down and how far to the right.
    """
    height, width = x.shape[2:]
    rows = _resampling(height, size, top).to(x.dtype)
    columns = _resampling(width, size, left).to(x.dtype)
    return rows[:, None] @ x @ columns.transpose(1, 2)[:, None]


def _resampling(width: int, size: Tensor, place: Tensor) -> Tensor:
    """(n, width, width): what each new pixel takes of each old one; rows of zeros where there is black."""
    least = int(SHRINK * width)
    small = (least + (size * max(width - least, 1)).floor()).clamp(1, width)[:, None]
    begin = (place[:, None] * (width - small + 1)).floor()
    new = torch.arange(width, dtype=torch.float64, device=size.device)[None] - begin
    old = ((new + 0.5) * width / small - 0.5).clamp(0, width - 1)
    there = (new >= 0) & (new < small)
    weight = (1 - (old[:, :, None] - torch.arange(width, device=size.device)).abs()).clamp(min=0)
    return weight * there[:, :, None]


def smoothed(x: Tensor, width: int) -> Tensor:
    """Images (n, c, h, w) convolved with a Gaussian of that width, cut off at the edge; any number of channels."""
    steps = torch.linspace(-_DEVIATIONS, _DEVIATIONS, width, dtype=torch.float64, device=x.device)
    bell = torch.exp(-(steps**2) / 2)
    bell = (bell / bell.sum()).to(x.dtype)
    channels = x.shape[1]
    down, across = bell.view(1, 1, -1, 1), bell.view(1, 1, 1, -1)
    half = width // 2
    x = F.conv2d(x, down.repeat(channels, 1, 1, 1), padding=(half, 0), groups=channels)
    return F.conv2d(x, across.repeat(channels, 1, 1, 1), padding=(0, half), groups=channels)
