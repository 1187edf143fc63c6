"""What a plugin is and what options it has, read from its class or function: what `rbl list` and `rbl show` print."""

import contextlib
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from robustbench_lite import plugins, specs
from robustbench_lite.errors import UserError

#: arguments that the harness gives to the builders of models and datasets; no user writes them
_GIVEN = frozenset({"num_classes", "input_shape", "split", "root", "download"})
#: models and datasets that are named by where they come from, not by a plugin: how they are written, and what they are
SOURCES: Mapping[str, Mapping[str, str]] = {
    "model": {
        "timm:NAME": "A model of timm; ;pretrained=true fetches its weights; in_chans, img_size, num_classes, normalize.",
        "torchvision:NAME": "A classifier of torchvision; ;pretrained=true fetches its weights; img_size, aux_logits.",
        "robustbench:NAME": "A model of RobustBench, by its package; ;dataset=cifar10;threat_model=Linf;dir=DIR;download=false.",
        "checkpoint:FILE": "Weights that rbl train wrote, or any weights with ;arch=SPEC; part, prefix, normalize, mean, std.",
        "torchscript:FILE": "A TorchScript program; normalize, mean, std, resize, grey.",
        "export:FILE": "A program that torch.export.save wrote, with --allow-code; the same options.",
        "vae:FILE": "A VAE that rbl generate train wrote, for --task reconstruction; ;judge=MODEL reads what it shows.",
        "autoencoder:FILE": "An autoencoder, in the same way.",
        "generator:FILE": "Either of them.",
        "discriminator:FILE": "A GAN's discriminator, as a classifier of fake (0) and real (1) images.",
        "FILE.py:function": "Your own code: a network from images in [0, 1] to logits, or what returns one; ;weights=FILE.",
        "package.module:Class": "The same, of a package in the working directory, or an installed one.",
    },
    "dataset": {
        "npz:FILE": "Arrays x (N,H,W[,C] or N,C,H,W; uint8, or float in [0, 1]) and y (N); ;train=FILE to train on.",
        "folder:DIR": "A folder of images for each class, or one with ;labels=FILE.csv; ;train=DIR to train on.",
        "versus:FILE": "Images of ;dataset=NAME (real) and a generator's own (fake), to be told apart.",
        "generated:FILE": "Images that a generator makes; ;count=N;seed=N;judge=(checkpoint:FILE);confidence=0.5.",
    },
}
#: how a source of data is used, for example, by its name before the colon
_EXAMPLES = {
    "npz": "npz:test.npz;train=train.npz",
    "folder": "folder:photos;size=224",
    "versus": "versus:gan.safetensors;dataset=digits",
    "generated": "generated:gan.safetensors;count=1000",
}
#: what the harness gives to the readers of such sources
_GIVEN_TO_SOURCES = frozenset({"path", "spec", "expected"})
_SECTIONS = ("Args:", "Raises:", "Returns:", "Yields:")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a plugin: its type and default as a user writes them, and its line of the docstring."""

    name: str
    type: str
    default: str
    text: str


#: what every named model has besides its builder's own options
_WEIGHTS = Option(name="weights", type="file", default="none", text="weights to load; what has them is not trained.")
_PART = Option(
    name="part", type="text", default="none", text="of a file that holds several networks, which: best, last, ema."
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A plugin as a user sees it.

    Args:
        what: its first sentence. text: the rest of its docstring up to the arguments.
        facts: needs, norms, aims (attacks); trains, adaptivity (defenses); density (generators).
        source: the paper. origin: the distribution that it comes from.
        error: why it cannot be loaded; then everything else is empty. shown: a spec that names it, where the rule for
            plugins does not make one.
    """

    kind: plugins.Kind | typing.Literal["physical"]
    name: str
    origin: str
    what: str = ""
    text: str = ""
    options: tuple[Option, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    error: str = ""
    shown: str = ""

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """`text`, a line a paragraph; indented ones keep their lines."""
        every = [part.strip("\n") for part in self.text.split("\n\n") if part.strip()]
        return tuple(part if part.startswith(" ") else " ".join(part.split()) for part in every)

    @property
    def example(self) -> str:
        """A spec string that names the plugin and, where it can, sets an option."""
        if self.shown:
            return self.shown
        settable = [option for option in self.options if option.default not in ("", "none", "required")]
        chosen = {option.name: option.default for option in settable[:1]}
        return str(specs.Spec(self.name, chosen, ";" if self.kind in ("model", "dataset") else ":"))


def describe(kind: plugins.Kind, name: str) -> Description:
    """Describe the plugin, or the source (`timm`, `npz`), of that name.

    Raises:
        UserError: there is none of that name, or its package cannot be imported.
    """
    for written, what in SOURCES.get(kind, {}).items():
        if name.partition(":")[0].lower() == written.partition(":")[0].lower():
            return _source(kind, written, what)
    family, _, inner = name.partition(":")
    if kind == "attack" and getattr(plugins.load(kind, family), "foreign", False):
        return _foreign(plugins.load(kind, family), family.strip().lower(), inner.strip(), plugins.origin(kind, family))
    plugin = plugins.load(kind, name)
    origin = plugins.origin(kind, name)
    try:
        return _described(kind, name.strip().lower(), origin, plugin)
    except Exception as error:  # whatever a third party has put there
        raise UserError(f"the {kind} {name!r} of {origin} cannot be described: {error}") from error


def _source(kind: plugins.Kind, written: str, what: str) -> Description:
    """A source; of data with the options of what reads it."""
    found = Description(kind=kind, name=written, origin="robustbench-lite", what=what)
    if kind != "dataset":
        return found
    from robustbench_lite.data.load import source

    name = written.partition(":")[0]
    first, text, arguments = _docstring(source(name))
    options = tuple(one for one in _options(source(name), arguments) if one.name not in _GIVEN_TO_SOURCES)
    return dataclasses.replace(found, text=f"{first}\n\n{text}", options=options, shown=_EXAMPLES[name])


def _foreign(plugin: Any, family: str, inner: str, origin: str) -> Description:
    """A library of attacks, or one of them with the options of its constructor."""
    found = _described("attack", family, origin, plugin)
    text = "forwards that an image may cost; past it the attack is stopped and has failed."
    budget = Option(name="budget", type="int | none", default="none", text=text)
    if not inner:
        return dataclasses.replace(found, options=(budget,), shown=plugin.example)
    own = tuple(
        Option(name=name, type=kind, default=default, text="") for name, kind, default in plugin.constructor(inner)
    )
    name = f"{family}:{inner}"
    facts = found.facts
    with contextlib.suppress(UserError):  # one that does not run without an option
        facts = _facts(plugin(attack=inner))
    return dataclasses.replace(found, name=name, options=(*own, budget), facts=facts, shown=name)


def describe_all(kind: plugins.Kind) -> tuple[Description, ...]:
    """Every plugin of that kind; one that cannot be loaded has `error` set and hurts nobody else."""
    return tuple(_or_broken(kind, name) for name in plugins.names(kind))


def _or_broken(kind: plugins.Kind, name: str) -> Description:
    try:
        return describe(kind, name)
    except UserError as error:
        return Description(kind=kind, name=name, origin=plugins.origin(kind, name), error=str(error))


def _described(kind: plugins.Kind, name: str, origin: str, plugin: Any) -> Description:
    what, text, arguments = _docstring(plugin)
    options = tuple(_options(plugin, arguments))
    return Description(
        kind=kind,
        name=name,
        origin=origin,
        what=what,
        text=text,
        options=(*options, _WEIGHTS, _PART) if kind == "model" else options,
        facts=_facts(plugin),
        source=str(getattr(plugin, "source", "")),
    )


def _docstring(plugin: Any) -> tuple[str, str, str]:
    """First paragraph, further paragraphs, and the section Args with those of the base classes after it."""
    family = [kind for kind in plugin.__mro__ if dataclasses.is_dataclass(kind)] if isinstance(plugin, type) else []
    own = _sections(plugin.__dict__.get("__doc__") if isinstance(plugin, type) else plugin.__doc__)
    inherited = [_sections(kind.__dict__.get("__doc__"))["Args:"] for kind in family if kind is not plugin]
    what, _, text = own[""].partition("\n\n")
    return " ".join(what.split()), text.strip(), "\n".join([own["Args:"], *inherited])


def _sections(docstring: str | None) -> dict[str, str]:
    """The text before all sections under "", and that of each section under its head."""
    lines: dict[str, list[str]] = {name: [] for name in ("", *_SECTIONS)}
    place = ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        head = next((name for name in _SECTIONS if line.startswith(name)), None)
        place = head or place
        lines[place].append(line.removeprefix(head or ""))
    return {name: "\n".join(part).strip("\n") for name, part in lines.items()}


def _options(plugin: Any, arguments: str) -> Iterator[Option]:
    found = list(_fields(plugin) if dataclasses.is_dataclass(plugin) else _parameters(plugin))
    texts = _explanations(arguments, [name for name, _, _ in found])
    for name, kind, default in found:
        yield Option(name=name.rstrip("_"), type=type_text(kind), default=default, text=texts.get(name, ""))


def _fields(plugin: Any) -> Iterator[tuple[str, Any, str]]:
    kinds = specs.option_types(plugin)
    for item in dataclasses.fields(plugin):
        if item.name in kinds:
            yield item.name, kinds[item.name], _field_default(item)


def _field_default(item: "dataclasses.Field[Any]") -> str:
    if item.default_factory is not dataclasses.MISSING:
        return specs.text_of(item.default_factory())
    return "required" if item.default is dataclasses.MISSING else specs.text_of(item.default)


def _parameters(plugin: Any) -> Iterator[tuple[str, Any, str]]:
    """The options of a builder function: its keyword arguments that the harness does not give itself."""
    hints = typing.get_type_hints(plugin)
    for name, item in inspect.signature(plugin).parameters.items():
        if item.kind is inspect.Parameter.KEYWORD_ONLY and name not in _GIVEN:
            default = "required" if item.default is inspect.Parameter.empty else specs.text_of(item.default)
            yield name, hints.get(name, str), default


def _explanations(arguments: str, names: Iterable[str]) -> dict[str, str]:
    """What the section Args says of each name; `a, b: text` explains both, and a line may hold several."""
    either = "|".join(map(re.escape, names))
    if not either:
        return {}
    heads = list(re.finditer(rf"(?:^|(?<=[.;]))\s*((?:(?:{either}),\s*)*(?:{either})):\s", arguments, re.MULTILINE))
    ends = [*(head.start() for head in heads[1:]), len(arguments)]
    texts: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=False):  # no heads: one end too many
        text = " ".join(arguments[head.end() : end].split())
        texts = {name.strip(): text for name in head[1].split(",")} | texts  # the first explanation is the nearest
    return texts


def type_text(kind: Any) -> str:
    """A type as a user reads it: `float | none`, `ce | margin`, `true | false`, the name of an inner plugin's class."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(part) for part in typing.get_args(kind))
    if origin is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(kind))
    known = {int: "int", float: "float", bool: "true | false", str: "text", type(None): "none"}
    return known.get(kind) or str(getattr(kind, "__name__", kind)).lower()


def _facts(plugin: Any) -> dict[str, str]:
    """The class attributes that say what an attack or a defense is."""
    facts = {
        "needs": getattr(getattr(plugin, "needs", None), "value", ""),
        "norms": ", ".join(getattr(plugin, "norms", ())),
        "aims": ", ".join(getattr(plugin, "aims", ())),
        "density": {"none": "no prior to sample from"}.get(density := getattr(plugin, "density", ""), density),
        "foreign": "another library's code; a row may feel its neighbours" if getattr(plugin, "foreign", False) else "",
        "adaptivity": getattr(plugin, "adaptivity", ""),
        "why": getattr(plugin, "why_plain", ""),
    }
    if hasattr(plugin, "trains"):
        facts["trains"] = "yes" if plugin.trains else "no"
    return {name: value for name, value in facts.items() if value}
