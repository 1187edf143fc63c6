"""Models of timm and torchvision: classes, size and normalisation from their own metadata, weights only on request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, cause_of, cut, nearest
from robustbench_lite.zoo.adapt import NORMALISATIONS, NOTHING, Normalisation, for_channels
from robustbench_lite.zoo.assemble import Draft, FileOptions, assemble
from robustbench_lite.zoo.base import ImageData, LoadedModel
from robustbench_lite.zoo.weights import Trust

IMAGENET = NORMALISATIONS["imagenet"]
# Two old networks answer with three tensors while they train, and scale their input again for ImageNet's weights.
_INCEPTIONS = ("googlenet", "inception_v3")
#: what torchvision's own options are called where timm has another name for them
_TORCHVISION = {"img_size": "image_size"}
#: of the data that torchvision's accuracies were measured on
_MEASURED_ON = "ImageNet-1K"


@dataclass(frozen=True, kw_only=True)
class HubOptions(FileOptions):
    """What may follow `timm:NAME` or `torchvision:NAME`, besides the options of `FileOptions`.

    Args:
        pretrained: fetch the hub's weights; `false` takes the fresh ones as they are, like `random=true`.
        random: use the fresh weights as they are; otherwise a model without weights is trained on the dataset.
        num_classes: of the head; if left out, the dataset's. Pretrained weights bring their own.
        in_chans: channels that the network takes, of timm. img_size: side of the images that it is made for.
        aux_logits: with the auxiliary heads of the two Inceptions, as their files of weights have them.
    """

    pretrained: bool | None = None
    random: bool = False
    num_classes: int | None = None
    in_chans: int | None = None
    img_size: int | None = None
    aux_logits: bool | None = None

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
        for name, least in (("num_classes", 2), ("in_chans", 1), ("img_size", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise UserError(f"{name}={given}; accepted: {least} and more")
        if self.aux_logits and not self.trained:
            raise UserError(
                "aux_logits=true is for weights with auxiliary heads, which are not trained here; leave it out"
            )

    @property
    def trained(self) -> bool:
        """Whether the weights are used as they are."""
        return self.random or self.pretrained is not None or self.weights is not None

    @property
    def source(self) -> str | None:
        """Where the weights come from: `hub`, `file` or nowhere."""
        return "hub" if self.pretrained else "file" if self.weights else None

    def constructor(self) -> dict[str, Any]:
        """The options that go to the hub's own function."""
        given = {name: getattr(self, name) for name in ("in_chans", "img_size", "aux_logits")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What a hub gives: the network, its mean and std, and the clean accuracy that the hub tells, if any."""

    network: nn.Module
    own: Normalisation
    told: Mapping[str, Any] | None = None


def load_hub(hub: str, name: str, spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    """The model `name` of `timm` or `torchvision`, behind its normalisation.

    Raises:
        UserError: an unknown name, weights that cannot be had, or images that it cannot take.
    """
    what = f"{hub}:{name}"
    options = specs.build(HubOptions, spec.options, name=what)
    hub_of: Callable[..., Made] = _timm if hub == "timm" else _torchvision
    make = partial(hub_of, name, options=options)
    classes = options.num_classes or (None if options.pretrained else data.num_classes)
    made = make(classes=classes, weights=options.source)
    notes: dict[str, Any] = {"random": True} if options.random or options.pretrained is False else {}
    if made.told is not None:
        notes["told"] = dict(made.told)
    draft = Draft(
        spec=spec,
        what=what,
        options=options,
        network=made.network,
        make=lambda: make(classes=options.num_classes or data.num_classes, weights=None).network,
        own=_own_for(made.own, options, what),
        trained=options.trained,
        notes=notes,
    )
    return assemble(draft, data, trust)


def suggestions(name: str) -> list[str]:
    """How a model of that name would be written, of the hubs that have one."""
    import timm
    from torchvision import models

    there = {"timm": timm.is_model(name), "torchvision": name in models.list_models(models)}
    return [f"{hub}:{name}" for hub, has in there.items() if has]


def _own_for(own: Normalisation, options: HubOptions, what: str) -> Normalisation:
    """The hub's constants for the channels that the network takes.

    Raises:
        UserError: it takes more than the hub has constants for, and the user gives none.
    """
    channels = options.in_chans or len(own[0])
    mean, std = for_channels(own, channels)
    if len(mean) in (1, channels):
        return mean, std
    if options.normalisation is None:
        raise UserError(
            f"{what} has a mean and std for {len(mean)} channels, not {channels}; give mean and std, or normalize=none"
        )
    return NOTHING[0] * channels, NOTHING[1] * channels


def _timm(name: str, *, classes: int | None, weights: str | None, options: HubOptions) -> Made:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    extra: dict[str, Any] = options.constructor() | ({} if classes is None else {"num_classes": classes})
    try:
        network = timm.create_model(name, pretrained=weights == "hub", **extra)
    except Exception as error:
        raise _not_made(f"timm:{name}", weights, error) from error
    config: dict[str, Any] = resolve_data_config({}, model=network)
    return Made(network=network, own=(tuple(config["mean"]), tuple(config["std"])))


def _torchvision(name: str, *, classes: int | None, weights: str | None, options: HubOptions) -> Made:
    from torchvision import models

    if name not in models.list_models(models):
        raise _unknown("torchvision", name, models.list_models(models))
    if options.in_chans not in (None, 3):
        raise UserError(f"torchvision:{name}: in_chans={options.in_chans}; accepted: 3, or a model of timm")
    extra: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in _INCEPTIONS and weights != "hub":
        extra |= {"aux_logits": weights is not None, "init_weights": True, "transform_input": weights is not None}
    asked = {key: value for key, value in options.constructor().items() if key != "in_chans"}
    extra |= {_TORCHVISION.get(key, key): value for key, value in asked.items()}
    default = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=default if weights == "hub" else None, **extra)
    except Exception as error:
        raise _not_made(f"torchvision:{name}", weights, error) from error
    presets = default.transforms()
    own = tuple(getattr(presets, "mean", IMAGENET[0])), tuple(getattr(presets, "std", IMAGENET[1]))
    return Made(network=network, own=own, told=_accuracy(default) if weights == "hub" else None)


def _accuracy(weights: Any) -> dict[str, Any] | None:
    """What torchvision tells of its weights on ImageNet's validation images."""
    found = weights.meta.get("_metrics", {}).get(_MEASURED_ON, {}).get("acc@1")
    if not isinstance(found, (int, float)):
        return None
    return {"clean_acc": float(found) / 100, "dataset": "imagenet", "source": f"torchvision {weights}"}


def _unknown(hub: str, name: str, accepted: Sequence[str]) -> UserError:
    guess = nearest(name, accepted)
    also = f"did you mean {hub}:{guess}?" if guess else f"it knows {len(accepted)}, such as {hub}:resnet18"
    return UserError(f"{hub} has no model {cut(name)!r}; {also}")


def _not_made(name: str, weights: str | None, error: Exception) -> UserError:
    why = cause_of(error)
    if weights == "hub":
        return UserError(f"{name}: cannot fetch the pretrained weights ({why}); name a local file with ;weights=FILE")
    return UserError(f"{name} could not be made: {why}")
