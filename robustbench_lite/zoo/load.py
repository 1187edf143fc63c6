"""From a model's spec text to a network."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from robustbench_lite import plugins, specs
from robustbench_lite.calls import options_of
from robustbench_lite.errors import UserError, cut, nearest, unknown
from robustbench_lite.seeding import seeded
from robustbench_lite.zoo.adapt import NORMALISATIONS, Adaptation, Normalized, applied, for_channels
from robustbench_lite.zoo.assemble import Draft, FileOptions, assemble, check_constants, loaded_into
from robustbench_lite.zoo.base import ImageData, LoadedModel, audit, by, file_at, is_file, missing
from robustbench_lite.zoo.checkpoints import load_checkpoint
from robustbench_lite.zoo.constants import constant_texts, same_constants
from robustbench_lite.zoo.generators import KINDS, load_discriminator, refuse
from robustbench_lite.zoo.given import as_network
from robustbench_lite.zoo.hubs import load_hub, suggestions
from robustbench_lite.zoo.pickles import run_pickle
from robustbench_lite.zoo.robustbench import load_robustbench
from robustbench_lite.zoo.state_dicts import numbered_items
from robustbench_lite.zoo.user_code import is_code, load_code, load_export, load_torchscript
from robustbench_lite.zoo.weights import PICKLES, Trust, check_readable

_SOURCES = ("timm", "torchvision", "robustbench", "checkpoint", "torchscript", "export", "discriminator")
_ACCEPTED = (
    "a name (rbl list models), timm:NAME, torchvision:NAME, robustbench:NAME, checkpoint:FILE, torchscript:FILE,"
    " export:FILE, FILE.py:function, package.module:Class"
)
#: how a file of weights is named and read; no part of an architecture
_READING = ("weights", "part", "prefix", "pretrained")
_FILES = (".safetensors", ".json", *PICKLES)
#: kinds of which a card may name none: they bring weights, or code
_UNTRUSTED = ("checkpoint", "torchscript", "export")
# Fresh weights that nobody trains (`;random=true`) are the same in every run.
_SEED = 0
Source = Callable[[ImageData, Trust], LoadedModel]


def load(
    text: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    allow_pickle: bool = False,
    allow_code: bool = False,
    class_names: tuple[str, ...] | None = None,
) -> LoadedModel:
    """The model that a spec text names.

    Accepted: a built-in or plugged-in name (`small-cnn`, `resnet20;weights=FILE`), `timm:NAME`, `torchvision:NAME`,
    `robustbench:NAME`, `checkpoint:FILE`, `torchscript:FILE`, `export:FILE`, `FILE.py:function`, `package.module:Class`.

    Args:
        num_classes, input_shape, class_names: of the data. allow_pickle: let weights come from a .pt and its kin.
        allow_code: let files run code of their own: pickles of whole networks, and exported programs.

    Raises:
        UserError: none of these, or it does not fit the data.
    """
    spec = specs.parse_source(text)
    data = ImageData(num_classes=num_classes, input_shape=input_shape, class_names=class_names)
    with seeded(_SEED):
        return _source(spec)(data, Trust(pickles=allow_pickle, code=allow_code))


def fresh_module(text: str, *, num_classes: int, input_shape: tuple[int, int, int], trusted: bool = True) -> nn.Module:
    """The architecture of a spec text with fresh weights, in training mode; what a checkpoint's card names.

    Args:
        trusted: the user wrote the text; otherwise it comes out of a file, and may not have code run.

    Raises:
        UserError: it cannot be made anew.
    """
    spec = specs.parse_source(text)
    if not trusted and spec.name.partition(":")[0].lower() in _UNTRUSTED:
        raise UserError(f"the card names {cut(spec.name)!r} as architecture; accepted: the name of an architecture")
    if not trusted and _means_code(spec.name):
        shown = cut(spec.name)
        raise UserError(f"the card names the Python code {shown!r}; to have it run, add ;arch={shown}")
    found = load(architecture_of(text), num_classes=num_classes, input_shape=input_shape)
    if found.fresh is None:
        raise UserError(f"{cut(text)} has only the weights that it came with; it cannot be trained anew")
    return found.fresh()


def architecture_of(text: str) -> str:
    """The architecture alone that a spec names, without what says where its weights are from.

    Raises:
        UserError: as `specs.parse_source`.
    """
    spec = specs.parse_source(text)
    return str(specs.Spec(spec.name, {key: value for key, value in spec.options.items() if key not in _READING}, ";"))


def _source(spec: specs.Spec) -> Source:
    """Who loads it."""
    kind, colon, rest = spec.name.partition(":")
    kind, shown = kind.lower(), cut(spec.name)
    if colon and kind in ("timm", "torchvision"):
        return partial(load_hub, kind, rest, spec)
    if colon and kind == "robustbench":
        return partial(load_robustbench, rest, spec)
    if colon and kind == "checkpoint":
        return partial(_checkpoint, rest, spec)
    if colon and kind == "discriminator":
        return partial(_discriminator, spec)
    if colon and kind in KINDS:
        raise refuse(spec.name)
    if colon and kind == "torchscript":
        return partial(load_torchscript, spec, file_at(rest))
    if spec.name.endswith(".torchscript"):
        return partial(load_torchscript, spec, file_at(spec.name))
    if colon and kind == "export":
        return partial(load_export, spec, file_at(rest))
    if spec.name.endswith(".py"):
        raise UserError(f"{shown} names no function; write {shown}:FUNCTION, which returns an nn.Module")
    if spec.name.lower().endswith((*_FILES, ".pt2")) and not colon:
        raise _only_a_file(file_at(spec.name), spec.name)
    if _means_code(spec.name):
        return partial(load_code, spec)
    if kind in plugins.names("model"):
        return partial(_named, spec)
    if colon:
        guess = nearest(kind, (*_SOURCES, *plugins.names("model")))
        also = f"; did you mean {guess}:{cut(rest)}?" if guess else ""
        raise UserError(f"unknown model {shown!r}; accepted: {_ACCEPTED}{also}")
    return partial(_named, spec)


def _means_code(name: str) -> bool:
    """Whether the name is of Python code, and of no other source."""
    known = (*_SOURCES, *KINDS, *plugins.names("model"))
    return name.rpartition(":")[0].endswith(".py") or (name.partition(":")[0].lower() not in known and is_code(name))


def _only_a_file(path: Path, name: str) -> UserError:
    """The error for a file where a model was expected."""
    if not is_file(path):
        return missing(path)
    shown = cut(name)
    if name.lower().endswith(".pt2"):
        return UserError(f"{shown} is an exported program; write export:{shown}")
    return UserError(
        f"{shown} is a file of weights; write checkpoint:{shown}, or name its architecture: NAME;weights={shown}"
    )


def _discriminator(spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    return load_discriminator(
        spec, num_classes=data.num_classes, input_shape=data.input_shape, class_names=data.class_names
    )


def _named(spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    """A built-in architecture or a third party's, written `NAME:key=value` or `NAME;key=value`.

    What its builder does not take, such as a normalisation, is put around it.
    """
    named = specs.parse(spec.name)
    builder = _builder(named.name)
    written = {key.replace("-", "_"): value for key, value in {**named.options, **spec.options}.items()}
    takes = inspect.signature(builder).parameters.keys()
    outer = {item.name for item in dataclasses.fields(FileOptions)} - takes
    around = {key: value for key, value in written.items() if key in outer}
    inside = {key: value for key, value in written.items() if key not in outer}
    odd = next((key for key in inside if key not in takes), None)
    if odd is not None:
        own = [key for key in takes if key not in ("num_classes", "input_shape")]
        raise _no_option(named.name, odd, own, [item.name for item in dataclasses.fields(FileOptions)])
    options = specs.build(FileOptions, around, name=named.name)
    options.check(named.name)
    given = {"num_classes": data.num_classes, "input_shape": options.seen(data.input_shape)}

    def drafted(inside: Mapping[str, str], options: FileOptions) -> Draft:
        make = partial(builder, **given, **options_of(builder, inside, name=named.name, given=given))
        kept = {key: value for key, value in around.items() if key != "normalize" or options.normalize}
        return Draft(
            spec=specs.Spec(named.name.lower(), {**inside, **kept}, ";"),
            what=named.name,
            options=options,
            network=make(),
            make=make,
            inner=_saved_part,
            trained=options.weights is not None,
        )

    if not {"mean", "std"} <= takes:
        return assemble(drafted(inside, options), data, trust)
    return _behind_own(drafted, inside, options, data, trust)


def _no_option(name: str, odd: str, own: list[str], others: list[str]) -> UserError:
    guess = nearest(odd, (*own, *others))
    also = f"; did you mean {guess}?" if guess else ""
    every = ", ".join(one for one in others if one not in own)
    has = ", ".join(own) or "none of its own"
    return UserError(f"{name} has no option {cut(odd)!r}; it has {has}; every model has {every}{also}")


def _behind_own(
    drafted: Callable[[Mapping[str, str], FileOptions], Draft],
    inside: Mapping[str, str],
    options: FileOptions,
    data: ImageData,
    trust: Trust,
) -> LoadedModel:
    """A network whose builder normalises by its options `mean` and `std`.

    Where the file of weights tells of a normalisation, it is the network's unless another one is asked for.
    """
    channels, ignored = options.seen(data.input_shape)[0], options.normalize == "none"
    if options.normalize:
        if inside.keys() & {"mean", "std"}:
            raise UserError(f"normalize={options.normalize} stands for a mean and a std; give the one or the other")
        named = for_channels(NORMALISATIONS[options.normalize], channels)
        inside, options = {**inside, **constant_texts(named, channels)}, replace(options, normalize="")
    draft = drafted(inside, options)
    if options.weights is None:
        return assemble(draft, data, trust)
    path, asked, before = file_at(options.weights), bool(inside.keys() & {"mean", "std"}), applied(draft.network)
    filled, told = loaded_into(draft, path, trust, asked=asked, classes=data.num_classes)
    # a file of the whole module has just brought its own
    brought = (None if ignored else filled.constants) or applied(draft.network)
    if brought is not None and not same_constants(brought, before):
        if asked:
            check_constants(brought, before, path)
        draft = drafted({**inside, **constant_texts(brought, channels)}, options)
        loaded_into(draft, path, trust, asked=True, classes=data.num_classes)
    done = replace(options, weights=None, part=None, prefix=None)
    return assemble(replace(draft, options=done, notes={"loading": told}), data, trust)


def _builder(name: str) -> Callable[..., nn.Module]:
    """The builder of a built-in architecture, or of a third party's.

    Raises:
        UserError: there is none of that name; hubs that have one are named.
    """
    if name.lower() not in plugins.names("model") and (there := suggestions(name)):
        raise UserError(f"unknown model {name!r}; did you mean {' or '.join(there)}?")
    builder: Callable[..., nn.Module] = plugins.load("model", name)
    return builder


def _saved_part(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The part that the weights were saved from: the network behind its normalisation, unless the keys say more."""
    if not isinstance(module, Normalized):
        return module
    heads = [key.removesuffix("mean") for key in weights if key == "mean" or key.endswith(".mean")]
    whole = any(key.startswith(f"{head}network.") for head in heads for key in weights)
    return module if whole else module.network


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Adaptation):
    """What may follow `checkpoint:FILE`, besides the options of `Adaptation`.

    Args:
        arch: the architecture of weights without a card, or instead of the card's. part, prefix: see `FileOptions`.
    """

    arch: str | None = None
    part: str | None = None
    prefix: str | None = None


