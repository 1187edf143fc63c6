"""What may be wrong where a clean accuracy is low, tried on a few clean images: other pixels, or other numbers of the classes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.verdict import Sitting, look
from robustbench_lite.system import Observed, System
from robustbench_lite.zoo.adapt import Constants, Normalized

#: images that a cure of pixels is tried on at first, and those that are promising; fewer of large images
FIRST, MOST, FIRST_LARGE, LARGE = 50, 200, 16, 3 * 64 * 64
#: how many images more must be right at first, and how many points, with what chance of luck, of all cures together, in the end
PROMISING, GAIN, LUCK = 3, 0.05, 0.01
#: the constants that most checkpoints were trained with
USUAL = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What is tried: what it `means` for the images or classes, and what a user is to `do`."""

    means: str
    do: str


@dataclass(frozen=True, kw_only=True)
class Cured:
    """A cure that helps, and the clean accuracy with it."""

    cure: Cure
    accuracy: float


def best_cure(subject: Subject) -> Cured | None:
    """The cure that makes most of the clean accuracy, where that is no luck; None without any."""
    every = len(subject.indices)
    tried = [*_of_classes(subject)]
    pixels = list(_of_pixels(subject))
    count = len(tried) + len(pixels)
    found = [_set_against(cure, before, after, count) for cure, before, after in tried]
    first = FIRST_LARGE if math.prod(subject.data.shape) > LARGE else FIRST
    some, more = _spread(every, first), _spread(every, MOST)
    base = _right(subject, subject.system, some)
    promising = []
    for cure, system in pixels:
        gained = int(_right(subject, system, some).sum()) - int(base.sum())
        if gained >= min(PROMISING, math.ceil(GAIN * len(some))):
            promising.append((gained, cure, system))
    promising.sort(key=lambda one: -one[0])
    if promising:
        base = _right(subject, subject.system, more)
        found += [_set_against(cure, base, _right(subject, system, more), count) for _, cure, system in promising[:2]]
    helping = [one for one in found if one is not None]
    return max(helping, key=lambda one: one.accuracy, default=None)


def _set_against(cure: Cure, before: np.ndarray, after: np.ndarray, tried: int) -> Cured | None:
    """The cure, if it gains enough: an exact test over the images that only one of the two gets right."""
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    gain = (better - worse) / max(len(before), 1)
    if gain < GAIN or tried * float(stats.binom.sf(better - 1, better + worse, 0.5)) > LUCK:
        return None
    return Cured(cure=cure, accuracy=float(after.mean()))


def _spread(count: int, wanted: int) -> Tensor:
    """So many positions, evenly over all: the images of a folder come class by class."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long()


def _right(subject: Subject, system: System, positions: Tensor) -> np.ndarray:
    """Which of the images the system answers rightly, (n,) bool."""
    size = min(subject.shapes.floor, len(positions))
    x, y, draws = subject.load(positions)
    said = look(system, x, y, draws, Shapes(batch=size, floor=size), Sitting(count=1))
    return (~said.nan & (said.prediction == y.cpu())).numpy()


# -- pixels ----------------------------------------------------------------------------------------------------------


class _Behind(nn.Module):
    """A network that is shown other pixels."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(self.change(x))
        return scores


def _of_pixels(subject: Subject) -> Iterator[tuple[Cure, System]]:
    """Systems that are shown other pixels; one that refuses them is left out."""
    system = subject.system
    if isinstance(system.model, Observed):
        return
    for cure, model in _models(subject, system.model):
        candidate = replace(system, model=model)
        try:
            _right(subject, candidate, torch.zeros(1, dtype=torch.int64))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except (Exception, SystemExit):  # whatever the user's network says to such pixels
            continue
        yield cure, candidate


def _models(subject: Subject, model: nn.Module) -> Iterator[tuple[Cure, nn.Module]]:
    colours = subject.data.shape[0]
    for name, (mean, std) in _constants(subject).items():
        if colours == 1 and len(mean) == 3:
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        short = f"normalize={name} or " if name in USUAL else ""
        yield (
            Cure(
                means=f"if images are normalised by mean {_numbers(mean)}, std {_numbers(std)}",
                do=f"add {short}mean=({_numbers(mean)}) and std=({_numbers(std)}) to the model",
            ),
            _normalised(model, mean, std),
        )
    if isinstance(model, Normalized):
        yield (
            Cure(means="if images are not normalised", do="add mean=(0) and std=(1) to the model"),
            _normalised(model, (0.0,), (1.0,)),
        )
    yield (
        Cure(means="if pixels are from 0 to 255", do="add mean=(0) and std=(1/255) to the model"),
        _normalised(model, (0.0,), (1 / 255,)),
    )
    if colours == 3:
        yield (
            Cure(
                means="if the colours come as blue, green, red",
                do="turn the channels round in the model: x[:, [2, 1, 0]]",
            ),
            _Behind(model, lambda x: x.flip(1)),
        )


