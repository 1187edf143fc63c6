"""Models of timm and torchvision: classes, size and normalisation from their own metadata, weights only on request."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, nearest
from robustbench_lite.zoo.adapt import Adaptation, Constants
from robustbench_lite.zoo.base import LoadedModel, audit, first_line, ready
from robustbench_lite.zoo.weights import fill, read_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Two old networks answer with three tensors while they train, and scale their input again for ImageNet's weights.
_INCEPTIONS = ("googlenet", "inception_v3")


@dataclass(frozen=True, kw_only=True)
class HubOptions(Adaptation):
    """What may follow `timm:NAME` or `torchvision:NAME`, besides the options of `Adaptation`.

    Args:
        pretrained: fetch the hub's weights; `false` takes the fresh ones as they are, like `random=true`.
        weights: a local file of weights instead. part: which network of a file that holds several.
        random: use the fresh weights as they are; otherwise a model without weights is trained on the dataset.
        num_classes: of the head; if left out, the dataset's. Pretrained weights bring their own.
    """

    pretrained: bool | None = None
    weights: str | None = None
    part: str | None = None
    random: bool = False
    num_classes: int | None = None

    def __post_init__(self) -> None:
        asked = [
            name
            for name, given in (("pretrained", self.pretrained), ("weights", self.weights), ("random", self.random))
            if given
        ]
        if len(asked) > 1:
            raise UserError(f"{asked[0]} and {asked[1]} say different things about the weights; give one of them")
        if self.pretrained and self.num_classes is not None:
            raise UserError("pretrained weights bring their own classes; num_classes would give them an untrained head")
        if self.num_classes is not None and self.num_classes < 2:
            raise UserError(f"num_classes={self.num_classes}; accepted: 2 and more")


def load_hub(
    hub: str,
    name: str,
    spec: specs.Spec,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    allow_pickle: bool,
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """The model `name` of `timm` or `torchvision`, behind its normalisation.

    Raises:
        UserError: an unknown name, weights that cannot be had, or images that it cannot take.
    """
    what = f"{hub}:{name}"
    options = specs.build(HubOptions, spec.options, name=what)
    make = partial(_timm if hub == "timm" else _torchvision, name)
    classes = options.num_classes or (None if options.pretrained else num_classes)

    def fresh() -> nn.Module:
        network, own = make(options.num_classes or num_classes, None)
        return options.around(network, input_shape, what, own)

    network, own = make(classes, "hub" if options.pretrained else "file" if options.weights else None)
    notes: tuple[str, ...] = ()
    if options.weights is not None:
        path = Path(options.weights).expanduser()
        held, notes = read_weights(path, allow_pickle=allow_pickle, part=options.part)
        notes = (*notes, *fill(network, held, path))
    module = options.around(network, input_shape, what, own).eval()
    found = audit(module, name=what, num_classes=num_classes, input_shape=input_shape, class_names=class_names)
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=options.random or options.pretrained is not None or options.weights is not None,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
        notes=notes,
    )


def _timm(name: str, classes: int | None, weights: str | None) -> tuple[nn.Module, tuple[Constants, Constants]]:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    extra: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        network = timm.create_model(name, pretrained=weights == "hub", **extra)
    except Exception as error:
        raise _not_made(f"timm:{name}", weights, error) from error
    config: dict[str, Any] = resolve_data_config({}, model=network)
    return network, (tuple(config["mean"]), tuple(config["std"]))


def _torchvision(name: str, classes: int | None, weights: str | None) -> tuple[nn.Module, tuple[Constants, Constants]]:
    from torchvision import models

    if name not in models.list_models(models):
        raise _unknown("torchvision", name, models.list_models(models))
    extra: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in _INCEPTIONS and weights != "hub":
        extra |= {"aux_logits": weights is not None, "init_weights": True, "transform_input": weights is not None}
    default = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=default if weights == "hub" else None, **extra)
    except Exception as error:
        raise _not_made(f"torchvision:{name}", weights, error) from error
    presets = default.transforms()
    return network, (tuple(getattr(presets, "mean", IMAGENET[0])), tuple(getattr(presets, "std", IMAGENET[1])))


def _unknown(hub: str, name: str, accepted: Sequence[str]) -> UserError:
    guess = nearest(name, accepted)
    also = f"did you mean {hub}:{guess}?" if guess else f"it knows {len(accepted)}, such as {hub}:resnet18"
    return UserError(f"{hub} has no model {name!r}; {also}")


def _not_made(name: str, weights: str | None, error: Exception) -> UserError:
    why = first_line(error)
    if weights == "hub":
        return UserError(f"{name}: cannot fetch the pretrained weights ({why}); name a local file with ;weights=FILE")
    return UserError(f"{name} could not be made: {why}")
