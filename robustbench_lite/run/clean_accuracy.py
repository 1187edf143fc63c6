"""Can this clean accuracy be meant? Asked right after the clean pass, before any attack.

A model that was trained on normalised pixels, or whose classes are numbered otherwise, answers anything without a word, and
every robust accuracy below is about a network that nobody has. So a clean accuracy at chance is told, and one far below what
the model's card tells; and where it is not high, a few usual cures are tried on a few clean images (see `cures`).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from robustbench_lite import specs
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.cures import Cured, best_cure
from robustbench_lite.run.matches import as_many_by_chance
from robustbench_lite.run.subject import Subject

NAME = "clean-accuracy"
#: from here on nothing is tried
HIGH = 0.95
#: a card is contradicted by so many points beyond an interval of this confidence
POINTS, CONFIDENCE = 0.05, 0.999
#: how likely it may be that an honest model looks as bad, or a blind one as good
LUCK = 0.05


def clean_accuracy(subject: Subject) -> Diagnostic:
    """Whether the clean accuracy is at chance, far below what was told, or far below what a cure would make of it."""
    subject = subject if subject.bare is None else subject.bare
    labels = subject.labels.numpy()
    right = ~subject.clean.nan.numpy() & (subject.clean.prediction.numpy() == labels)
    notes, n = subject.system.notes, len(labels)
    if notes.get("random"):
        return diagnostics.unchecked(NAME, "the model was asked for with random weights")
    blind = _blind(subject.clean.prediction.numpy(), labels, right, subject.system.num_classes)
    short = _short(right, subject.data.name, notes.get("told"))
    known = short == "" and bool(notes.get("told")) and _same_data(subject.data.name, notes["told"])
    cure = None if right.mean() >= HIGH or known else best_cure(subject)
    reasons = [reason for reason in (blind, short, "" if cure is None else _words(cure)) if reason]
    if not reasons and blind is None and right.mean() < HIGH:
        return diagnostics.unchecked(NAME, f"{n} images are too few to tell it from chance")
    text = f"clean accuracy {_percent(right.mean())}" + "".join(f"; {reason}" for reason in reasons)
    return diagnostics.judged(NAME, float(bool(reasons)), n, text if reasons else "")


def warning(subject: Subject, found: Diagnostic) -> str:
    """What a user should know before any attack runs; nothing where all is well."""
    return f"{subject.name}: {found.detail}" if found.status == "fired" else ""


def _blind(answers: np.ndarray, labels: np.ndarray, right: np.ndarray, classes: int) -> str | None:
    """Why the answers say nothing about the labels; nothing where they do, None where it cannot be known.

    Whether they agree with the labels more often than the same answers in any order would; so one answer to all images is
    blind however many of them it suits, and a good model is not on a slice that is nearly all of one class. There, and on
    few images, a good model may look blind: it is accused only where one that gets half of the way to perfect would have
    shown it.
    """
    present, counts = np.unique(labels, return_counts=True)
    chance = 1 / (classes if len(present) == 1 else len(present))
    if len(present) == 1:
        luck, others = float(special.bdtrc(right.sum() - 1, len(labels), chance)), np.ones(len(labels), dtype=bool)
    else:
        luck = as_many_by_chance(answers, labels, int(right.sum()))
        favourite = np.bincount(answers).argmax()
        others = labels != favourite
    if luck <= LUCK:
        return ""
    if special.bdtr(right[others].sum(), others.sum(), (1 + chance) / 2) > LUCK:
        return None
    if len(np.unique(answers)) == 1:
        return f"it always answers class {answers[0]}"
    most = counts.max() / len(labels)
    return f"no better than chance ({_percent(chance)}), or than always answering one class ({_percent(most)})"


def _short(right: np.ndarray, dataset: str, told: Mapping[str, Any] | None) -> str:
    """By how much it is below what was told of the same data; nothing where it is not."""
    if not told or not _same_data(dataset, told):
        return ""
    _, high = clopper_pearson(int(right.sum()), len(right), 1 - CONFIDENCE)
    promised = float(told["clean_acc"])
    if promised <= high or promised - right.mean() < POINTS:
        return ""
    return f"{told.get('source', 'its card')} tells {_percent(promised)}"


def _same_data(dataset: str, told: Mapping[str, Any]) -> bool:
    """Whether what was told is about the same dataset; `cifar10` and `CIFAR-10` are."""

    def plain(name: str) -> str:
        return "".join(letter for letter in specs.head(name).lower() if letter.isalnum())

    return plain(dataset) == plain(str(told.get("dataset", ""))) and not math.isnan(float(told.get("clean_acc", "nan")))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _words(cure: Cured) -> str:
    return f"{_percent(cure.accuracy)} {cure.cure.means}: {cure.cure.do}"
