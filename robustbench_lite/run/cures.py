"""What may be wrong where a clean accuracy is low, tried on a few clean images: other pixels, or other numbers of the classes."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize, special
from torch import Tensor, nn

from robustbench_lite.errors import ModelError
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.verdict import Sitting, look
from robustbench_lite.system import Observed, System
from robustbench_lite.zoo.adapt import Constants, Normalized

#: images that a cure of pixels is tried on at first, and those that are promising; fewer of large images
FIRST, MOST, FIRST_LARGE, LARGE = 50, 200, 16, 3 * 64 * 64
#: how many images more must be right at first, and by how many cures at most
PROMISING, CANDIDATES = 3, 4
#: how many points are gained in the end, with what chance of luck, of all cures together, and what is about as many
GAIN, LUCK, ALIKE = 0.05, 0.01, 0.03
#: the largest share of the wrong answers that may stay wrong: a network that is hardly trained gains by many a change
REST = 0.6
#: the constants that most checkpoints were trained with
USUAL = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
#: those of a usual set of grey images
_GREY = {"mnist": ((0.1307,), (0.3081,))}
#: the options of a model that say how its images are normalised
_NORMALISED = re.compile(r"(?<=[;:,])(?:normalize|mean|std)=(?:\([^)]*\)|[^;,]*)")


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What is tried: what it `means` for the images or classes, what a user is to `do`, and how far-fetched it is."""

    means: str
    do: str
    effort: int = 0


@dataclass(frozen=True, kw_only=True)
class Cured:
    """A cure that helps, the clean accuracy with it, and the loss of what is said then; see `_Said`."""

    cure: Cure
    accuracy: float
    loss: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Said:
    """Which images are answered rightly, (n,) bool, and the mean cross-entropy of the answers.

    It is that of scores of one spread: pixels of more contrast make scores larger, and no network better.
    """

    right: np.ndarray
    loss: float = 0.0


def best_cure(subject: Subject) -> Cured | None:
    """The cure that makes most of the clean accuracy, where that is no luck; None without any.

    Of cures that make about as much of it the least far-fetched is chosen, and of those the one with the smallest loss.
    """
    classes, pixels = list(_of_classes(subject)), list(_of_pixels(subject))
    count = len(classes) + len(pixels)
    found = [_set_against(cure, before, after, count) for cure, before, after in classes]
    some, more = (_spread(len(subject.indices), wanted) for wanted in (_first(subject), MOST))
    promising = _promising(subject, pixels, some)
    if promising:
        before = _asked(subject, subject.system, more)
        found += [_set_against(cure, before, _asked(subject, system, more), count) for cure, system in promising]
    much = _much(len(subject.labels.unique()))
    helping = [one for one in found if one is not None and one.accuracy >= much]
    if not helping:
        return None
    most = max(one.accuracy for one in helping)
    alike = [one for one in helping if one.accuracy >= most - ALIKE]
    return min(alike, key=lambda one: (one.cure.effort, one.loss))


def _first(subject: Subject) -> int:
    return FIRST_LARGE if math.prod(subject.data.shape) > LARGE else FIRST


def _promising(subject: Subject, pixels: Sequence[tuple[Cure, System]], some: Tensor) -> list[tuple[Cure, System]]:
    """The cures that gain on a few images, the best first."""
    if not pixels:
        return []
    before = int(_asked(subject, subject.system, some).right.sum())
    gains = [int(_asked(subject, system, some).right.sum()) - before for _, system in pixels]
    enough = min(PROMISING, math.ceil(GAIN * len(some)))
    order = sorted(range(len(pixels)), key=lambda place: -gains[place])
    return [pixels[place] for place in order if gains[place] >= enough][:CANDIDATES]


def _set_against(cure: Cure, before: _Said, after: _Said, tried: int) -> Cured | None:
    """The cure, if it gains enough: an exact test over the images that only one of the two gets right."""
    better, worse = int((after.right & ~before.right).sum()), int((before.right & ~after.right).sum())
    gain = (better - worse) / max(len(before.right), 1)
    if (~after.right).sum() > REST * (~before.right).sum():
        return None
    if gain < GAIN or tried * float(special.bdtrc(better - 1, better + worse, 0.5)) > LUCK:
        return None
    return Cured(cure=cure, accuracy=float(after.right.mean()), loss=after.loss)


def _much(classes: int) -> float:
    """The clean accuracy with a cure from which it may be what is wrong: an untrained network gains by some as well."""
    chance = 1 / max(classes, 2)
    return min((1 + chance) / 2, 4 * chance)


