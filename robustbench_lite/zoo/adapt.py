"""What stands between the dataset's pixels and a network: grey to colour, resizing, normalisation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError, cut, nearest
from robustbench_lite.specs import number
from robustbench_lite.zoo.base import Shape, by

Constants = tuple[float, ...]
Normalisation = tuple[Constants, Constants]
#: what `normalize=NAME` means: mean and std of the channels of images in [0, 1]
NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "0.5": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}
NOTHING = NORMALISATIONS["none"]
#: a larger mean, or a larger std, is in units of images from 0 to 255
_LARGEST_MEAN, _LARGEST_STD = 1.0, 5.0
#: of `Normalized`: bilinear, with antialiasing
INTERPOLATION = "bilinear"


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
    means, stds = for_channels(_read(mean, std, what), channels)
    if len(means) != channels:
        raise UserError(f"mean={mean} has {len(means)} numbers but the images have {channels} channels")
    return Normalized(network(channels), means, stds)


def for_channels(constants: Normalisation, channels: int) -> Normalisation:
    """The constants for images of so many channels; a grey one gets the mean of three colours."""
    if channels != 1:
        return constants
    mean, std = ((sum(values) / 3,) if len(values) == 3 else values for values in constants)
    return mean, std


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Options of every model that was not made for the dataset.

    Args:
        normalize: a usual normalisation by name: imagenet, cifar10, 0.5, or none (the network sees [0, 1]); a text that is
            empty where it is not given, as `none` has a meaning of its own.
        mean, std: numbers for (x - mean) / std instead, one a channel or one for all. resize: side to resize images to.
        grey: `repeat` shows a one-channel image three times.
    """

    normalize: str = ""
    mean: str | None = None
    std: str | None = None
    resize: int | None = None
    grey: Literal["repeat"] | None = None

    def check(self, what: str) -> None:
        """Refuse options that do not fit each other.

        Raises:
            UserError: `mean` without `std`, another `normalize` or one beside them, or constants in units of 0 to 255.
        """
        if self.normalize and self.normalize not in NORMALISATIONS:
            raise not_accepted(f"{what}: normalize", self.normalize, NORMALISATIONS)
        if self.normalize and (self.mean is not None or self.std is not None):
            raise UserError(
                f"{what}: normalize={self.normalize} stands for a mean and a std; give the one or the other"
            )
        if (self.mean is None) != (self.std is None):
            raise UserError(f"{what}: give mean and std together, such as ;mean=(0.5);std=(0.25)")
        if self.resize is not None and self.resize < 1:
            raise UserError(f"{what}: resize={self.resize}; accepted: 1 and more")
        if self.mean is not None and self.std is not None:
            _read(self.mean, self.std, what)

    @property
    def normalisation(self) -> Normalisation | None:
        """Mean and std that the user asks for; None: they are not named."""
        if self.normalize:
            return NORMALISATIONS[self.normalize]
        return None if self.mean is None or self.std is None else _read(self.mean, self.std, "")

    def seen(self, input_shape: Shape) -> Shape:
        """The shape of the images that the network is given."""
        channels = 3 if self._repeats(input_shape) else input_shape[0]
        height, width = input_shape[1:] if self.resize is None else (self.resize, self.resize)
        return channels, height, width

    def around(self, network: nn.Module, input_shape: Shape, what: str, own: Normalisation | None = None) -> nn.Module:
        """The network behind what these options ask for; itself where they ask for nothing and it has no constants.

        Args:
            own: the network's own mean and std, which also tell its channels.

        Raises:
            UserError: options that do not fit each other or the images.
        """
        self.check(what)
        repeat, size = self._repeats(input_shape), self._size(input_shape)
        channels = 3 if repeat else input_shape[0]
        asked = self.normalisation
        named = for_channels(NORMALISATIONS[self.normalize], channels) if self.normalize else None
        mean, std = named or asked or own or NOTHING
        _check_channels(len(mean if own is None else own[0]), mean, channels, input_shape, what)
        if own is None and size is None and not repeat and (asked is None or self.normalize == "none"):
            return network
        return Normalized(network, mean, std, size=size, repeat=repeat)

    def _repeats(self, input_shape: Shape) -> bool:
        return self.grey == "repeat" and input_shape[0] == 1

    def _size(self, input_shape: Shape) -> tuple[int, int] | None:
        if self.resize is None or input_shape[1:] == (self.resize, self.resize):
            return None
        return self.resize, self.resize


