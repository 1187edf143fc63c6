"""Networks that cannot be asked as an evaluation asks: found out by a few questions, and put behind a module that can.

An evaluation asks with n float32 images, which it needs again, and reads n rows of logits. A network that changes its
images, takes 16 of them at most, computes in half precision or answers with an object is asked in its own way. An ordinary
network stays as it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError, cause_of
from robustbench_lite.zoo.base import ask, by, kind_of, loading
from robustbench_lite.zoo.given import LIBRARIES, FunctionNetwork, set_mode

#: rows and values of the largest batch that a network is tried on: what a run on a CPU shows at once
_ROWS, _FEWEST_ROWS, _VALUES = 512, 33, 1 << 18
#: sizes that networks are made for: every small one of a graph, where sizes are fixed; the usual ones of Python code
_GRAPH_SIZES = (*range(3, 65), 96, 100, 128, 200, 256, 512)
_CODE_SIZES = (*range(3, 17), 20, 32, 50, 64, 100, 128)
#: in what is raised: another number of images does not mend it
_HOPELESS = ("channels, but got", "does not fit into the memory")
_GRAPHS = (torch.jit.ScriptModule, torch.fx.GraphModule)


@dataclass(frozen=True, kw_only=True)
class Handling:
    """How a network must be asked; as it stands, like any other.

    Args:
        fixed: it has no training mode, or cannot be frozen (an exported program, a script).
        copies: it changes its images, and is given a copy.
        dtype: it computes in this precision, and images are converted; None: float32.
        outputs: where the logits are: `` (the answer itself), `.logits`, `['logits']` or `[0]`.
        one_logit: it answers two classes with one number z an image, which becomes the logits (0, z).
        fewest, most: images at once; fewer are filled up with copies, more are cut into pieces.
    """

    fixed: bool = False
    copies: bool = False
    dtype: torch.dtype | None = None
    outputs: str = ""
    one_logit: bool = False
    fewest: int = 1
    most: int | None = None

    def around(self, network: nn.Module) -> nn.Module:
        """The network behind what this asks for; itself where that is nothing."""
        return network if self == Handling() else Adapted(network, **vars(self))

    def notes(self) -> dict[str, Any]:
        """For `loading`, as plain JSON values; empty where the network is asked like any other."""
        told: dict[str, Any] = {}
        if self.copies:
            told["input"] = "a copy, as the network changes it"
        if self.dtype is not None:
            told["precision"] = str(self.dtype).removeprefix("torch.")
        if self.outputs:
            told["output"] = self.outputs
        if self.one_logit:
            told["classes"] = "two, from one logit z as (0, z)"
        if self.most is not None or self.fewest > 1:
            told["batch"] = _sizes(self.fewest, self.most)
        return told


class Adapted(nn.Module):
    """A network asked in its own way; see `Handling` for the fields."""

    def __init__(
        self,
        network: nn.Module,
        *,
        fixed: bool = False,
        copies: bool = False,
        dtype: torch.dtype | None = None,
        outputs: str = "",
        one_logit: bool = False,
        fewest: int = 1,
        most: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.fixed, self.copies, self.dtype = network, fixed, copies, dtype
        self.outputs, self.one_logit, self.fewest, self.most = outputs, one_logit, fewest, most

    def forward(self, x: Tensor) -> Tensor:
        if self.most is None and self.fewest == 1:
            return self._answer(x)
        pieces = x.split(self.most or len(x))
        return torch.cat([self._answer(self._filled(piece))[: len(piece)] for piece in pieces])

    def train(self, mode: bool = True) -> "Adapted":
        self.training = mode
        set_mode(self.network, mode)
        return self

    def extra_repr(self) -> str:
        names = ("fixed", "copies", "dtype", "outputs", "one_logit", "fewest", "most")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def _filled(self, x: Tensor) -> Tensor:
        lacking = self.fewest - len(x)
        return x if lacking <= 0 else torch.cat((x, x[:1].expand(lacking, *x.shape[1:])))

    def _answer(self, x: Tensor) -> Tensor:
        if self.dtype is not None:
            x = x.to(self.dtype)
        elif self.copies:
            x = x.clone()
        scores = _picked(self.network(x), self.outputs)
        if self.one_logit:
            z = scores.flatten()
            scores = torch.stack((torch.zeros_like(z), z), 1)
        return scores if self.dtype is None else scores.float()


def handling_of(
    network: nn.Module, image: Tensor, name: str, largest: int | None = None, *, trained: bool = True
) -> Handling:
    """How the network must be asked.

    Args:
        network: is put into eval mode and frozen. image: (1, c, h, w), as the network is given it, on its device.
        largest: the most images that a run shows at once; chosen by the image's size if left out.
        trained: its answers mean something already.

    Raises:
        UserError: it answers no number of images, or with no logits.
    """
    with loading(name):
        if any(map(nn.parameter.is_lazy, (*network.parameters(), *network.buffers()))):
            raise UserError(
                f"{name} has lazy layers whose weights are not made yet; show it one batch of images, and train it"
            )
        handling = Handling(fixed=set_mode(network, False) or _stays_trainable(network))
    sizes: tuple[int, ...] = (2,)
    if _may_mind_sizes(network):
        sizes = (2, 1, largest or max(_FEWEST_ROWS, min(_ROWS, _VALUES // max(math.prod(image.shape), 1))))
    if all(_ordinary(network, image, size) for size in sizes):
        return handling
    with loading(name):  # what it answers with may be of its own making
        handling = _searched(network, image, name, handling, sizes)
    if handling.one_logit and trained:
        _no_probability(handling.around(network), image, name)
    return handling


def _stays_trainable(network: nn.Module) -> bool:
    """Whether it refuses to be frozen, as scripts do; their weights do not."""
    try:
        network.requires_grad_(False)
    except RuntimeError:
        return True
    return False


def _may_mind_sizes(network: nn.Module) -> bool:
    """Whether some part of it is more than the layers of well-known packages, and may take few images only."""
    return any(
        isinstance(part, (*_GRAPHS, FunctionNetwork)) or type(part).__module__.partition(".")[0] not in LIBRARIES
        for part in network.modules()
    )


def _ordinary(network: nn.Module, image: Tensor, size: int) -> bool:
    """Whether so many images are answered as they should be, and left alone."""
    x = _batch(image, size)
    try:
        scores = ask(network, x, "")
    except torch.OutOfMemoryError:
        return size > 2
    except UserError:
        return False
    return isinstance(scores, Tensor) and _logits(scores, size) and not _changed(x, image)


def _searched(network: nn.Module, image: Tensor, name: str, handling: Handling, sizes: tuple[int, ...]) -> Handling:
    """The handling of a network that is not ordinary."""
    handling, works = _first_answer(network, image, name, handling)
    x = _batch(image, works)
    answer = ask(network, x if handling.dtype is None else x.to(handling.dtype), name)
    handling = replace(handling, copies=handling.dtype is None and _changed(x, image))
    handling = _with_outputs(handling, answer, works, name)
    return _with_sizes(network, image, handling, works, max(sizes))


def _first_answer(network: nn.Module, image: Tensor, name: str, handling: Handling) -> tuple[Handling, int]:
    """A number of images that it answers at all, and in which precision."""
    own = next((value.dtype for value in network.parameters() if value.is_floating_point()), torch.float32)
    precisions = (None,) if own == torch.float32 else (None, own)
    trouble: UserError | None = None
    for size in (2, 1, *_likely_sizes(network)):
        for dtype in precisions:
            x = _batch(image, size)
            try:
                answer = ask(network, x if dtype is None else x.to(dtype), name)
            except UserError as error:
                trouble = trouble or error
                continue
            except torch.OutOfMemoryError as error:  # fewer images may fit
                trouble = trouble or _no_memory(name, image, error)
                continue
            if _rows(answer, size) == size:
                return replace(handling, dtype=dtype), size
            trouble = trouble or _no_logits(name, answer, size)
        if size == 1 and trouble is not None and any(sign in str(trouble) for sign in _HOPELESS):
            break
    assert trouble is not None
    raise trouble


def _no_memory(name: str, image: Tensor, error: Exception) -> UserError:
    why = cause_of(error.__cause__ or error)
    return UserError(f"there is not enough memory to show {name} one image {by(tuple(image.shape[1:]))}: {why}")


def _likely_sizes(network: nn.Module) -> tuple[int, ...]:
    """Sizes of batches that the network may be made for; the one that an exported graph tells comes first."""
    graphs = [part for part in network.modules() if isinstance(part, _GRAPHS)]
    told: list[int] = []
    for part in graphs:
        nodes = part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()
        shapes: list[Any] = [getattr(node.meta.get("val"), "shape", ()) for node in nodes if node.op == "placeholder"]
        told += [shape[0] for shape in shapes if len(shape) == 4 and type(shape[0]) is int]
    return (*told, *(_GRAPH_SIZES if graphs else _CODE_SIZES))


def _with_outputs(handling: Handling, answer: Any, size: int, name: str) -> Handling:
    """Where in its answer the logits are."""
    where = _place_of_logits(answer)
    scores = None if where is None else _picked(answer, where)
    if where is None or not isinstance(scores, Tensor):
        raise _no_logits(name, answer, size)
    if not scores.is_floating_point():
        raise UserError(f"{name} answers with {scores.dtype}; accepted: logits, floating point")
    if scores.numel() == size:
        return replace(handling, outputs=where, one_logit=True)
    if not _logits(scores, size):
        raise _no_logits(name, scores, size)
    return replace(handling, outputs=where)


def _with_sizes(network: nn.Module, image: Tensor, handling: Handling, works: int, largest: int) -> Handling:
    """The fewest and the most images that it takes at once."""

    def takes(size: int) -> bool:
        try:
            scores = ask(handling.around(network), _batch(image, size), "")
        except UserError:
            return False
        except torch.OutOfMemoryError:  # it says nothing of the network
            return True
        return _logits(scores, size)

    if works > 1 and takes(1):
        works = 1
    fewest = works
    if not takes(works + 1):
        return replace(handling, fewest=fewest, most=works)
    if takes(max(largest, works + 1)):
        return replace(handling, fewest=fewest)
    low, high = works + 1, max(largest, works + 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return replace(handling, fewest=fewest, most=low)


def _no_probability(network: nn.Module, image: Tensor, name: str) -> None:
    """Refuse one number an image that always lies in [0, 1], as a sigmoid's does: it is no logit.

    Raises:
        UserError: on 16 images of noise, black and white it never leaves [0, 1].
    """
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand((14, *image.shape[1:]), generator=draws).to(image.device)
    shown = torch.cat((noise, torch.zeros_like(image), torch.ones_like(image)))
    z = torch.cat([ask(network, one[None], name)[:, 1] for one in shown])
    if bool(((z >= 0) & (z <= 1)).all()):
        raise UserError(
            f"{name} answers an image with one number from 0 to 1, as a sigmoid does; return the logit before it, or one"
            " logit a class"
        )


def _batch(image: Tensor, size: int) -> Tensor:
    """The image so many times, in memory of its own."""
    return image.detach().repeat(size, 1, 1, 1)


def _changed(x: Tensor, image: Tensor) -> bool:
    """Whether x, made by `_batch`, was written to since, also where its values are the same."""
    return x._version > 0 or not torch.equal(x, image.expand_as(x))


def _logits(scores: Tensor, size: int) -> bool:
    dense = scores.layout == torch.strided and not scores.is_meta
    return dense and scores.dim() == 2 and len(scores) == size and scores.shape[1] > 1 and scores.is_floating_point()


def _rows(answer: Any, size: int) -> int | None:
    """How many images an answer to `size` images is for; None where no logits are found in it, or only row by row."""
    if isinstance(answer, (tuple, list)) and len(answer) == size and _row_by_row(answer):
        return None
    where = _place_of_logits(answer)
    scores = None if where is None else _picked(answer, where)
    return len(scores) if isinstance(scores, Tensor) and scores.dim() in (1, 2) else None


def _row_by_row(answer: Sequence[Any]) -> bool:
    """Whether it holds vectors of one length, as where a batch of logits was taken apart."""
    shapes = {part.shape if isinstance(part, Tensor) and part.dim() == 1 else None for part in answer}
    return len(shapes) == 1 and None not in shapes


def _place_of_logits(answer: Any) -> str | None:
    if isinstance(answer, Tensor):
        return ""
    if isinstance(getattr(answer, "logits", None), Tensor):
        return ".logits"
    if isinstance(answer, Mapping) and isinstance(answer.get("logits"), Tensor):
        return "['logits']"
    if isinstance(answer, (tuple, list)) and answer and isinstance(answer[0], Tensor):
        return "[0]"
    return None


def _picked(answer: Any, where: str) -> Tensor:
    if where == ".logits":
        answer = answer.logits
    elif where == "['logits']":
        answer = answer["logits"]
    elif where == "[0]":
        answer = answer[0]
    return cast(Tensor, answer)


def _no_logits(name: str, answer: Any, size: int) -> UserError:
    if isinstance(answer, nn.Module):
        return UserError(
            f"{name} answers images with a network ({type(answer).__name__}); a function that builds one takes num_classes"
            " and input_shape, or nothing"
        )
    held = f" with the keys {', '.join(map(repr, list(answer)[:5]))}" if isinstance(answer, Mapping) else ""
    images = {1: "one image", 2: "two images"}.get(size, f"{size} images")
    return UserError(
        f"{name} answers {images} with {kind_of(answer)}{held}; accepted: a tensor ({size}, classes) of logits, an object"
        " with .logits, or a tuple that begins with such a tensor"
    )


def _sizes(fewest: int, most: int | None) -> str:
    if most == fewest:
        return "one image at a time" if most == 1 else f"exactly {most} images at a time"
    few = f"at least {fewest}" if fewest > 1 else ""
    many = f"at most {most}" if most is not None else ""
    return f"{' and '.join(filter(None, (few, many)))} images at a time"
