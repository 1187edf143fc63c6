"""One way for every source: the network, its weights from a file, its normalisation, and the way in which it must be asked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError, cut
from robustbench_lite.zoo.adapt import NOTHING, Adaptation, Normalisation, adaptation_notes, applied
from robustbench_lite.zoo.base import ImageData, LoadedModel, audit, file_at, probe_images, ready
from robustbench_lite.zoo.compat import handling_of
from robustbench_lite.zoo.constants import constant_texts, constants_beside, same_constants
from robustbench_lite.zoo.weights import Filled, Trust, fill, read_weights

#: what hubs call the description of a model of timm that lies beside its weights
_HUB_CARD = "config.json"


@dataclass(frozen=True, kw_only=True)
class FileOptions(Adaptation):
    """Options of every model whose weights may come from a file, besides those of `Adaptation`.

    Args:
        weights: the file. part: which network in it, where it holds several. prefix: what the names of its weights begin
            with.
    """

    weights: str | None = None
    part: str | None = None
    prefix: str | None = None

    def check(self, what: str) -> None:
        super().check(what)
        odd = "part" if self.part is not None else "prefix" if self.prefix is not None else None
        if odd is not None and self.weights is None:
            raise UserError(f"{what}: {odd} is for a file of weights; name it with ;weights=FILE")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """What a source knows of a model before it is put together.

    Args:
        spec: as the user wrote it. what: what messages call the model. network: made already.
        make: makes it anew with fresh weights; None where it has only those that it came with.
        inner: the part of the network that a file's weights are of. own: the network's own mean and std.
        trained: its weights are meant to be used. notes: what is known besides (see `LoadedModel`).
    """

    spec: specs.Spec
    what: str
    options: FileOptions
    network: nn.Module
    make: Callable[[], nn.Module] | None
    inner: Callable[[nn.Module, Mapping[str, Tensor]], nn.Module] = lambda network, held: network
    own: Normalisation | None = None
    trained: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)


def assemble(draft: Draft, data: ImageData, trust: Trust) -> LoadedModel:
    """The model, ready to be asked.

    Raises:
        UserError: options, weights or a network that do not fit each other or the data.
    """
    draft.options.check(draft.what)
    network = draft.network
    told: dict[str, Any] = {}
    if draft.options.weights is not None:
        path = file_at(draft.options.weights)
        filled, told = loaded_into(
            draft, path, trust, asked=draft.options.normalisation is not None, classes=data.num_classes
        )
        draft = _with_constants(draft, filled, path, data.input_shape[0])
    own, options, shape = draft.own, draft.options, data.input_shape
    front = options.around(nn.Identity(), shape, draft.what, own)
    with torch.no_grad():
        image = front.to(_device(network))(probe_images(network, shape, 1))
    handling = handling_of(network, image, cut(draft.what), trained=draft.trained)

    module = options.around(handling.around(network), shape, draft.what, own).eval()
    classes = audit(
        module, name=draft.what, num_classes=data.num_classes, input_shape=shape, class_names=data.class_names
    )
    notes, make = dict(draft.notes), draft.make
    loading = {**adaptation_notes(module), **told, **handling.notes(), **notes.pop("loading", {})}
    return LoadedModel(
        name=str(draft.spec),
        module=ready(module),
        trained=draft.trained,
        num_classes=classes,
        input_shape=shape,
        fresh=None if make is None else lambda: options.around(handling.around(make()), shape, draft.what, own),
        notes=notes | ({"loading": loading} if loading else {}),
    )


def loaded_into(draft: Draft, path: Path, trust: Trust, *, asked: bool, classes: int) -> tuple[Filled, dict[str, Any]]:
    """Load a file's weights into a network; what was done, and the same for `loading`.

    Args:
        asked: the user says how images are normalised. classes: of the data.

    Raises:
        UserError: as `read_weights` and `fill`; or a part without weights stood before the network, and nobody says what.
    """
    options = draft.options
    held, opening = read_weights(
        path, allow_pickle=trust.pickles, allow_code=trust.code, part=options.part, prefix=options.prefix
    )
    filled = fill(draft.inner(draft.network, held), held, path, prefix=options.prefix, strict=False, classes=classes)
    if filled.lost and not asked:
        raise UserError(
            f"the weights in {cut(path)!r} lie under {cut(filled.lost)!r}, and a part without weights stood before"
            " them, such as a normalisation: say which with normalize=imagenet|cifar10|0.5, or with mean and std;"
            " normalize=none says that there was none"
        )
    if filled.unclear and not asked:
        raise UserError(filled.unclear)
    own, teller, beside = draft.own or applied(draft.network), path, filled.beside
    if draft.own is not None and filled.constants is None and beside is None:
        teller, beside = path.with_name(_HUB_CARD), _of_hub_card(path.with_name(_HUB_CARD))
    if beside is not None and not asked and not same_constants(beside, own):
        raise _told_beside(teller, beside, own)
    told: dict[str, Any] = {"weights": path.name}
    if opening:
        told["part"] = ".".join(opening)
    return filled, told | filled.notes()


def _of_hub_card(path: Path) -> Normalisation | None:
    """Mean and std in what hubs keep beside the weights of a model of timm; None without a file that can be read."""
    try:
        return constants_beside(json.loads(path.read_text(encoding="utf-8-sig")), ())
    except (OSError, ValueError, RecursionError):
        return None


def _told_beside(path: Path, beside: Normalisation, own: Normalisation | None) -> UserError:
    """The question how images are normalised, where the file tells constants that are no part of its network."""
    told, here = constant_texts(beside, 1), constant_texts(own or NOTHING, 1)
    ours = (
        f"the model normalises by mean=({here['mean']}), std=({here['std']})" if own else "the model does not normalise"
    )
    return UserError(
        f"{cut(path)!r} tells mean=({told['mean']}), std=({told['std']}) beside the weights, and {ours}: say which with"
        f" ;mean=({told['mean']});std=({told['std']}), or normalize=none if the network does it itself"
    )


def check_constants(constants: Normalisation, applied: Normalisation | None, path: Path) -> None:
    """Refuse a file whose network was trained behind another normalisation than the one that the user asks for.

    Args:
        constants: the file's. applied: before the module; None: nothing is.

    Raises:
        UserError: they differ.
    """
    if not same_constants(constants, applied):
        told, here = constant_texts(constants, 1), constant_texts(applied or ((0.0,), (1.0,)), 1)
        raise UserError(
            f"{cut(path)!r} normalises by mean=({told['mean']}), std=({told['std']}), the model by"
            f" mean=({here['mean']}), std=({here['std']}); give the file's, or normalize=none if the network does it itself"
        )


def _with_constants(draft: Draft, filled: Filled, path: Path, channels: int) -> Draft:
    """The draft behind the normalisation that the file tells, where the user asks for no other one."""
    constants = filled.constants
    if constants is None or draft.options.normalize == "none":
        return draft
    if channels == 1 and draft.options.grey is None:
        constants = _of_one_channel(constants)
    if draft.options.normalisation is not None:
        check_constants(constants, draft.options.normalisation, path)
        return draft
    if same_constants(constants, draft.own):
        return draft
    texts = constant_texts(constants, 1 if draft.own is None else channels)
    spec = replace(draft.spec, options={**draft.spec.options, **texts})  # so that a card names it as well
    options = replace(draft.options, mean=texts["mean"], std=texts["std"])
    return replace(draft, options=options, spec=spec)


def _of_one_channel(constants: Normalisation) -> Normalisation:
    """The same with one number, where all channels have the same."""
    mean, std = constants
    return (mean[:1], std[:1]) if len(set(mean)) == len(set(std)) == 1 else constants


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
