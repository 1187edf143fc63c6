"""Models of timm and torchvision: classes, size and normalisation from their own metadata, weights only on request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.zoo.base import LoadedModel, Normalized, audit, by, numbers, ready
from robustbench_lite.zoo.weights import fill, read_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """What may follow `timm:NAME` or `torchvision:NAME`.

    Args:
        pretrained: fetch the hub's weights. weights: a local file of weights instead.
        random: use the fresh weights as they are; otherwise a model without weights is trained on the dataset.
        num_classes: of the head; the pretrained model's own, or the dataset's. resize: side to resize images to.
        grey: `repeat` shows a one-channel image three times. mean, std: instead of the model's own.
    """

    pretrained: bool = False
    weights: str | None = None
    random: bool = False
    num_classes: int | None = None
    resize: int | None = None
    grey: str | None = None
    mean: str | None = None
    std: str | None = None


def load_hub(
    hub: str, name: str, spec: specs.Spec, *, num_classes: int, input_shape: tuple[int, int, int], allow_pickle: bool
) -> LoadedModel:
    """The model `name` of `timm` or `torchvision`, behind its normalisation.

    Raises:
        UserError: an unknown name, weights that cannot be had, or images that it cannot take.
    """
    options = specs.build(HubOptions, spec.options, name=f"{hub}:{name}")
    make = _timm if hub == "timm" else _torchvision
    has_weights = options.pretrained or options.weights is not None
    classes = options.num_classes or (None if options.pretrained else num_classes)

    def fresh() -> nn.Module:
        network, mean, std = make(name, classes, False)
        return _wrapped(network, mean, std, options, input_shape, spec)

    network, mean, std = make(name, classes, options.pretrained)
    notes: tuple[str, ...] = ()
    if options.weights is not None:
        path = Path(options.weights).expanduser()
        held, notes = read_weights(path, allow_pickle=allow_pickle)
        fill(network, held, path)
    module = _wrapped(network, mean, std, options, input_shape, spec)
    found = audit(module.eval(), name=str(spec), num_classes=num_classes, input_shape=input_shape)
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=has_weights or options.random,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
        notes=notes,
    )


def _wrapped(
    network: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    options: HubOptions,
    input_shape: tuple[int, int, int],
    spec: specs.Spec,
) -> nn.Module:
    mean = mean if options.mean is None else numbers(options.mean, "mean")
    std = std if options.std is None else numbers(options.std, "std")
    if options.grey not in (None, "repeat"):
        raise UserError(f"grey={options.grey}; accepted: repeat")
    repeat = options.grey == "repeat" and input_shape[0] == 1
    if input_shape[0] != len(mean) and not repeat:
        hint = "; add ;grey=repeat to show them three times" if input_shape[0] == 1 else ""
        raise UserError(f"{spec} takes {len(mean)} channels but the images are {by(input_shape)}{hint}")
    size = None if options.resize is None else (options.resize, options.resize)
    return Normalized(network, mean, std, size=size, repeat=repeat)


def _timm(name: str, classes: int | None, pretrained: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    import timm
    from timm.data import resolve_data_config

    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models(), "rbl list models")
    extra = {} if classes is None else {"num_classes": classes}
    try:
        network = timm.create_model(name, pretrained=pretrained, **extra)
    except Exception as error:
        raise _not_made(f"timm:{name}", pretrained, error) from error
    config: dict[str, Any] = resolve_data_config({}, model=network)
    return network, tuple(config["mean"]), tuple(config["std"])


def _torchvision(name: str, classes: int | None, pretrained: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    from torchvision import models

    if name not in models.list_models(models):
        raise unknown("torchvision model", name, models.list_models(models), "rbl list models")
    choices = models.get_model_weights(name)
    weights = choices.DEFAULT if pretrained else None
    extra = {} if classes is None else {"num_classes": classes}
    try:
        network = models.get_model(name, weights=weights, **extra)
    except Exception as error:
        raise _not_made(f"torchvision:{name}", pretrained, error) from error
    transforms = choices.DEFAULT.transforms()
    mean, std = getattr(transforms, "mean", IMAGENET[0]), getattr(transforms, "std", IMAGENET[1])
    return network, tuple(mean), tuple(std)


def _not_made(name: str, pretrained: bool, error: Exception) -> UserError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if pretrained:
        return UserError(f"the pretrained weights of {name} could not be fetched ({first}); name a local file with ;weights=FILE")
    return UserError(f"{name} could not be made: {first}")
