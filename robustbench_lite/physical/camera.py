"""A camera: the ranges that its settings are drawn from, and what it makes of an image."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.physical import sensor, warp
from robustbench_lite.physical.jpeg import jpeg
from robustbench_lite.physical.ranges import Range, checked, range_text
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a setting means, from where to where it is accepted, and how many numbers it draws (-1: one a colour)."""

    text: str
    low: float
    high: float
    count: int = 1


#: the settings that are ranges, in the order in which they are drawn
RANGES: Mapping[str, Setting] = {
    "rotation": Setting(low=-360, high=360, text="degrees in the plane, counter-clockwise"),
    "yaw": Setting(low=-80, high=80, text="degrees about the upright axis: seen from the side"),
    "pitch": Setting(low=-80, high=80, text="degrees about the lying axis: seen from above or below"),
    "scale": Setting(low=0.05, high=20, text="size in the frame"),
    "distance": Setting(low=0.1, high=20, text="in units of where it fills the frame: size is scale / distance"),
    "translation": Setting(low=-1, high=1, count=2, text="shift right and up, in sides of the frame"),
    "slide": Setting(low=-1, high=1, count=2, text="the same, as a share of what keeps it, or its frame, inside"),
    "background": Setting(low=0, high=1, count=-1, text="what lies around the picture, drawn for each colour"),
    "contrast": Setting(low=0, high=10, text="factor about mid-grey"),
    "brightness": Setting(low=-1, high=1, text="what is added"),
    "gamma": Setting(low=0.1, high=10, text="exponent"),
    "tint": Setting(low=0, high=10, count=-1, text="factor, drawn for each colour"),
    "blur": Setting(low=0, high=20, text="standard deviation in pixels"),
    "noise": Setting(low=0, high=1, text="standard deviation of the sensor's noise"),
    "jpeg": Setting(low=1, high=100, text="quality of the file; none: no JPEG"),
}
FLAGS: Mapping[str, str] = {
    "bits": "true: round to 256 levels",
    "crop": "true: cut the photograph to the picture and bring it back to its size",
}