def _checkpoint(place: str, spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    """A checkpoint with its card, or any file of weights with `;arch=SPEC`."""
    path, what = file_at(place), f"checkpoint:{cut(place)}"
    options = specs.build(CheckpointOptions, spec.options, name=what)
    options.check(what)
    adaptation = {key: value for key, value in spec.options.items() if key not in ("arch", "part", "prefix")}
    if options.arch is not None and path.name and not is_file(path.with_suffix(".json")):
        return _with_architecture(path, options, adaptation, spec, data, trust)
    if options.arch is None and trust.code and path.suffix.lower() in PICKLES:
        return _whole_network(path, options, spec, data, trust)
    _no_options_beside_a_card(path, spec, what)
    found = load_checkpoint(path, allow_pickle=trust.pickles, architecture=options.arch)
    if found.input_shape != data.input_shape:
        raise UserError(f"{what} takes images {by(found.input_shape)} but the data has {by(data.input_shape)}")
    audit(
        found.module,
        name=what,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        class_names=data.class_names,
    )
    _same_order(found, data.class_names)
    return replace(found, name=str(spec))


def _no_options_beside_a_card(path: Path, spec: specs.Spec, what: str) -> None:
    odd = next((name for name in spec.options if name != "arch"), None)
    if odd is None or path.suffix.lower() in PICKLES:
        return
    if is_file(path.with_suffix(".json") if path.name else path):
        raise UserError(f"{what} has no option {odd!r} beside its card, which tells what the network is; it has arch")
    raise UserError(f"{what}: {odd} is for weights without a card; name their architecture with ;arch=SPEC")


def _with_architecture(
    path: Path,
    options: CheckpointOptions,
    adaptation: Mapping[str, str],
    spec: specs.Spec,
    data: ImageData,
    trust: Trust,
) -> LoadedModel:
    """Weights of the architecture that the user names."""
    check_readable(path, trust)
    bare = specs.parse_source(str(options.arch))
    more = {"weights": str(path), **adaptation}
    more |= {key: value for key in ("part", "prefix") if (value := getattr(options, key)) is not None}
    twice = next((key for key in more if key in bare.options), None)
    if twice is not None:
        raise UserError(f"checkpoint:{cut(path)} and its arch both give {twice!r}; give it once")
    found = _source(specs.Spec(bare.name, {**bare.options, **more}, ";"))(data, trust)
    return replace(found, name=str(spec), card={"architecture": architecture_of(found.name)})


def _whole_network(
    path: Path, options: CheckpointOptions, spec: specs.Spec, data: ImageData, trust: Trust
) -> LoadedModel:
    """The network that a pickle holds, code and all; the user vouches for the file."""
    check_readable(path, trust)
    if options.prefix is not None and options.arch is None:
        raise UserError(f"checkpoint:{cut(path)}: prefix is for weights whose architecture is named with ;arch=SPEC")
    opening: list[str] = []
    held = numbered_items(run_pickle(path))
    for name in filter(None, (options.part or "").split(".")):
        inside = held if isinstance(held, Mapping) else {}
        if name not in inside:
            raise unknown(
                f"part of {cut(path.name)}", str(options.part), [one for one in inside if isinstance(one, str)]
            )
        held, opening = inside[name], [*opening, name]
    networks = (
        [name for name, value in held.items() if isinstance(value, nn.Module)] if isinstance(held, Mapping) else []
    )
    if len(networks) == 1 and isinstance(held, Mapping):
        held, opening = held[networks[0]], [*opening, networks[0]]
    if len(networks) > 1:
        raise UserError(f"{cut(path)!r} holds several networks: {', '.join(networks)}; choose one with ;part=NAME")
    if not isinstance(held, nn.Module):
        raise UserError(
            f"{cut(path)!r} holds no whole network; name the architecture of its weights, such as"
            f" checkpoint:{cut(path)};arch=resnet20"
        )
    around = FileOptions(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Adaptation)})
    network, kind = as_network(held, cut(path.name))
    told = {"made": ", ".join(filter(None, ("a whole network", kind))), "weights": path.name}
    if opening:
        told["part"] = ".".join(opening)
    what = f"checkpoint:{path}"
    draft = Draft(spec=spec, what=what, options=around, network=network, make=None, notes={"loading": told})
    return assemble(draft, data, trust)


def _same_order(found: LoadedModel, class_names: tuple[str, ...] | None) -> None:
    """Refuse data that numbers the checkpoint's own classes in another way."""
    told = (found.card or {}).get("class_names")
    if class_names and isinstance(told, list) and sorted(map(str, told)) == sorted(class_names):
        odd = [place for place, name in enumerate(class_names) if name != told[place]]
        if odd:
            here, there = class_names[odd[0]], told[odd[0]]
            raise UserError(f"{found.name} has class {odd[0]} as {there!r} but the data has it as {here!r}")
