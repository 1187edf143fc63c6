"""What stands between the dataset's pixels and a network: grey to colour, resizing, normalisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError
from robustbench_lite.specs import number
from robustbench_lite.zoo.base import by

Constants = tuple[float, ...]
Shape = tuple[int, int, int]


class Normalized(nn.Module):
    """A network behind (x - mean) / std, optionally resized and with grey repeated to three channels.

    Args:
        mean, std: one number a channel of the network, or one for all.
        size: (h, w) to resize to (antialiased bilinear), or None. repeat: show a one-channel image three times.

    Raises:
        UserError: mean and std do not belong together, or a std that is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Constants,
        std: Constants,
        *,
        size: tuple[int, int] | None = None,
        repeat: bool = False,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise UserError(f"mean={_text(mean)}, std={_text(std)}; accepted: one number a channel each, std above 0")
        self.network, self.size, self.repeat = network, size, repeat
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        if self.repeat:
            x = x.expand(-1, 3, -1, -1)
        scores: Tensor = self.network((x - self.mean) / self.std)
        return scores

    def extra_repr(self) -> str:
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"mean={mean}, std={std}, size={self.size}, repeat={self.repeat}"


def normalising(network: Callable[[int], nn.Module], what: str, input_shape: Shape, mean: str, std: str) -> Normalized:
    """A network for small images behind its constants; those of three colours give a grey one their mean.

    Args:
        network: makes it, from the number of channels.

    Raises:
        UserError: images of fewer than 8 pixels, or constants that do not fit them.
    """
    channels, height, width = input_shape
    if min(height, width) < 8:
        raise UserError(f"{what} takes images of 8 pixels and more, not {height}x{width}")
    means, stds = numbers(mean, "mean"), numbers(std, "std")
    if channels == 1 and len(means) == 3:
        means, stds = (sum(means) / 3,), (sum(stds) / 3,)
    if len(means) != channels:
        raise UserError(f"mean={mean} has {len(means)} numbers but the images have {channels} channels")
    return Normalized(network(channels), means, stds)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Options of every model that was not made for the dataset.

    Args:
        mean, std: numbers for (x - mean) / std, one a channel or one for all. resize: side to resize images to.
        grey: `repeat` shows a one-channel image three times.
    """

    mean: str | None = None
    std: str | None = None
    resize: int | None = None
    grey: Literal["repeat"] | None = None

    def around(
        self, network: nn.Module, input_shape: Shape, what: str, own: tuple[Constants, Constants] | None = None
    ) -> nn.Module:
        """The network behind what these options ask for; itself where they ask for nothing and it has no constants.

        Args:
            own: the network's own mean and std, which also tell its channels.

        Raises:
            UserError: options that do not fit each other or the images.
        """
        if (self.mean is None) != (self.std is None):
            raise UserError(f"{what}: give mean and std together, such as ;mean=(0.5);std=(0.25)")
        if self.resize is not None and self.resize < 1:
            raise UserError(f"{what}: resize={self.resize}; accepted: 1 and more")
        mean, std = self._constants(own)
        repeat = self.grey == "repeat" and input_shape[0] == 1
        _check_channels(len(mean if own is None else own[0]), mean, 3 if repeat else input_shape[0], input_shape, what)
        size = self._size(input_shape)
        if own is None and self.mean is None and size is None and not repeat:
            return network
        return Normalized(network, mean, std, size=size, repeat=repeat)

    def _constants(self, own: tuple[Constants, Constants] | None) -> tuple[Constants, Constants]:
        if self.mean is None or self.std is None:
            return own or ((0.0,), (1.0,))
        return numbers(self.mean, "mean"), numbers(self.std, "std")

    def _size(self, input_shape: Shape) -> tuple[int, int] | None:
        if self.resize is None or input_shape[1:] == (self.resize, self.resize):
            return None
        return self.resize, self.resize


def numbers(text: str, what: str) -> Constants:
    """Numbers with commas between them, such as `0.485,0.456,0.406`.

    Raises:
        UserError: it is none.
    """
    return tuple(number(part.strip(), what) for part in text.split(","))


def _check_channels(takes: int, mean: Constants, channels: int, input_shape: Shape, what: str) -> None:
    if takes not in (1, channels):
        hint = "; add ;grey=repeat to show them three times" if input_shape[0] == 1 and takes == 3 else ""
        raise UserError(f"{what} takes {takes} channels but the images are {by(input_shape)}{hint}")
    if len(mean) not in (1, channels):
        raise UserError(f"{what}: mean={_text(mean)} has {len(mean)} numbers but the images have {channels} channels")


def _text(values: Constants) -> str:
    return f"({','.join(f'{value:g}' for value in values)})"
