"""How images are resized and cropped for the pretrained weights of timm and torchvision, told without making a network."""

import math
from dataclasses import dataclass, replace
from typing import Any

from robustbench_lite import specs
from robustbench_lite.zoo.adapt import NORMALISATIONS, Normalisation

_SIDES = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A hub's recipe for images of any size.

    Args:
        resize: the shorter side in pixels, or (height, width) where the sides are not kept in proportion.
        crop: (height, width) of the middle that is cut out. crop_mode: timm's word: `center`, `squash` or `border`.
        interpolation: `bilinear`, `bicubic` and so on. mean, std: of the channels of images in [0, 1]; a model that is loaded
            from the same spec applies them itself.
        num_classes: of the pretrained head, where it is told.
    """

    resize: int | _SIDES
    crop: _SIDES
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"
    num_classes: int | None = None


def preprocessing(text: str) -> Preprocessing | None:
    """The recipe of `timm:NAME` or `torchvision:NAME`; None of any other model, and of a name that the hub does not have.

    Of timm it is the one that its model cards show (`resolve_model_data_config`), not that of larger test images.
    The option `img_size` of a spec changes the sizes.

    Raises:
        UserError: as `specs.parse_source`.
    """
    spec = specs.parse_source(text)
    hub, _, name = spec.name.partition(":")
    recipes = {"timm": _timm, "torchvision": _torchvision}
    found = recipes[hub.lower()](name) if hub.lower() in recipes else None
    side = spec.options.get("img_size", "")
    if found is None or not side.isdigit() or int(side) == 0:
        return found
    scale = int(side) / found.crop[0]
    resize = found.resize if isinstance(found.resize, int) else found.resize[0]
    sides = math.floor(resize * scale)
    return replace(
        found, crop=(int(side), int(side)), resize=sides if isinstance(found.resize, int) else (sides, sides)
    )


def _timm(name: str) -> Preprocessing | None:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        return None
    recipe = timm.get_pretrained_cfg(name)
    if recipe is None:
        return None
    config: dict[str, Any] = resolve_data_config({}, pretrained_cfg=recipe.to_dict())
    height, width = config["input_size"][-2:]
    share = config["crop_pct"] or 1.0
    # timm keeps the sides in proportion only where the cut is square and in the middle
    sides = math.floor(height / share), math.floor(width / share)
    kept = config["crop_mode"] != "squash" and height == width
    return Preprocessing(
        resize=sides[0] if kept else sides,
        crop=(height, width),
        interpolation=str(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=str(config["crop_mode"]),
        num_classes=recipe.num_classes or None,
    )


def _torchvision(name: str) -> Preprocessing | None:
    from torchvision import models

    if name not in models.list_models(models):
        return None
    weights = models.get_model_weights(name).DEFAULT
    presets = weights.transforms()
    mean, std = _constants(presets)
    crop, resize = presets.crop_size, presets.resize_size
    return Preprocessing(
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        crop=(crop[0], crop[-1]),
        interpolation=presets.interpolation.value,
        mean=mean,
        std=std,
        num_classes=len(weights.meta.get("categories", ())) or None,
    )


def _constants(presets: Any) -> Normalisation:
    mean, std = NORMALISATIONS["imagenet"]
    return tuple(getattr(presets, "mean", mean)), tuple(getattr(presets, "std", std))
