"""Cameras by name, and how a user writes one: a name, settings, both, or a TOML file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from robustbench_lite.errors import UserError, nearest, unknown
from robustbench_lite.physical.camera import FLAGS, RANGES, Camera
from robustbench_lite.physical.ranges import Range, parse_range

#: shorthand for several settings at once
SEVERAL: Mapping[str, tuple[str, ...]] = {"perspective": ("yaw", "pitch")}
PREFIX = "physical:"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A camera with a name: what it is, and whose numbers these are."""

    camera: Camera
    what: str
    source: str = ""


#: the sensor of the sweep over distances and angles
SENSOR = Camera(blur=(0.5, 0.5), noise=(2 / 255, 2 / 255), bits=True, crop=True)
PRESETS: Mapping[str, Preset] = {
    "none": Preset(camera=Camera(), what="Nothing is changed: the system as it is, judged as if it were random."),
    "print-photo": Preset(
        camera=Camera(
            rotation=(-5, 5),
            yaw=(-5, 5),
            pitch=(-5, 5),
            scale=(0.9, 1.05),
            slide=(-1, 1),
            contrast=(0.8, 1.1),
            brightness=(-0.05, 0.05),
            gamma=(0.8, 1.25),
            tint=(0.9, 1.1),
            blur=(0.3, 0.8),
            noise=(0, 0.02),
            jpeg=(75, 95),
            bits=True,
        ),
        what="A print, photographed by hand from the front: small angles, faded and tinted, soft, noisy, JPEG.",
        source="in the manner of Kurakin, Goodfellow and Bengio 2017, arXiv 1607.02533; the ranges are our own",
    ),
    "distance-sweep": Preset(
        camera=replace(SENSOR, distance=(0.5, 3), yaw=(-45, 45)),
        what="Seen from half to three times the distance and up to 45 degrees from the side, cut to the picture.",
        source="in the manner of Lu, Sibai, Fabry and Forsyth 2017, arXiv 1707.03501; the ranges are our own",
    ),
    "athalye-2d": Preset(
        camera=Camera(
            scale=(0.9, 1.4), rotation=(-22.5, 22.5), brightness=(-0.05, 0.05), noise=(0, 0.1), slide=(-1, 1)
        ),
        what="Size, turn, light, noise and place in the plane.",
        source="Athalye et al. 2018, Synthesizing robust adversarial examples, arXiv 1707.07397, sec. 4.1",
    ),
    "camera-shake": Preset(
        camera=Camera(translation=(-0.05, 0.05), blur=(0.3, 1), noise=(0, 0.03), bits=True),
        what="A steady view with small shifts, some blur and noise.",
    ),
}


def resolve_camera(spec: "str | Camera") -> Camera:
    """A camera from `print-photo`, `rotation=±30,scale=0.7..1.3`, `print-photo,jpeg=50` or `FILE.toml`.

    `physical:` may stand before it.

    Raises:
        UserError: an unknown name or setting, a range that is none, or a file that cannot be read.
    """
    if isinstance(spec, Camera):
        return spec
    first, *rest = (part.strip() for part in spec.strip().removeprefix(PREFIX).split(","))
    if "=" in first:
        base, rest = Camera(), [first, *rest]
    elif first.endswith(".toml"):
        base = from_toml(_text_of(Path(first)), first)
    elif first.lower() in PRESETS:
        base = PRESETS[first.lower()].camera
    else:
        raise _unknown(first, spec)
    pairs = [_pair(part, spec) for part in rest]
    twice = [name for name, _ in pairs if [key for key, _ in pairs].count(name) > 1]
    if twice:
        raise UserError(f"the setting {twice[0]!r} is given twice in {spec!r}")
    return with_settings(base, dict(pairs))


def with_settings(base: Camera, settings: Mapping[str, str]) -> Camera:
    """The camera with other settings, as texts.

    Raises:
        UserError: a setting that there is not, or a value that does not fit.
    """
    changes: dict[str, Any] = {}
    for given, text in settings.items():
        name = given.replace("-", "_").lower()
        if name not in (*RANGES, *FLAGS, *SEVERAL):
            guess = nearest(name, (*RANGES, *FLAGS, *SEVERAL))
            also = f"; did you mean {guess}?" if guess else ""
            raise UserError(f"physical has no setting {given!r}; it has {', '.join((*RANGES, *FLAGS, *SEVERAL))}{also}")
        value = _value(name, text)
        changes |= dict.fromkeys(SEVERAL.get(name, (name,)), value)
    return replace(base, **changes)


def to_toml(camera: Camera) -> str:
    """The camera as TOML; `from_toml` reads it back to an equal one."""
    values: dict[str, Any] = {}
    for name in camera.texts():
        value = getattr(camera, name)
        values[name] = list(value) if isinstance(value, tuple) else value
    return tomli_w.dumps(values)


def from_toml(text: str, source: str = "the camera") -> Camera:
    """A camera from TOML: `rotation = [-30, 30]`, `"±30"` or `5`; `base = "print-photo"` is what it changes.

    Raises:
        UserError: not TOML, or as `with_settings`.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not TOML: {error}") from None
    base = table.pop("base", "none")
    if not isinstance(base, str) or base.lower() not in PRESETS:
        raise unknown("camera", str(base), PRESETS, "rbl list physical")
    try:
        return with_settings(PRESETS[base.lower()].camera, {name: _written(value) for name, value in table.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _value(name: str, text: str) -> Range | bool | None:
    if name in FLAGS:
        if text.lower() not in ("true", "false"):
            raise UserError(f"physical: {name}={text}; accepted: true, false")
        return text.lower() == "true"
    if name == "jpeg" and text.lower() == "none":
        return None
    return parse_range(text, f"physical: {name}")


def _written(value: object) -> str:
    """A TOML value as a user would write it in a spec."""
    if isinstance(value, list) and len(value) == 2:
        return "..".join(_written(end) for end in value)
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def _pair(part: str, spec: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals or not name.strip():
        raise UserError(f"cannot read {part!r} in {spec!r}; write NAME, or setting=low..high,setting=±reach")
    return name.strip(), value.strip().removeprefix("(").removesuffix(")")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the camera {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read the camera {str(path)!r}: it is no text in UTF-8") from None


def _unknown(first: str, spec: str) -> UserError:
    if not first:
        return UserError(f"cannot read {spec!r}; write physical:NAME, physical:setting=low..high or physical:FILE.toml")
    return unknown("camera", first, PRESETS, "rbl list physical")
