"""From a model's spec text to a network."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustbench_lite import plugins, specs
from robustbench_lite.calls import options_of
from robustbench_lite.errors import UserError, nearest
from robustbench_lite.seeding import seeded
from robustbench_lite.zoo.adapt import Normalized
from robustbench_lite.zoo.base import LoadedModel, audit, by, ready
from robustbench_lite.zoo.checkpoints import load_checkpoint
from robustbench_lite.zoo.generators import KINDS, load_discriminator, refuse
from robustbench_lite.zoo.hubs import load_hub
from robustbench_lite.zoo.robustbench import load_robustbench
from robustbench_lite.zoo.user_code import load_function, load_torchscript
from robustbench_lite.zoo.weights import PICKLES, fill, read_weights
from robustbench_lite.zoo.wrappings import Constants, check_constants, constant_texts, constants_of

_SOURCES = ("timm", "torchvision", "robustbench", "checkpoint", "torchscript", "discriminator")
_ACCEPTED = (
    "a name (rbl list models), timm:NAME, torchvision:NAME, robustbench:NAME, checkpoint:FILE, torchscript:FILE,"
    " FILE.py:function"
)
#: how a file of weights is named and read; no part of an architecture
_READING = ("weights", "part", "pretrained")
_FILES = (".safetensors", ".json", *PICKLES)
# Fresh weights that nobody trains (`;random=true`) are the same in every run.
_SEED = 0


def load(
    text: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    allow_pickle: bool = False,
    class_names: tuple[str, ...] | None = None,
) -> LoadedModel:
    """The model that a spec text names.

    Accepted: a built-in or plugged-in name (`small-cnn`, `resnet20;weights=FILE`), `timm:NAME`, `torchvision:NAME`,
    `robustbench:NAME`, `checkpoint:FILE`, `torchscript:FILE`, `FILE.py:function`.

    Args:
        num_classes, input_shape, class_names: of the data. allow_pickle: let weights come from a .pt and its kin.

    Raises:
        UserError: none of these, or it does not fit the data.
    """
    spec = specs.parse_source(text)
    with seeded(_SEED):
        return _source(spec, allow_pickle)(num_classes=num_classes, input_shape=input_shape, class_names=class_names)


def fresh_module(text: str, *, num_classes: int, input_shape: tuple[int, int, int], trusted: bool = True) -> nn.Module:
    """The architecture of a spec text with fresh weights, in training mode; what a checkpoint's card names.

    Args:
        trusted: the user wrote the text; otherwise it comes out of a file, and may not have code run.

    Raises:
        UserError: it cannot be made anew.
    """
    spec = specs.parse_source(text)
    if not trusted and spec.name.partition(":")[0].lower() in ("checkpoint", "torchscript"):
        raise UserError(f"the card names {spec.name!r} as architecture; accepted: the name of an architecture")
    if not trusted and _is_code(spec.name):
        raise UserError(f"the card names the Python code {spec.name!r}; to have it run, add ;arch={spec.name}")
    found = load(architecture_of(text), num_classes=num_classes, input_shape=input_shape)
    if found.fresh is None:
        raise UserError(f"{text} has only the weights that it came with; it cannot be trained anew")
    return found.fresh()


def architecture_of(text: str) -> str:
    """The architecture alone that a spec names, without what says where its weights are from.

    Raises:
        UserError: as `specs.parse_source`.
    """
    spec = specs.parse_source(text)
    return str(specs.Spec(spec.name, {key: value for key, value in spec.options.items() if key not in _READING}, ";"))


def _source(spec: specs.Spec, allow_pickle: bool) -> Callable[..., LoadedModel]:
    """Who loads it: a function of the data's num_classes, input_shape and class_names."""
    kind, colon, rest = spec.name.partition(":")
    kind = kind.lower()
    if _is_code(spec.name):
        return partial(load_function, spec, allow_pickle=allow_pickle)
    if colon and kind in ("timm", "torchvision"):
        return partial(load_hub, kind, rest, spec, allow_pickle=allow_pickle)
    if colon and kind == "robustbench":
        return partial(load_robustbench, rest, spec, allow_pickle=allow_pickle)
    if colon and kind == "checkpoint":
        return partial(_checkpoint, rest, spec, allow_pickle)
    if colon and kind == "discriminator":
        return partial(load_discriminator, spec)
    if colon and kind in KINDS:
        raise refuse(spec.name)
    if colon and kind == "torchscript":
        return partial(load_torchscript, spec, Path(rest).expanduser())
    if spec.name.endswith(".torchscript"):
        return partial(load_torchscript, spec, Path(spec.name).expanduser())
    if spec.name.endswith(".py"):
        raise UserError(f"{spec.name} names no function; write {spec.name}:FUNCTION, which returns an nn.Module")
    if spec.name.lower().endswith(_FILES):
        raise UserError(f"{spec.name} is a file of weights; write checkpoint:{spec.name}, or NAME;weights={spec.name}")
    if colon and kind not in plugins.names("model"):
        guess = nearest(kind, (*_SOURCES, *plugins.names("model")))
        also = f"; did you mean {guess}:{rest}?" if guess else ""
        raise UserError(f"unknown model {spec.name!r}; accepted: {_ACCEPTED}{also}")
    return partial(_named, spec, allow_pickle)


