"""Untrained convolutional networks, one for each image of a batch, that run side by side."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.randomness import Draws

#: channels of the random input, and its range (Ulyanov et al. 2018, arXiv 1711.10925, supplement)
_INPUT, _RANGE = 8, 0.1
_SLOPE = 0.2
_DUST = 1e-5


@dataclass(frozen=True, kw_only=True)
class Hourglass:
    """An encoder that halves the size `scales` times, and a decoder that is shown each size on its way back.

    Every convolution (3 x 3) but the last is followed by a normalisation of each map of each image (Ulyanov et al. 2016,
    arXiv 1607.08022) and a leaky ReLU. Weights are (n, out, in * 9): a batched matrix product over unfolded maps, so image
    i feels no weight but its own, and n networks cost about as much as one on n images.

    Args:
        shape: (c, h, w) of the images. width: channels. scales: 1 and more, while no side gets below 2 pixels.
    """

    shape: tuple[int, int, int]
    width: int
    scales: int

    @property
    def channels(self) -> list[tuple[int, int]]:
        """(in, out) of every convolution: the encoder's, the deepest, the decoder's, the one that shows the image."""
        encoder = [(_INPUT, self.width), *[(self.width, self.width)] * self.scales]
        return [*encoder, *[(2 * self.width, self.width)] * self.scales, (self.width, self.shape[0])]

    def fresh(self, draws: Draws, index: Tensor | int) -> list[Tensor]:
        """Weights, gain and shift of every convolution, in turn, each of them a row an image.

        Weights are uniform within 1 / sqrt(in * 9), as torch begins.
        """
        sizes = [out * given * 9 for given, out in self.channels]
        lots = 2 * draws.uniform((sum(sizes),), "prior-weights", index) - 1
        ends = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        made = list[Tensor]()
        for (given, out), (begin, end) in zip(self.channels, pairwise(ends), strict=True):
            made.append(lots[:, begin:end].view(-1, out, given * 9) / math.sqrt(given * 9))
            made += [lots.new_ones((len(lots), out, 1)), lots.new_zeros((len(lots), out, 1))]
        return made

    def input(self, draws: Draws, index: Tensor | int) -> Tensor:
        """What the networks are shown, (n, 8, h, w), uniform from 0 to 0.1."""
        return _RANGE * draws.uniform((_INPUT, *self.shape[1:]), "prior-input", index)

    def noise(self, draws: Draws, index: Tensor | int, step: int) -> Tensor:
        """Standard normal noise of the input's size, another at every step."""
        return draws.normal((_INPUT, *self.shape[1:]), "prior-jitter", index, step)

    def show(self, weights: list[Tensor], z: Tensor) -> Tensor:
        """The images (n, c, h, w) in (0, 1) that these weights make of the input z."""
        layers = [weights[at : at + 3] for at in range(0, len(weights), 3)]
        wide, x = list[Tensor](), z
        for layer in layers[: self.scales]:
            wide.append(_layer(x, *layer))
            x = F.avg_pool2d(wide[-1], 2, ceil_mode=True)
        x = _layer(x, *layers[self.scales])
        for layer in layers[self.scales + 1 : -1]:
            fine = wide.pop()
            x = _layer(torch.cat((_enlarged(x, fine), fine), 1), *layer)
        weight, gain, shift = layers[-1]
        return (_convolved(x, weight) * gain[..., None] + shift[..., None]).sigmoid()


def psnr(x: Tensor, clean: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of images in [0, 1], (n,) in dB: 10 log10(1 / mean squared error)."""
    return -10 * (x - clean).square().flatten(1).mean(1).clamp(min=1e-12).log10()


def _layer(x: Tensor, weight: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    maps = _convolved(x, weight)
    spread, mean = torch.var_mean(maps, (2, 3), correction=0, keepdim=True)
    maps = (maps - mean) * (spread + _DUST).rsqrt()
    return F.leaky_relu(maps * gain[..., None] + shift[..., None], _SLOPE)


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    """Every image (n, in, h, w) with its own 3 x 3 weights (n, out, in * 9), black around it: (n, out, h, w)."""
    return torch.bmm(weight, F.unfold(x, 3, padding=1)).view(len(x), weight.shape[1], *x.shape[2:])


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, as two matrix products: torch's own has no deterministic gradient on a GPU."""
    down, across = (_bilinear(x.shape[axis], like.shape[axis], x) for axis in (2, 3))
    return down @ x @ across.T


def _bilinear(size: int, wanted: int, like: Tensor) -> Tensor:
    """(wanted, size): the weights of the old places in the new ones."""
    place = ((torch.arange(wanted, device=like.device) + 0.5) * (size / wanted) - 0.5).clamp(0, size - 1)
    far = (place[:, None] - torch.arange(size, device=like.device)).abs()
    return (1 - far).clamp(min=0).to(like.dtype)
