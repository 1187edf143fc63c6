"""State dicts as people save them: which network of a file, under which names, and what lies beside its weights."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError, cut, nearest, unknown
from robustbench_lite.zoo.adapt import Normalisation
from robustbench_lite.zoo.constants import constant_of, constants_beside, constants_in, has_constants
from robustbench_lite.zoo.pickles import Array

#: under which names state dicts are kept
CONTAINERS = (
    *("state_dict", "model_state_dict", "model", "net", "module", "network", "last", "best"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model_state_dict"),
)
#: names of tensors that are no network's: they are opened only where they are named
_NO_NETWORKS = (
    "optim",
    "sched",
    "scaler",
    "rng",
    "callback",
    "loop",
    "amp",
    "arg",
    "hparam",
    "hyper",
    "config",
    "hist",
)
#: what wrappers put into the middle of names: torch.compile, FSDP, activation checkpoints, and DataParallel
_MARKERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = "module"
#: what the numbers of a normalisation are called here that a file tells beside the weights
_BESIDE = ("(beside the weights).mean", "(beside the weights).std")
#: a counter of batch normalisation, which old files do not hold
OPTIONAL = "num_batches_tracked"
#: how deep a state dict may lie
_DEPTH = 5


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The weights of a file under the names of a module.

    Args:
        weights: by the module's names; what belongs to none of them is left to the module's own load hooks.
        keys: the names in the file, by the module's. stripped: what was taken from the names.
        left: names in the file that belong to other parts of it. constants: mean and std of a normalisation that the file
            holds and the module does not. lost: the prefix under which a part without weights stood before the network.
        unclear: why a normalisation in the file cannot be told. beside: mean and std that are told beside the weights, where
            neither they nor the module hold any.
    """

    weights: dict[str, Tensor]
    keys: dict[str, str]
    stripped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    constants: Normalisation | None = None
    lost: str = ""
    unclear: str = ""
    beside: Normalisation | None = None