def _spread(count: int, wanted: int) -> Tensor:
    """So many positions, evenly over all: the images of a folder come class by class."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long()


def _asked(subject: Subject, system: System, positions: Tensor) -> _Said:
    """What the system says of the images."""
    size = min(subject.shapes.floor, len(positions))
    x, y, draws = subject.load(positions)
    said, y = look(system, x, y, draws, Shapes(batch=size, floor=size), Sitting(count=1)), y.cpu()
    alike = 2 * said.scores / said.scores.std(1, keepdim=True).clamp(min=1e-12)
    loss = float(F.cross_entropy(alike, y).nan_to_num(torch.inf))
    return _Said(right=(~said.nan & (said.prediction == y)).numpy(), loss=loss)


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
            _asked(subject, candidate, torch.zeros(1, dtype=torch.int64))
        except ModelError:  # whatever the user's network says to such pixels
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
                do=_options(subject.model, f"{short}mean=({_numbers(mean)});std=({_numbers(std)})"),
            ),
            _normalised(model, mean, std),
        )
    if isinstance(model, Normalized):
        yield (
            Cure(means="if images are not normalised", do=_options(subject.model, "mean=(0);std=(1)")),
            _normalised(model, (0.0,), (1.0,)),
        )
    yield (
        Cure(means="if pixels are from 0 to 255", do=_options(subject.model, "mean=(0);std=(1/255)")),
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


def _options(model: str, options: str) -> str:
    """How the options are given to a model of this name: beside its own, or in the place of those that say the same."""
    given = ";".join(_NORMALISED.findall(model))
    return f"write {options} instead of {given}" if given else f"add ;{options} to the model"


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
    return {"own": own, **USUAL, **(_GREY if len(own[0]) == 1 else {})}


def _numbers(values: Constants) -> str:
    return ",".join(f"{value:.3g}" for value in values)


# -- classes ---------------------------------------------------------------------------------------------------------

_Tried = tuple[Cure, _Said, _Said]


def _of_classes(subject: Subject) -> Iterator[_Tried]:
    """Other numbers of the classes: the cure, and what was and would be said; from the answers that are there."""
    labels, answers = subject.labels.numpy(), subject.clean.prediction.numpy()
    yield from _shifted(answers, labels, subject.system.num_classes)
    yield from _ordered(subject, answers, labels)
    yield from _part_of_a_head(subject, answers, labels)
    yield from _fitted(answers, labels, subject.system.num_classes)


def _renumbered(means: str, effort: int, before: np.ndarray, after: np.ndarray) -> _Tried:
    cure = Cure(means=means, do="number the labels as the model was trained", effort=effort)
    return cure, _Said(right=before), _Said(right=after)


def _shifted(answers: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[_Tried]:
    for shift in range(1, classes):
        by = shift if shift <= classes // 2 else shift - classes
        means = f"if its answers are shifted by {by:+d} (it says {-shift % classes} where the label is 0)"
        yield _renumbered(means, 1, answers == labels, (answers + shift) % classes == labels)


def _ordered(subject: Subject, answers: np.ndarray, labels: np.ndarray) -> Iterator[_Tried]:
    """Classes sorted as text: 10 comes before 2, and names come in the order of the alphabet."""
    classes, names = subject.system.num_classes, subject.data.class_names
    orders = {"as text (0, 1, 10, 11, …, 2, …)": sorted(range(classes), key=str)}
    if names is not None and len(names) == classes:
        orders["by name"] = sorted(range(classes), key=lambda place: names[place])
    for how, order in orders.items():
        table = np.array(order)
        for meant in (table, table.argsort()):
            if order != list(range(classes)):
                yield _renumbered(f"if its classes are sorted {how}", 2, answers == labels, meant[answers] == labels)


def _part_of_a_head(subject: Subject, answers: np.ndarray, labels: np.ndarray) -> Iterator[_Tried]:
    """Some outputs in a row, where there are more of them than classes."""
    scores, known = subject.clean.scores, subject.data.num_classes
    count = scores.shape[1]
    for offset in range(count - known + 1 if known < count else 0):
        right = scores[:, offset : offset + known].argmax(1).numpy() == labels
        means = f"if outputs {offset} to {offset + known - 1} of its {count} are the classes"
        cure = Cure(means=means, do="keep those alone in the model", effort=3)
        yield cure, _Said(right=answers == labels), _Said(right=right)


def _fitted(answers: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[_Tried]:
    """Any other order, found on every other image of each class and tried on the rest."""
    by_class = labels.argsort(kind="stable")
    learn, test = by_class[::2], by_class[1::2]
    if not len(test):
        return
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (answers[learn], labels[learn]), 1)
    given, meant = optimize.linear_sum_assignment(table, maximize=True)
    order = np.zeros(classes, dtype=np.int64)
    order[given] = meant
    swapped = [f"{a} is {b}" for a, b in zip(given, meant, strict=True) if a != b and table[a, b]]
    means = f"if its classes are in another order ({', '.join(swapped[:4])}{', …' * (len(swapped) > 4)})"
    yield _renumbered(means, 4, answers[test] == labels[test], order[answers[test]] == labels[test])
