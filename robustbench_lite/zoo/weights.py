"""Weights from a file: safetensors first, pickles only when asked; what fits the network is loaded, what does not is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError, cause_of, cut
from robustbench_lite.zoo.adapt import Normalisation
from robustbench_lite.zoo.base import is_file, missing
from robustbench_lite.zoo.pickles import holds_network, read_pickle, run_pickle
from robustbench_lite.zoo.state_dicts import OPTIONAL, deeper_than, fitted, opened

#: how many keys are named: of those that do not fit, and of those that are left out
_NAMED, _LEFT = 3, 5
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".th", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a user allows to be read.

    Args:
        pickles: files that are pickles, as far as they run no code. code: files that run code of their own.
    """

    pickles: bool = False
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What was done to load weights.

    Args:
        stripped: taken from the names in the file. left_out: names that belong to no weight of the network.
        constants: of a normalisation in the file that the network does not have. lost, unclear, beside: see `state_dicts.Fit`.
    """

    stripped: tuple[str, ...]
    left_out: tuple[str, ...]
    constants: Normalisation | None
    lost: str
    unclear: str
    beside: Normalisation | None

    def notes(self) -> dict[str, Any]:
        """For `loading`, as plain JSON values."""
        told: dict[str, Any] = {"stripped": list(self.stripped)} if self.stripped else {}
        if self.left_out:
            told["left_out"] = {"count": len(self.left_out), "keys": list(self.left_out[:_LEFT])}
        return told


def read_weights(
    path: Path,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    part: str | None = None,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a file, and which containers were opened around them.

    A pickle is read with torch's `weights_only`, which runs no code: what needs code to be read is refused.

    Args:
        allow_code: run the code of a pickle that cannot be read without it, such as a whole network's.
        part: which network, of a file that holds several (`last` and `best`, `model` and its average `ema`).
        prefix: what the names of its weights begin with, which may say the same.

    Raises:
        UserError: no such file, a corrupt one, a pickle that was not allowed, or several networks and none chosen.
    """
    check_readable(path, Trust(pickles=allow_pickle, code=allow_code))
    if path.suffix.lower() == ".safetensors":
        return opened(_safetensors(path), path, part, prefix)
    return opened(_unpickled(path, allow_code), path, part, prefix)


def check_readable(path: Path, trust: Trust) -> None:
    """Refuse what is no file of weights, or one that the user has not allowed.

    Raises:
        UserError: no such file, another kind, or a pickle.
    """
    kind = path.suffix.lower()
    if not is_file(path):
        raise missing(path)
    if kind == ".pt2":
        raise UserError(f"{cut(path)!r} is an exported program; name it as export:{cut(path)}")
    if kind != ".safetensors" and kind not in PICKLES:
        raise UserError(
            f"{cut(path)!r} is no file of weights; accepted: .safetensors, or .pt and its kin with --allow-pickle"
        )
    if kind in PICKLES and not (trust.pickles or trust.code):
        if holds_network(path):
            raise UserError(
                f"checkpoint {cut(path.name)!r} is a pickle and could run code, and it holds a whole network, which takes its"
                " code to be read; save its state_dict, or pass --allow-code if you trust the file"
            )
        raise UserError(
            f"checkpoint {cut(path.name)!r} is a pickle and could run code;"
            " convert it to .safetensors, or pass --allow-pickle"
        )
    _same_content(path, kind)


def _same_content(path: Path, kind: str) -> None:
    """Refuse what only has the name of a file of weights: a download that went wrong, or a file of another kind.

    Raises:
        UserError: a pointer of Git LFS, a web page, a pickle called .safetensors, or the other way round.
    """
    shown = cut(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:  # whoever reads the whole file says why
        return
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{shown!r} is a pointer of Git LFS and holds no weights; fetch the file itself with git lfs pull"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{shown!r} is a web page and holds no weights; download the file itself")
    if kind == ".safetensors" and head.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise UserError(f"{shown!r} is a pickle of torch by its content; rename it to .pt, and pass --allow-pickle")
    if kind != ".safetensors" and head[8:10] == b'{"':
        raise UserError(f"{shown!r} is a safetensors file by its content; rename it to .safetensors")