def _is_code(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _named(
    spec: specs.Spec,
    allow_pickle: bool,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """A built-in architecture or a third party's, written `NAME:key=value` or `NAME;key=value`.

    Where the file of weights tells of a normalisation, it is the network's unless another one is asked for.
    """
    named = specs.parse(spec.name)
    options = {**named.options, **spec.options}
    weights = options.pop("weights", None)
    reading = {} if weights is None else {"weights": weights}
    if weights is not None and "part" in options:
        reading["part"] = options.pop("part")
    builder = plugins.load("model", named.name)
    held: dict[str, Tensor] = {}
    path, notes = Path(weights or "").expanduser(), tuple[str, ...]()
    if weights is not None:
        held, notes = read_weights(path, allow_pickle=allow_pickle, part=reading.get("part"))
        options |= _normalisation(builder, options, held, path, input_shape[0])
    data: dict[str, Any] = {"num_classes": num_classes, "input_shape": input_shape}
    fresh: Callable[[], nn.Module] = partial(
        builder, **data, **options_of(builder, options, name=named.name, given=data)
    )
    module = fresh()
    if weights is not None:
        applied = _applied(module)
        notes = (*notes, *fill(_inner(module, held), held, path, applied=applied))
        check_constants(_applied(module), applied, path)  # a file of the whole module has just brought its own
    found = audit(module.eval(), name=named.name, class_names=class_names, **data)
    return LoadedModel(
        name=str(specs.Spec(named.name.lower(), {**options, **reading}, ";")),
        module=ready(module),
        trained=weights is not None,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
        notes=notes,
    )


def _normalisation(
    builder: Callable[..., nn.Module], options: Mapping[str, str], held: Mapping[str, Tensor], path: Path, channels: int
) -> dict[str, str]:
    """The options `mean` and `std` of what the file tells, where nobody asks for others and the builder takes any."""
    wanted = {"mean", "std"}
    if not wanted <= inspect.signature(builder).parameters.keys() or wanted & options.keys():
        return {}
    constants = constants_of(held, path)
    return {} if constants is None else constant_texts(constants, channels)


def _applied(module: nn.Module) -> Constants | None:
    """Mean and std that a built-in network is behind."""
    if not isinstance(module, Normalized):
        return None
    return tuple(module.mean.flatten().tolist()), tuple(module.std.flatten().tolist())


def _inner(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The part that the weights were saved from: the network behind its normalisation, unless the keys say more."""
    network = getattr(module, "network", None)
    wrapped = any(key.startswith("network.") for key in weights)
    return network if isinstance(network, nn.Module) and not wrapped else module


def _checkpoint(
    place: str,
    spec: specs.Spec,
    allow_pickle: bool,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """A checkpoint with its card, or any file of weights with `;arch=SPEC`."""
    path, arch = Path(place).expanduser(), spec.options.get("arch")
    strange = next((key for key in spec.options if key not in ("arch", "part")), None)
    if strange is not None:
        raise UserError(f"checkpoint:{place} has no option {strange!r}; it has arch, part")
    if arch is not None and not path.with_suffix(".json").is_file():
        bare = specs.parse_source(arch)
        part = {"part": spec.options["part"]} if "part" in spec.options else {}
        whole = specs.Spec(bare.name, {**bare.options, "weights": str(path), **part}, ";")
        found = _source(whole, allow_pickle)(num_classes=num_classes, input_shape=input_shape, class_names=class_names)
        told = architecture_of(found.name)
        return replace(found, name=str(spec), card={"architecture": told})
    if "part" in spec.options:
        raise UserError(f"checkpoint:{place} has no option 'part', which is for a file without a card; it has arch")
    found = load_checkpoint(path, allow_pickle=allow_pickle, architecture=arch)
    if found.input_shape != input_shape:
        raise UserError(f"{found.name} takes images {by(found.input_shape)} but the data has {by(input_shape)}")
    audit(found.module, name=found.name, num_classes=num_classes, input_shape=input_shape, class_names=class_names)
    _same_order(found, class_names)
    return replace(found, name=str(spec))


def _same_order(found: LoadedModel, class_names: tuple[str, ...] | None) -> None:
    """Refuse data that numbers the checkpoint's own classes in another way."""
    told = (found.card or {}).get("class_names")
    if class_names and isinstance(told, list) and sorted(map(str, told)) == sorted(class_names):
        odd = [place for place, name in enumerate(class_names) if name != told[place]]
        if odd:
            here, there = class_names[odd[0]], told[odd[0]]
            raise UserError(f"{found.name} has class {odd[0]} as {there!r} but the data has it as {here!r}")
