"""From a model's spec text to a network."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite import plugins, specs
from robustbench_lite.errors import UserError, nearest
from robustbench_lite.zoo.base import LoadedModel, audit, ready
from robustbench_lite.zoo.checkpoints import load_checkpoint
from robustbench_lite.zoo.hubs import load_hub
from robustbench_lite.zoo.user_code import load_function, load_torchscript
from robustbench_lite.zoo.weights import fill, read_weights


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
    `checkpoint:FILE`, `FILE.py:function`, `torchscript:FILE`.

    Args:
        num_classes, input_shape: of the data. allow_pickle: let weights come from a .pt and its kin.

    Raises:
        UserError: none of these, or it does not fit the data.
    """
    spec = specs.parse_source(text)
    kind, colon, rest = spec.name.partition(":")
    if spec.name.rpartition(":")[0].endswith(".py"):
        return load_function(spec, num_classes=num_classes, input_shape=input_shape)
    if colon and kind in ("timm", "torchvision", "tv"):
        hub = "torchvision" if kind == "tv" else kind
        return load_hub(hub, rest, spec, num_classes=num_classes, input_shape=input_shape, allow_pickle=allow_pickle)
    if colon and kind == "checkpoint":
        return _checkpoint(rest, spec, num_classes, input_shape, allow_pickle)
    if colon and kind == "torchscript":
        return load_torchscript(spec, num_classes=num_classes, input_shape=input_shape)
    if colon:
        kinds = ("timm", "torchscript", "torchvision", "checkpoint")
        guess = nearest(kind, kinds)
        also = f"; did you mean {guess}:{rest}?" if guess else ""
        raise UserError(f"unknown model {text!r}; accepted: a name (rbl list models), timm:, torchvision:, checkpoint:, torchscript:, FILE.py:function{also}")
    return _named(spec, num_classes, input_shape, allow_pickle)


def fresh_module(text: str, *, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """The architecture of a spec text with fresh weights, in training mode; what a checkpoint's card names.

    Raises:
        UserError: it cannot be made anew.
    """
    spec = specs.parse_source(text)
    spec = specs.Spec(spec.name, {key: value for key, value in spec.options.items() if key not in ("weights", "pretrained")}, ";")
    found = load(str(spec), num_classes=num_classes, input_shape=input_shape)
    if found.fresh is None:
        raise UserError(f"{text} has only the weights that it came with; it cannot be trained anew")
    return found.fresh()


def _named(
    spec: specs.Spec, num_classes: int, input_shape: tuple[int, int, int], allow_pickle: bool
) -> LoadedModel:
    builder = plugins.load("model", spec.name)
    options = dict(spec.options)
    weights = options.pop("weights", None)
    chosen = _coerced(builder, options, spec.name)

    def fresh() -> nn.Module:
        made: nn.Module = builder(num_classes=num_classes, input_shape=input_shape, **chosen)
        return made

    module, notes = fresh(), ()
    if weights is not None:
        path = Path(weights).expanduser()
        held, notes = read_weights(path, allow_pickle=allow_pickle)
        fill(_inner(module, held), held, path)
    module.eval()
    found = audit(module, name=str(spec), num_classes=num_classes, input_shape=input_shape)
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=weights is not None,
        num_classes=found,
        input_shape=input_shape,
        fresh=fresh,
        notes=notes,
    )


def _inner(module: nn.Module, weights: dict[str, Any]) -> nn.Module:
    """The part that the weights were saved from: the network behind its normalisation, where the keys say so."""
    network = getattr(module, "network", None)
    wrapped = any(key.startswith("network.") for key in weights)
    return network if isinstance(network, nn.Module) and not wrapped else module


def _coerced(builder: Callable[..., Any], options: dict[str, str], name: str) -> dict[str, Any]:
    """The options of a builder, by the types in its signature."""
    signature = inspect.signature(builder, eval_str=True)
    kinds = {key: one.annotation for key, one in signature.parameters.items() if key not in ("num_classes", "input_shape")}
    values = {}
    for given, text in options.items():
        key = given.replace("-", "_")
        if key not in kinds:
            guess = nearest(key, [*kinds, "weights"])
            also = f"; did you mean {guess}?" if guess else ""
            raise UserError(f"{name} has no option {given!r}; it has {', '.join([*kinds, 'weights'])}{also}")
        values[key] = specs.coerce(kinds[key], text, f"{name}: {key}")
    return values


def _checkpoint(
    place: str, spec: specs.Spec, num_classes: int, input_shape: tuple[int, int, int], allow_pickle: bool
) -> LoadedModel:
    if spec.options:
        raise UserError(f"a checkpoint has no options; {next(iter(spec.options))!r} was given")
    found = load_checkpoint(Path(place).expanduser(), allow_pickle=allow_pickle)
    if found.input_shape != input_shape:
        given, wanted = ("x".join(map(str, shape)) for shape in (found.input_shape, input_shape))
        raise UserError(f"{found.name} takes images {given} but the data has {wanted}")
    audit(found.module, name=found.name, num_classes=num_classes, input_shape=input_shape)
    ready(found.module)
    return found