def opened(
    held: Any, path: Path, part: str | None = None, prefix: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in what a file held, and the names that led to it.

    Args:
        part: which network, where the file holds several: a name, or a path of names such as `ema.model`; where the weights
            lie flat, what their names begin with. prefix: what the names begin with, wherever in the file, where no part is
            chosen; the names of parts that lead to the weights may stand in it.

    Raises:
        UserError: there is none, there are several and none was chosen, or not the chosen one.
    """
    if part is not None:
        held = numbered_items(held)
    weights, opening = _found(held, path, part, prefix)
    beside = constants_beside(held, opening)
    if beside is not None:
        weights = weights | dict(zip(_BESIDE, map(torch.tensor, beside), strict=True))
    return weights, opening


def _found(held: Any, path: Path, part: str | None, prefix: str | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    elsewhere = _beginning_with(_mapping(held), prefix) if prefix and part is None else []
    try:
        weights, opening = _opened(held, path, part)
    except UserError:
        if len(elsewhere) == 1:
            return elsewhere[0]
        raise
    if elsewhere and not any(name.startswith(str(prefix)) for name in weights):
        if len(elsewhere) > 1:
            raise _several(path, [".".join(names) for _, names in elsewhere])
        return elsewhere[0]
    return weights, opening


def _opened(held: Any, path: Path, part: str | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    whole, opening = held, tuple[str, ...]()
    held = _mapping(held)
    if part is not None:
        held, opening = _chosen(held, part, path)
    while (name := _next(held, path, opening)) is not None:
        held, opening = _mapping(held[name]), (*opening, name)
    weights = _tensors(held)
    if not weights:
        known = "state_dict, model_state_dict, model, net and their kin"
        items = numbered_items(whole)
        inside = [] if opening or items is whole else [name for name, one in items.items() if _holds(one)]
        also = f", or an item of its list with ;part={inside[0]}" if inside else ""
        raise UserError(f"{cut(path)!r} holds no state dict; accepted: one, or one under {known}{also}")
    return weights, opening


def fitted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, prefix: str | None = None) -> Fit:
    """Find the module's weights in a state dict, whatever stands before and in their names.

    Args:
        own: the module's state dict. prefix: a text that the names begin with, where the user says so.

    Raises:
        UserError: no name begins with the prefix, or several networks fit.
    """
    mean, std = map(weights.get, _BESIDE)
    beside = None if mean is None or std is None else (tuple(mean.tolist()), tuple(std.tolist()))
    weights = {key: value for key, value in weights.items() if key not in _BESIDE}
    names, head = _cut(weights, prefix, path)
    match = _best(names, own, weights, path)
    keys = match.keys(names)
    loaded = {key for name, key in keys.items() if name in own}
    constants, spent, unclear = constants_in(weights, loaded, head + match.prefix, path)
    keys = {name: key for name, key in keys.items() if key not in spent}
    used = set(keys.values())
    whole = head + match.prefix
    return Fit(
        weights={name: weights[key] for name, key in keys.items()},
        keys=keys,
        stripped=(*filter(None, (whole,)), *(f"{marker}." for marker in match.markers)),
        left=tuple(key for key in weights if key not in used and key not in spent and not key.endswith(OPTIONAL)),
        constants=constants,
        lost=whole if constants is None and _lacks_a_part(whole, weights) else "",
        unclear=unclear,
        beside=None if constants or unclear or has_constants(own) else beside,
    )


def deeper_than(own: Collection[str], more: Iterable[str]) -> tuple[list[str], int]:
    """The layers of a deeper network in names that a module does not have: `layer1.3` where it ends at `layer1.2`.

    Returns:
        The lists of layers that go on, and how many of the names are in them.
    """
    last: dict[str, int] = {}
    for name in own:
        for parent, number in _numbered(name):
            last[parent] = max(last.get(parent, -1), number)
    lists, count = dict[str, None](), 0
    for name in more:
        beyond = [parent for parent, number in _numbered(name) if number > last.get(parent, number)]
        lists |= dict.fromkeys(beyond)
        count += bool(beyond)
    return list(lists), count


# ---------------------------------------------------------------------------------------------- which network of the file


def _mapping(value: Any) -> Mapping[Any, Any]:
    """A mapping, a network's state dict, or nothing."""
    if isinstance(value, nn.Module):
        return value.state_dict()
    return value if isinstance(value, Mapping) else {}


def numbered_items(held: Any) -> Any:
    """A list, or a mapping by whole numbers, as one by their texts: its parts are called `0`, `1` and so on."""
    if isinstance(held, (list, tuple)):
        held = dict(enumerate(held))
    if isinstance(held, Mapping) and held and all(type(name) is int for name in held):
        return {str(name): value for name, value in held.items()}
    return held


def _tensors(held: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors by name, arrays of numpy among them."""
    read = {name: value.tensor() if isinstance(value, Array) else value for name, value in held.items()}
    return {name: value for name, value in read.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _next(held: Mapping[Any, Any], path: Path, opening: tuple[str, ...]) -> str | None:
    """The container to open; None where this is the state dict, or nothing is in it.

    Raises:
        UserError: there are several.
    """
    if len(opening) > _DEPTH:
        return None
    names = [name for name in CONTAINERS if _holds(held.get(name))]
    if not names and not _tensors(held):
        names = list(_networks(held))
    if len(names) > 1:
        raise _several(path, [".".join((*opening, name)) for name in names])
    return names[0] if names else None


def _several(path: Path, names: list[str]) -> UserError:
    choice = ", ".join(map(cut, names[:10]))
    return UserError(f"{cut(path)!r} holds several networks: {choice}; choose one with ;part={names[0]}")


def _beginning_with(held: Mapping[Any, Any], prefix: str) -> list[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """The tensors whose names begin so, with the names of what they lie in; of the outermost places that have any."""
    found: dict[int, list[tuple[dict[str, Tensor], tuple[str, ...]]]] = {}
    for names, inner in _levels(held):
        flat = {".".join((*more, name)): value for more, one in _levels(inner) for name, value in _tensors(one).items()}
        there = {name: value for name, value in flat.items() if name.startswith(prefix)}
        if there:
            found.setdefault(len(names), []).append((there, names))
    return found[min(found)] if found else []


def _networks(held: Mapping[Any, Any]) -> Iterator[str]:
    """The names under which there are state dicts, whatever they are called."""
    for name, value in held.items():
        if isinstance(name, str) and not any(word in name.lower() for word in _NO_NETWORKS) and _holds(value):
            yield name


def _holds(value: Any, depth: int = 0) -> bool:
    """Whether there is a state dict somewhere in it."""
    inner = _mapping(value)
    if depth > _DEPTH or not inner:
        return False
    return bool(_tensors(inner)) or any(_holds(inner[name], depth + 1) for name in inner if isinstance(name, str))


def _chosen(held: Mapping[Any, Any], part: str, path: Path) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    """What lies under that name or path of names, at the top or deeper; of flat weights, those whose names begin so."""
    found: dict[int, list[tuple[Mapping[Any, Any], tuple[str, ...]]]] = {}
    for names, inner in _levels(held):
        below = _below(inner, part)
        if below is not None:
            found.setdefault(len(names), []).append((below[0], (*names, *below[1])))
        elif flat := _flat(_tensors(inner), part):
            found.setdefault(len(names), []).append((flat, (*names, part)))
    outermost = found[min(found)] if found else []
    if len(outermost) > 1:
        raise _several(path, [".".join(names) for _, names in outermost])
    if outermost:
        return outermost[0]
    known = [".".join(names) for names, inner in _levels(held) if names and _holds(inner)]
    known += dict.fromkeys(
        name.partition(".")[0] for _, inner in _levels(held) for name in _tensors(inner) if "." in name
    )
    raise unknown(f"part of {cut(path.name)}", part, known)


def _flat(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of a part whose name stands in theirs, at the beginning or after what all wrappers put before it.

    Their names are those without it, unless a normalisation lies beside the part or is missing there.
    """
    heads = {name[: f".{name}".index(f".{part}.")] for name in weights if f".{part}." in f".{name}"}
    head = min(heads, key=len, default=None)
    if head is None or (head and len(heads) > 1):
        return {}
    whole = f"{head}{part}."
    mine = {name: value for name, value in weights.items() if name.startswith(whole)}
    beside = {name: value for name, value in weights.items() if name not in mine and has_constants({name: value})}
    if _lacks_a_part(whole, weights) or (beside and not has_constants(mine)):
        return beside | mine
    return {name[len(whole) :]: value for name, value in mine.items()}


def _levels(
    held: Mapping[Any, Any], names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping in it, the outer ones first."""
    level = [(names, held)]
    while level:
        yield from level
        level = [
            ((*names, name), _mapping(value))
            for names, inner in level
            for name, value in inner.items()
            if len(names) < _DEPTH and isinstance(name, str) and _mapping(value)
        ]


def _below(held: Mapping[Any, Any], part: str) -> tuple[Mapping[Any, Any], tuple[str, ...]] | None:
    """What lies under a name, or under a path of names joined by dots."""
    if _holds(held.get(part)):
        return _mapping(held[part]), (part,)
    for place, letter in enumerate(part):
        if letter == "." and (inner := _mapping(held.get(part[:place]))):
            found = _below(inner, part[place + 1 :])
            if found is not None:
                return found[0], (part[:place], *found[1])
    return None


# ---------------------------------------------------------------------------------------------- under which names


@dataclass(frozen=True, kw_only=True)
class _Match:
    """How names of a file become names of a module.

    Args:
        own: the module's names, by what they are without `markers` and without `added`. prefix: what stands before them in
            the file. markers: parts that are dropped from both. added: what stands before all names of the module.
    """

    own: Mapping[str, str]
    prefix: str = ""
    markers: tuple[str, ...] = ()
    added: str = ""

    def keys(self, names: Mapping[str, str]) -> dict[str, str]:
        """The keys of the file, by the module's names."""
        found: dict[str, str] = {}
        for name, key in names.items():
            short = _without(name, self.markers)
            if short.startswith(self.prefix):
                rest = short[len(self.prefix) :]
                found.setdefault(self.own.get(rest, self.added + rest), key)
        return found


def _cut(weights: Mapping[str, Tensor], prefix: str | None, path: Path) -> tuple[dict[str, str], str]:
    """The keys by their names without the user's prefix, and what was cut: with the dot that ends it, where it has one."""
    if prefix is None:
        return {key: key for key in weights}, ""
    keys = [key for key in weights if key.startswith(prefix)]
    if not keys:
        inside = {key[: place + len(prefix)] for key in weights if (place := f".{key}".find(f".{prefix}")) >= 0}
        heads = [f"{key[: len(key) - len(last)]}" for key in weights if (last := key.rpartition(".")[2]) != key]
        guess = min(inside, key=len, default=None) or nearest(prefix, dict.fromkeys(heads))
        also = f"; did you mean {guess}?" if guess else f"; they are like {cut(next(iter(weights)))}"
        raise UserError(f"no name in {cut(path)!r} begins with prefix={cut(prefix)}{also}")
    whole = f"{prefix}." if all(key[len(prefix) :].startswith(".") for key in keys) else prefix
    return {key[len(whole) :]: key for key in keys}, whole


def _best(names: Mapping[str, str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> _Match:
    """The way of reading the names by which most of the module's are found; the plainest where several do."""
    wanted = [name for name in own if not name.endswith(OPTIONAL)]
    required = set(wanted)
    best, most = _Match(own={name: name for name in own}), -1
    for markers in ((), _MARKERS, (*_MARKERS, _PARALLEL)):
        there = dict[str, str]()
        for name, key in names.items():
            there.setdefault(_without(name, markers), key)
        for added in _common(wanted):
            mine = {_without(name.removeprefix(added), markers): name for name in own}
            short = {name: whole for name, whole in mine.items() if whole in required}
            prefix, count = _prefix(there, short, own, weights, path)
            if count > most:
                dropped = tuple(marker for marker in markers if _drops(marker, (*names, *own)))
                best, most = _Match(own=mine, prefix=prefix, markers=dropped, added=added), count
            if count == len(wanted):
                return best
    return best


def _prefix(
    there: Mapping[str, str],
    short: Mapping[str, str],
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    path: Path,
) -> tuple[str, int]:
    """What stands before the module's names in the file, and how many of them are found under it.

    Args:
        there: keys of the file by their names. short: the module's names by what is looked for.

    Raises:
        UserError: all weights are there under several prefixes, and are not the same.
    """
    counts = Counter[str]()
    for name in there:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in short:
                counts[".".join((*parts[:place], ""))] += 1
    if not counts:
        return "", 0
    most = max(counts.values())
    rivals = sorted((prefix for prefix, count in counts.items() if count == most), key=len)
    if not any("." in name for name in short):  # one layer alone: any layer of another network is called the same
        rivals = [one for one in rivals if one == "" or all(name.startswith(one) or _small(name) for name in there)]
    shaped = [one for one in rivals if _same_shapes(one, there, short, own, weights)]
    rivals = shaped or rivals
    if not rivals:
        return "", 0
    first = rivals[0]
    other = next((one for one in rivals[1:] if not _equal(first, one, there, short, weights)), None)
    if other is not None and first and shaped and 2 * most > len(short):
        raise UserError(
            f"{cut(path)!r} holds several networks that fit, under {first!r} and {other!r}; choose one with"
            f" ;prefix={first}"
        )
    return first, most


def _small(name: str) -> bool:
    """Whether it is no weight of a layer: a counter, or a constant of normalisation."""
    last = name.rpartition(".")[2]
    return last in ("n_averaged", OPTIONAL) or constant_of(last) is not None


def _same_shapes(
    prefix: str,
    there: Mapping[str, str],
    short: Mapping[str, str],
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> bool:
    pairs = ((there.get(prefix + name), mine) for name, mine in short.items())
    return all(key is None or weights[key].shape == _shape(own[mine]) for key, mine in pairs)


def _equal(
    one: str, other: str, there: Mapping[str, str], short: Mapping[str, str], weights: Mapping[str, Tensor]
) -> bool:
    """Whether the same weights lie under two prefixes, as where a wrapper holds the network twice."""
    pairs = ((there.get(one + name), there.get(other + name)) for name in short)
    return all((a is None) == (b is None) and (a is None or torch.equal(weights[a], weights[str(b)])) for a, b in pairs)


def _shape(tensor: Tensor) -> torch.Size | None:
    """None of a parameter of a lazy layer, which takes the file's shape."""
    return None if nn.parameter.is_lazy(tensor) else tensor.shape


def _common(names: list[str]) -> Iterator[str]:
    """Nothing, and what all names begin with, part by part: a network that lies in a wrapper of the module's."""
    yield ""
    found = ""
    while names:
        head, dot, _ = names[0][len(found) :].partition(".")
        found += head + dot
        if not dot or not all(name.startswith(found) for name in names):
            return
        yield found


def _without(name: str, markers: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in markers) if markers else name


def _drops(marker: str, names: Iterable[str]) -> bool:
    return any(marker in name.split(".") for name in names)


def _numbered(name: str) -> Iterator[tuple[str, int]]:
    """Every list of layers in a name, with the layer's number: `layer1`, 3 and `layer1.3.conv`, 0."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isascii() and part.isdigit():
            yield ".".join(parts[:place]), int(part[:9])


def _lacks_a_part(prefix: str, keys: Collection[str]) -> bool:
    """Whether the network was not the first of an `nn.Sequential`, and nothing is kept of what stood before it."""
    parts = prefix.split(".")
    for place, part in enumerate(parts):
        before = range(min(int(part[:9]), 100)) if part.isascii() and part.isdigit() else ()
        siblings = (".".join((*parts[:place], str(number), "")) for number in before)
        if not all(any(key.startswith(sibling) for key in keys) for sibling in siblings):
            return True
    return False
