"""What `rbl list physical` and `rbl show physical` print: the named cameras, and the settings of one."""

from robustbench_lite.describe import Description, Option
from robustbench_lite.physical.camera import FLAGS, RANGES, Camera
from robustbench_lite.physical.presets import PREFIX, PRESETS, Preset, resolve_camera
from robustbench_lite.physical.ranges import range_text

_TEXT = """A print-out does not keep its pixels: this draws, for each image and each look, how it is seen, and the system
is judged by many looks. Settings follow the name: `print-photo,jpeg=50..60,rotation=±30`; `perspective` sets yaw and
pitch; a file of your own is TOML with `base = "print-photo"` and `rotation = [-10, 10]`."""


def describe_cameras() -> tuple[Description, ...]:
    """Every camera that has a name."""
    return tuple(_described(name, preset) for name, preset in PRESETS.items())


def describe_camera(name: str) -> Description:
    """The camera of that name, with its settings; a spec or a file is described too.

    Raises:
        UserError: as `resolve_camera`.
    """
    key = name.strip().removeprefix(PREFIX).lower()
    preset = PRESETS.get(key) or Preset(camera=resolve_camera(name), what="A camera of your own.")
    return _described(key, preset)


def _described(name: str, preset: Preset) -> Description:
    return Description(
        kind="physical",
        name=name,
        origin="robustbench-lite",
        what=preset.what,
        text=_TEXT,
        options=_options(preset.camera),
        source=preset.source,
        shown=name,
    )


def _options(camera: Camera) -> tuple[Option, ...]:
    told = {name: setting.text for name, setting in RANGES.items()} | dict(FLAGS)
    found = []
    for name, text in told.items():
        value = getattr(camera, name)
        written = range_text(value) if isinstance(value, tuple) else "none" if value is None else str(value).lower()
        found.append(Option(name=name, type="range" if name in RANGES else "true | false", default=written, text=text))
    return tuple(found)