def _normalised(model: nn.Module, mean: Constants, std: Constants) -> nn.Module:
    """The network behind these constants, instead of its own where it has some."""
    if isinstance(model, Normalized):
        made: nn.Module = Normalized(model.network, mean, std, size=model.size, repeat=model.repeat)
    else:
        made = Normalized(model, mean, std)
    return made.to(next((value.device for value in model.parameters()), torch.device("cpu"))).eval()


def _constants(subject: Subject) -> dict[str, tuple[Constants, Constants]]:
    """Means and standard deviations that networks are trained with; the images' own come first."""
    x = subject.data.batch(subject.indices[_spread(len(subject.indices), MOST).numpy()])
    std, mean = torch.std_mean(x, (0, 2, 3))
    own = tuple(mean.tolist()), tuple(std.clamp(min=1e-3).tolist())
    return {"own": own, **USUAL}


def _numbers(values: Constants) -> str:
    return ",".join(f"{value:.3g}" for value in values)


# -- classes ---------------------------------------------------------------------------------------------------------


def _of_classes(subject: Subject) -> Iterator[tuple[Cure, np.ndarray, np.ndarray]]:
    """Other numbers of the classes: the cure, and which images were and would be right; of the answers that are there."""
    scores, labels = subject.clean.scores, subject.labels.numpy()
    answers = subject.clean.prediction.numpy()
    classes, known = scores.shape[1], min(subject.data.num_classes, scores.shape[1])
    right = answers == labels
    for shift in range(1, classes):
        by = shift if shift <= classes // 2 else shift - classes
        way = f"label + {-by}" if by < 0 else f"label - {by}"
        yield (
            Cure(
                means=f"if its classes are shifted by {by:+d}",
                do=f"it answers {way}; number the labels as it was trained",
            ),
            right,
            (answers + shift) % classes == labels,
        )
    yield from _ordered(subject, answers, labels)
    yield from _fitted(answers, labels, classes)
    for offset in range(0 if known == classes else classes - known + 1):
        chosen = scores[:, offset : offset + known].argmax(1).numpy()
        yield (
            Cure(
                means=f"if outputs {offset} to {offset + known - 1} of its {classes} are the classes",
                do="keep those alone in the model",
            ),
            right,
            chosen == labels,
        )


def _ordered(
    subject: Subject, answers: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[Cure, np.ndarray, np.ndarray]]:
    """Classes sorted as text: 10 comes before 2, and names come in the order of the alphabet."""
    classes, names = subject.system.num_classes, subject.data.class_names
    orders = {"as text (0, 1, 10, 11, …, 2, …)": sorted(range(classes), key=str)}
    if names is not None and len(names) == classes:
        orders["by name"] = sorted(range(classes), key=lambda place: names[place])
    for how, order in orders.items():
        table = np.array(order)
        for meant in (table, table.argsort()):
            if order != list(range(classes)):
                yield (
                    Cure(means=f"if its classes are sorted {how}", do="number the labels as it was trained"),
                    answers == labels,
                    meant[answers] == labels,
                )


def _fitted(answers: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[tuple[Cure, np.ndarray, np.ndarray]]:
    """Any other order, found on every other image and tried on the rest."""
    learn, test = slice(0, None, 2), slice(1, None, 2)
    if len(labels) < 4:
        return
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (answers[learn], labels[learn]), 1)
    given, meant = optimize.linear_sum_assignment(table, maximize=True)
    order = np.zeros(classes, dtype=np.int64)
    order[given] = meant
    swapped = ", ".join(f"{a} is {b}" for a, b in zip(given[:4], meant[:4], strict=True) if a != b)
    yield (
        Cure(means=f"if its classes are in another order ({swapped}, …)", do="number the labels as it was trained"),
        answers[test] == labels[test],
        order[answers[test]] == labels[test],
    )
