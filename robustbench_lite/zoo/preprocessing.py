"""How a hub's model wants its images: the resize, crop and interpolation that its weights were trained and measured with."""

import math
from dataclasses import dataclass
from typing import Any

from robustbench_lite import specs


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A model's preprocessing.

    Args:
        resize: of the shorter side, in pixels. size: of the centre that is cropped. interpolation: `bilinear`, `bicubic`.
        mean, std: of the normalisation inside the model.
    """

    resize: int
    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocessing(text: str) -> Preprocessing | None:
    """The preprocessing of the model that a spec names, from its hub's own metadata; None where nobody tells.

    Raises:
        UserError: as `specs.parse_source`.
    """
    spec = specs.parse_source(text)
    hub, _, name = spec.name.partition(":")
    if "resize" in spec.options:  # the model resizes by itself
        return None
    if hub.lower() == "timm":
        return _timm(name)
    return _torchvision(name) if hub.lower() == "torchvision" else None


def _timm(name: str) -> Preprocessing | None:
    import timm
    from timm.data.config import resolve_data_config

    try:
        known = timm.get_pretrained_cfg(name)
    except Exception:  # an unknown tag; whoever loads the model says so
        return None
    if known is None:
        return None
    config: dict[str, Any] = resolve_data_config({}, pretrained_cfg=known.to_dict())
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] != "center":
        return None
    return Preprocessing(
        resize=math.floor(height / config["crop_pct"]),
        size=height,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _torchvision(name: str) -> Preprocessing | None:
    from torchvision import models

    if name not in models.list_models(models):
        return None
    presets = models.get_model_weights(name).DEFAULT.transforms()
    try:
        (resize,), (size,) = presets.resize_size, presets.crop_size
        return Preprocessing(
            resize=int(resize),
            size=int(size),
            interpolation=str(presets.interpolation.value),
            mean=tuple(presets.mean),
            std=tuple(presets.std),
        )
    except (AttributeError, TypeError, ValueError):  # detection, segmentation and video have other presets
        return None