@dataclass(frozen=True, kw_only=True)
class View(Rows):
    """The settings of one draw: (n,) float64 each, (n, 2) right and up, (n, c) a colour."""

    rotation: Tensor
    yaw: Tensor
    pitch: Tensor
    scale: Tensor
    distance: Tensor
    translation: Tensor
    slide: Tensor
    background: Tensor
    contrast: Tensor
    brightness: Tensor
    gamma: Tensor
    tint: Tensor
    blur: Tensor
    noise: Tensor
    jpeg: Tensor


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Every setting is drawn uniformly from its range, anew for each image and draw; a range of one number is fixed.

    In this order: the picture is posed before a pinhole camera, on a background; light (contrast about mid-grey, then
    brightness, gamma, tint); blur; noise; the box [0, 1]; 256 levels; JPEG. Where the picture is made smaller, it is
    blurred before, as a lens and pixels of some width do. With `crop` the photograph is cut to the picture and brought
    back to its size: a distance then costs resolution, and up close nothing (noise and blur become finer); without, the
    picture grows and shrinks in the frame.

    Raises:
        UserError: a range outside the limits.
    """

    version: ClassVar[int] = 1
    rotation: Range = (0, 0)
    yaw: Range = (0, 0)
    pitch: Range = (0, 0)
    scale: Range = (1, 1)
    distance: Range = (1, 1)
    translation: Range = (0, 0)
    slide: Range = (0, 0)
    background: Range = (0, 0)
    contrast: Range = (1, 1)
    brightness: Range = (0, 0)
    gamma: Range = (1, 1)
    tint: Range = (1, 1)
    blur: Range = (0, 0)
    noise: Range = (0, 0)
    jpeg: Range | None = None
    bits: bool = False
    crop: bool = False

    def __post_init__(self) -> None:
        for name, setting in RANGES.items():
            if (given := getattr(self, name)) is None:  # no JPEG
                continue
            found = checked((float(given[0]), float(given[1])), f"physical: {name}")
            if not (setting.low <= found[0] and found[1] <= setting.high):
                limits = f"from {setting.low:g} to {setting.high:g}"
                raise UserError(f"physical: {name}={range_text(found)}; accepted: {limits}")
            object.__setattr__(self, name, found)

    def __str__(self) -> str:
        """The spec that makes it."""
        parts = [f"{name}={text}" for name, text in self.texts().items()]
        return f"physical:{','.join(parts)}" if parts else "physical:none"

    def texts(self) -> dict[str, str]:
        """What differs from a camera that does nothing, as texts that read back."""
        found = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                found[item.name] = range_text(value) if isinstance(value, tuple) else str(value).lower()
        return found

    def draw(self, draws: Draws, index: Tensor | int, channels: int) -> View:
        """The settings of this draw for every row; widening one range leaves the other settings as they were."""
        counts = [channels if setting.count == -1 else setting.count for setting in RANGES.values()]
        uniform = draws.uniform((sum(counts),), "physical", index).double()
        values: dict[str, Tensor] = {}
        for (name, setting), part in zip(RANGES.items(), uniform.split(counts, 1), strict=True):
            low, high = getattr(self, name) or (100.0, 100.0)
            value = low + (high - low) * part
            values[name] = value[:, 0] if setting.count == 1 else value
        return View(**values)

    def photograph(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """What the camera makes of the images x (n, c, h, w) at this draw; differentiable in x."""
        assert draws is not None, "a camera draws its settings from the samples' streams"
        view = self.draw(draws, index, x.shape[1])
        noise = draws.normal(x.shape[1:], "physical-noise", index) if self.uses("noise") else None
        return self.render(x, view, noise)

    def render(self, x: Tensor, view: View, noise: Tensor | None = None) -> Tensor:
        """The photograph with these settings; `noise` (n, c, h, w) of unit size."""
        size = view.scale / view.distance
        near = size.clamp(min=1) if self.crop else torch.ones_like(size)
        x = self._posed(x, view, size)
        x = self._lit(x, view)
        if self.uses("blur"):
            x = sensor.blur(x, view.blur / near, self.blur[1])
        if noise is not None:
            x = x + noise * along((view.noise / near).to(x.dtype), x)
        if self.uses("contrast", "brightness", "gamma", "tint", "blur", "noise"):
            x = x.clamp(0, 1)
        if self.bits:
            x = sensor.levels(x)
        if self.jpeg is not None:
            x = jpeg(x, view.jpeg)
        return self._cut(x, view, size) if self.crop else x

    def uses(self, *names: str) -> bool:
        """Whether one of these settings can do anything."""
        return any(getattr(self, name) != getattr(Camera, name) for name in names)

    def seen_from(self, distance: float, yaw: float) -> "Camera":
        """The same camera at one distance and angle."""
        return replace(self, distance=(distance, distance), yaw=(yaw, yaw))

    @cached_property
    def _smallest(self) -> float:
        return self.scale[0] / self.distance[1]

    def _posed(self, x: Tensor, view: View, size: Tensor) -> Tensor:
        """The picture in the frame; under `crop` it is in the middle and no larger than the frame."""
        if not self.uses("rotation", "yaw", "pitch", "scale", "distance", "translation", "slide"):
            return x
        if self._smallest < 1:
            x = sensor.blur(x, _prefilter(size), float(_prefilter(torch.tensor(self._smallest))))
        shift = self._shift(x, view, size)
        if self.crop:
            shift = (torch.zeros_like(size), torch.zeros_like(size))
        back = warp.homography(view.rotation, view.yaw, view.pitch, size.clamp(max=1) if self.crop else size, shift)
        return warp.read(x, warp.places(back, *x.shape[2:]), view.background)

    def _shift(self, x: Tensor, view: View, size: Tensor) -> tuple[Tensor, Tensor]:
        """Right and up, in half sides: what was asked for, and a share of the room that the picture has."""
        room = torch.ones_like(size) if self.crop else (size - 1).abs()
        right, up = (2 * view.translation + room[:, None] * view.slide).unbind(1)
        return right, up

    def _lit(self, x: Tensor, view: View) -> Tensor:
        if self.uses("contrast"):
            x = sensor.contrast(x, view.contrast)
        if self.uses("brightness"):
            x = x + along(view.brightness.to(x.dtype), x)
        if self.uses("gamma"):
            x = sensor.gamma(x, view.gamma)
        if self.uses("tint"):
            x = x * view.tint.to(x.dtype)[:, :, None, None]
        return x

    def _cut(self, x: Tensor, view: View, size: Tensor) -> Tensor:
        """The part of the photograph where the picture is, in its own size."""
        if not self.uses("scale", "distance", "translation", "slide"):
            return x
        none, one = torch.zeros_like(size), torch.ones_like(size)
        shift = self._shift(x, view, size)
        back = warp.homography(none, none, none, one / size.clamp(max=1), shift)
        return warp.read(x, warp.places(back, *x.shape[2:]), view.background)


def _prefilter(size: Tensor) -> Tensor:
    """Standard deviation, in pixels of the picture, of the blur that keeps a smaller one free of false patterns."""
    return 0.5 * (size.double() ** -2 - 1).clamp(min=0).sqrt()