def fill(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    *,
    prefix: str | None = None,
    strict: bool = True,
    classes: int | None = None,
) -> Filled:
    """Load the weights; what was stripped from their names, and what was left out.

    A weight of the network that the file does not hold is refused, but for counters of batch normalisation. torch's own
    load hooks run, so that old names of weight normalisation are read. The module is not to be used after a refusal.

    Args:
        prefix: what the names begin with, where the user says so. strict: what belongs to no weight is refused as well.
        classes: of the data, which a network was built for.

    Raises:
        UserError: keys, shapes or types that do not fit, NaN, or a file of a deeper network.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if not own:
        raise UserError(f"the network has no weights that {cut(path)!r} could be loaded into")
    fit = fitted(weights, own, path, prefix)
    if strict and fit.unclear:
        raise UserError(fit.unclear)
    for name in (name for name in own if name in fit.weights):  # in the order of the layers: one message names one key
        _check_tensor(name, fit.weights[name], own[name], path, classes)
    try:
        answer = module.load_state_dict(fit.weights, strict=False)
    except Exception as error:  # shapes that a load hook finds, and hooks of the user's layers
        raise UserError(f"{cut(path)!r} does not fit the architecture: {cause_of(error)}") from error
    there = {own[name].data_ptr() for name in own if name in fit.weights}  # tied weights are kept once
    lacking = [name for name in answer.missing_keys if name in own and own[name].data_ptr() not in there]
    lacking = [name for name in lacking if not name.endswith(OPTIONAL)]
    odd = [name for name in answer.unexpected_keys if not name.endswith(OPTIONAL)]
    unused = tuple(getattr(module, "unused_weights", ()))
    refused = [name for name in odd if not name.startswith(unused)] if strict else []
    if lacking or refused:
        raise _no_fit(path, lacking, [fit.keys[name] for name in odd], list(fit.weights))
    _not_deeper(path, set(own), odd)
    left = (*(fit.keys[name] for name in odd), *fit.left)
    return Filled(
        stripped=fit.stripped,
        left_out=left,
        constants=fit.constants,
        lost=fit.lost,
        unclear=fit.unclear,
        beside=fit.beside,
    )


def _no_fit(path: Path, lacking: list[str], odd: list[str], held: list[str]) -> UserError:
    said = [_listed(sorted(lacking), "is missing", "so"), _listed(sorted(odd), "is not in it", "neither")]
    counts = f"{len(lacking)} keys missing, {len(odd)} too many"
    return UserError(f"{cut(path)!r} does not fit the architecture: {'; '.join(filter(None, said))} ({counts})")


def _not_deeper(path: Path, own: set[str], odd: list[str]) -> None:
    """Refuse weights of the first layers of a deeper network: they would be loaded without a word of torch's."""
    lists, count = deeper_than(own, odd)
    if len(lists) > 1 or 2 * count >= len(own):
        shown = ", ".join(lists[:_NAMED])
        raise UserError(
            f"{cut(path)!r} holds a deeper network than the architecture: {shown} go on in it ({count} keys); name the"
            " architecture that it was saved from"
        )


def _listed(keys: list[str], what: str, like: str) -> str:
    """`a is missing, and so are b, c and 7 more`; nothing where there is none."""
    if len(keys) < 2:
        return f"{keys[0]} {what}" if keys else ""
    more = keys[1:_NAMED]
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{keys[0]} {what}, and {like} {'is' if len(keys) == 2 else 'are'} {', '.join(more)}{rest}"


def _head(given: tuple[int, ...], wanted: tuple[int, ...], classes: int | None) -> str:
    """What to say where only the number of outputs differs, and what is wanted is that of the data's classes."""
    if not given or given[1:] != wanted[1:] or wanted[:1] != (classes,):
        return ""
    return (
        f"; the network was built for the {classes} classes that the labels tell: if the file's {given[0]} are those of its"
        f" head, say ;classes={given[0]} behind the npz: or folder: of the dataset"
    )


def _check_tensor(key: str, tensor: Tensor, own: Tensor, path: Path, classes: int | None) -> None:
    lazy = nn.parameter.is_lazy(own)
    shown = cut(path)
    if not lazy and tensor.shape != own.shape:
        given, wanted = tuple(tensor.shape), tuple(own.shape)
        raise UserError(
            f"{shown!r} does not fit the architecture: {key} has shape {given}, not {wanted}{_head(given, wanted, classes)}"
        )
    if tensor.is_floating_point() != own.is_floating_point():
        raise UserError(f"{shown!r} does not fit the architecture: {key} is {tensor.dtype}, not {own.dtype}")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise UserError(
            f"{shown!r} holds {key} as a {'meta' if tensor.is_meta else 'sparse'} tensor; accepted: numbers"
        )
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        raise UserError(f"{shown!r} holds NaN or infinite weights ({key}); train or export it again")


def _unpickled(path: Path, allow_code: bool) -> Any:
    """What a pickle holds; its code runs only where that is allowed and needed."""
    try:
        return read_pickle(path)
    except UserError:
        if not allow_code:
            raise
        return run_pickle(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return dict(sorted(load(path.read_bytes()).items()))  # its reader gives them in any order
    except Exception as error:  # its reader and the header's values fail in many ways on damaged bytes
        raise UserError(f"{cut(path)!r} is corrupt or truncated: {cause_of(error)}") from error