def applied(module: nn.Module) -> Normalisation | None:
    """Mean and std that a network is behind; None: none."""
    if not isinstance(module, Normalized):
        return None
    return tuple(module.mean.flatten().tolist()), tuple(module.std.flatten().tolist())


def adaptation_notes(module: nn.Module) -> dict[str, Any]:
    """What a `Normalized` does to images before the network sees them, as plain JSON values."""
    if not isinstance(module, Normalized):
        return {}
    mean, std = applied(module) or NOTHING
    told: dict[str, Any] = {"mean": list(map(_short, mean)), "std": list(map(_short, std))}
    if module.size is not None:
        told |= {"resize": list(module.size), "interpolation": INTERPOLATION}
    return told | ({"grey": "repeat"} if module.repeat else {})


def numbers(text: str, what: str) -> Constants:
    """Numbers with commas between them, such as `0.485,0.456,0.406`.

    Raises:
        UserError: it is none.
    """
    return tuple(number(part.strip(), what) for part in text.split(","))


def _text(values: Constants) -> str:
    """As a user writes them: `(0.485,0.456,0.406)`."""
    return f"({','.join(f'{value:g}' for value in values)})"


def _read(mean: str, std: str, what: str) -> Normalisation:
    """The constants, in units of images in [0, 1].

    Raises:
        UserError: no numbers, or numbers for images from 0 to 255.
    """
    means, stds = numbers(mean, "mean"), numbers(std, "std")
    if (max(means) > _LARGEST_MEAN and max(stds) < 1) or (max(stds) > _LARGEST_STD and 0 < max(means) < 1):
        raise UserError(
            f"{what + ': ' if what else ''}mean={_text(means)}, std={_text(stds)} do not belong together: one is for images"
            " from 0 to 255; accepted: both for images in [0, 1]"
        )
    if in_bytes((means, stds)):
        right = [_text(values) for values in scaled((means, stds))]
        named = f"{what}: " if what else ""
        raise UserError(
            f"{named}mean={_text(means)}, std={_text(stds)} are for images from 0 to 255, and images here"
            f" are in [0, 1]; write mean={right[0]}, std={right[1]}"
        )
    return means, stds


def in_bytes(constants: Normalisation) -> bool:
    """Whether the constants are in units of images from 0 to 255."""
    return max(constants[0]) > _LARGEST_MEAN or max(constants[1]) > _LARGEST_STD


def scaled(constants: Normalisation) -> Normalisation:
    """Constants for images from 0 to 255 as constants for images in [0, 1]."""
    mean, std = (tuple(float(f"{value / 255:.6g}") for value in values) for values in constants)
    return mean, std


def not_accepted(what: str, given: str, accepted: Iterable[str]) -> UserError:
    """The error for a value that is none of a few words."""
    words = list(accepted)
    guess = nearest(given, words)
    also = f"; did you mean {guess}?" if guess else ""
    return UserError(f"{what}={cut(given)}; accepted: {', '.join(words)}{also}")


def _short(value: float) -> float:
    """0.4914 and not 0.49140000343: the shortest number that a float32 reads back from."""
    return float(f"{value:.6g}")


def _check_channels(takes: int, mean: Constants, channels: int, input_shape: Shape, what: str) -> None:
    if takes not in (1, channels):
        hint = "; add ;grey=repeat to show them three times" if input_shape[0] == 1 and takes == 3 else ""
        raise UserError(f"{what} takes {takes} channels but the images are {by(input_shape)}{hint}")
    if len(mean) not in (1, channels):
        raise UserError(f"{what}: mean={_text(mean)} has {len(mean)} numbers but the images have {channels} channels")
