"""What a model source gives: a network from pixels in [0, 1] to logits, with its normalisation inside."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError, UserError, cause_of, cut, nearest
from robustbench_lite.guard import calling

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """What a model must fit.

    Args:
        num_classes, input_shape, class_names: of the data, see `audit`.
    """

    num_classes: int
    input_shape: Shape
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network and what is known of it.

    Args:
        name: the spec text. module: images (n, c, h, w) in [0, 1] -> logits (n, num_classes), in eval mode, frozen.
        trained: the weights are meant to be used; False for a fresh architecture that must be trained first.
        fresh: makes the architecture anew, with fresh weights by torch's global generator; None where only these
            weights are there.
        card: what a checkpoint's card tells.
        notes: for the notes of the system. `loading`: what was applied when it was loaded (see `results.loading`).
            `told`: the clean accuracy that a card, a hub or RobustBench tells. `random`: True for random weights.
    """

    name: str
    module: nn.Module
    trained: bool
    num_classes: int
    input_shape: Shape
    fresh: Callable[[], nn.Module] | None = None
    card: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def ready(module: nn.Module) -> nn.Module:
    """Eval mode, frozen."""
    return module.eval().requires_grad_(False)


def audit(
    module: nn.Module,
    *,
    name: str,
    num_classes: int | None,
    input_shape: Shape,
    class_names: tuple[str, ...] | None = None,
) -> int:
    """Run two images through and refuse what is no classifier of such images; the number of classes.

    Args:
        class_names: of the data. Where classes have names their number is sure, and a model with more was made for
            other classes; without names it is only what the labels reach.

    Raises:
        UserError: NaN weights, an exception, another shape of answers, or another number of classes.
    """
    name = cut(name)
    check_finite(module, name)
    scores = ask(module, probe_images(module, input_shape), name)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 2 or scores.shape[1] < 2:
        raise UserError(f"{name} answers two images with {kind_of(scores)}; accepted: a tensor (2, classes) of logits")
    if not scores.is_floating_point():
        raise UserError(f"{name} answers with {scores.dtype}; accepted: logits, floating point")
    classes = scores.shape[1]
    if num_classes is not None and classes < num_classes:
        raise UserError(f"labels reach {num_classes - 1} but {name} has {classes} classes")
    if class_names is not None and classes > len(class_names):
        raise UserError(f"{name} has {classes} classes but the data {len(class_names)}, {class_names[0]} and so on")
    return classes


def check_finite(module: nn.Module, name: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        UserError: a weight or buffer holds NaN or an infinite value.
    """
    for key, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"the weights of {name} hold NaN or infinite values ({key}); train or export it again")


def probe_images(module: nn.Module, input_shape: Shape, count: int = 2) -> Tensor:
    """Grey images (count, c, h, w) on the module's device."""
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    return torch.full((count, *input_shape), 0.5, device=device)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Inside, a network is looked at, moved or set to a mode: methods of the user's class may be called.

    Raises:
        UserError: whatever they raise, in a sentence. torch.OutOfMemoryError: there was not enough memory.
    """
    try:
        with calling(name):
            yield
    except ModelError as error:
        raise UserError(str(error)) from error


def ask(module: nn.Module, x: Tensor, name: str) -> Any:
    """What the module says of x (n, c, h, w), without gradients.

    Raises:
        UserError: whatever the module raises, in a sentence. torch.OutOfMemoryError: there was not enough memory.
    """
    try:
        with calling(name), torch.no_grad():
            return module(x)
    except ModelError as error:
        why = cause_of(error.__cause__ or error)
        raise UserError(f"{name} cannot take images {by(tuple(x.shape[1:]))}: {why}") from error


def kind_of(value: object) -> str:
    """What a model answered, for a message: the shape of a tensor, else the type."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    odd = "meta" if value.is_meta else "sparse" if value.layout != torch.strided else ""
    return f"a {odd} tensor {tuple(value.shape)}" if odd else str(tuple(value.shape))


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: `3x32x32`."""
    return "x".join(str(side) for side in shape)


def file_at(text: str) -> Path:
    """The path that a user wrote, `~` expanded.

    Raises:
        UserError: it is no path on this machine.
    """
    if not text:
        raise UserError("the name of a file is empty; write it behind the colon, such as checkpoint:FILE")
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot read the path {cut(text)!r}: {cause_of(error)}") from None


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also where the system takes no such name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def missing(path: Path) -> UserError:
    """The error for a file that is not there: a folder, a name that is nearly that of another file, or neither."""
    shown = cut(path)
    try:
        if path.is_dir():
            inside = sorted(one.name for one in path.iterdir() if one.is_file())
            also = f"; it holds {', '.join(inside[:5])}" if inside else ""
            return UserError(f"{shown!r} is a folder; name the file in it{cut(also)}")
        beside = [one.name for one in path.parent.iterdir() if one.is_file()] if path.parent.is_dir() else []
    except (OSError, ValueError):
        return UserError(f"there is no file {shown!r}")
    guess = nearest(path.name, (one for one in beside if Path(one).suffix == path.suffix))
    return UserError(f"there is no file {shown!r}" + (f"; did you mean {guess!r}?" if guess else ""))
