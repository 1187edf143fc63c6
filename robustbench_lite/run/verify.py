"""`verify`: our verdict on adversarial examples that somebody else has made.

It is the verdict of an evaluation, on the same system and the same images: nothing here decides what is broken. Where most
examples do not count, nothing was verified: there is no robust accuracy, and the likely mistake is told.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite import __version__
from robustbench_lite import data as datasets
from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.rows import concat
from robustbench_lite.run.dataset import tell
from robustbench_lite.run.mistakes import UNCHANGED, Likely, likely_mistake, unchanged
from robustbench_lite.run.one import data_of, one_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.subject import Subject, prepare
from robustbench_lite.run.submission import Submission, read
from robustbench_lite.run.systems import GivenModel, name_of
from robustbench_lite.run.tries import sitting_of
from robustbench_lite.run.verdict import CLEAN_WRONG, NAN_SCORES, REASONS, Verdict, judge
from robustbench_lite.specs import system_name
from robustbench_lite.threat import Threat

#: what becomes of an example; one each
BROKEN, NOT_BROKEN = "broken", "not-broken"
FATES = (BROKEN, NOT_BROKEN, "outside-threat", "outside-box", "not-finite", "clean-wrong")
FORMAT = 1
#: where more than this share of the examples that could break an image is invalid, nothing was verified
INVALID = 0.5
#: where more than this share is invalid, the likely mistake is looked for
_ODD = 0.05
#: the columns of the norms, in the verdict's order
_NORMS = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """What the verdict says of a file.

    Args:
        samples: a row an image, in the file's order: index, label, clean_prediction, prediction, valid, broken (also of
            those that are wrong without an attack), broken_8bit, break_rate, fate (one of `FATES`), reason, linf, l2, l1,
            l0, distance (in the threat's norm) and beyond (how far outside the ball, or outside [0, 1]).
        facts: what it depends on: file, system, data, threat, seed and versions, with digests.
        likely: the mistake that explains why examples do not count, or None.
    """

    samples: pd.DataFrame
    facts: dict[str, Any]
    likely: Likely | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many examples met each fate; an example that does not count leaves its image unbroken."""
        found = self.samples["fate"].value_counts()
        return {fate: int(found.get(fate, 0)) for fate in FATES}

    @property
    def left(self) -> np.ndarray:
        """Which images are right without an attack and not broken by the file, (n,) bool."""
        return ~self.samples["broken"].to_numpy(dtype=bool)

    @property
    def could(self) -> int:
        """How many images are right without an attack, so that an example could break them."""
        return int((self.samples["fate"] != "clean-wrong").sum())

    @property
    def judged(self) -> int:
        """How many examples of these images are valid, and were judged."""
        return int(self.samples["fate"].isin((BROKEN, NOT_BROKEN)).sum())

    @property
    def verified(self) -> bool:
        """Whether enough was judged for a robust accuracy, and of something else than clean images."""
        unattacked = self.likely is not None and self.likely.mistake == UNCHANGED
        return self.judged > 0 and self.could - self.judged <= INVALID * self.could and not unattacked

    @property
    def robust(self) -> float | None:
        """Robust accuracy over the images of the file, under the file alone; None where nothing was verified."""
        return float(self.left.mean()) if self.verified else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its exact 95 % interval (test images only)."""
        return clopper_pearson(int(self.left.sum()), len(self.left)) if self.verified else None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The robust accuracy if all invalid examples broke their images, and if none did; None where none was judged."""
        sure = (self.samples["fate"] == NOT_BROKEN).to_numpy()
        return (float(sure.mean()), float(self.left.mean())) if self.judged else None

    def told(self) -> dict[str, Any]:
        """Everything, as JSON takes it: what is not a finite number is null."""
        low, high = self.interval or (None, None)
        rows = [{key: _plain(value) for key, value in row.items()} for row in self.samples.to_dict("records")]
        return {
            "format": FORMAT,
            **self.facts,
            "n": len(rows),
            "counts": self.counts,
            "robust_accuracy": self.robust,
            "robust_accuracy_low": low,
            "robust_accuracy_high": high,
            "could_count": self.could,
            "judged": self.judged,
            "bounds": None if self.bounds is None else list(self.bounds),
            "likely": None if self.likely is None else self.likely.facts(),
            "samples": rows,
        }

    def write(self, path: Path) -> Path:
        """The JSON file.

        Raises:
            UserError: it cannot be written.
        """
        with writing(path.parent):
            atomic_write(path, (json.dumps(self.told(), indent=2, allow_nan=False) + "\n").encode())
        return path


def verify(
    file: str | Path,
    model: GivenModel = "small-cnn",
    x: Tensor | np.ndarray | None = None,
    y: Tensor | np.ndarray | None = None,
    *,
    defense: str = "none",
    dataset: str = "digits",
    threat: str = "Linf:0.2",
    samples: str | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Verified:
    """Judge the examples of a file.

    The file (.npz, .npy, .pt) holds `x_adv` (n, c, h, w) or (n, h, w, c), float in [0, 1] or uint8, and may hold `indices`
    (n,), the images' positions in the test split, and `y` (n,), their labels. Without positions they are the first n images.
    The names, pairs and lists that AutoAttack and torchattacks save are read too (see `submission`).

    Args:
        model, x, y, defense, dataset: as for `evaluate`. threat: a norm, with eps or without.
        samples: which test images, where the file does not say; as for `evaluate`.
        options: fields of `Plan`: seed (of random systems), slice_seed, verdict_draws, device, batch_size, data_root,
            download, allow_pickle.

    Raises:
        UserError: a file that cannot be judged, or a name or value that is not accepted.
    """
    reporter, path = reporter or Silent(), Path(file).expanduser()
    limits = _threat(threat)
    name = name_of(model)
    given = {"samples": samples, "threats": (threat,), **options}
    plan = Plan(dataset=dataset, models=(name,), defenses=(defense,)).with_options(given)
    if x is not None and y is None:
        raise UserError("verify got x without y; give the labels too")
    data = data_of(plan) if x is None or y is None else from_tensors(x, y)
    tell(data, reporter)
    submission = read(path, data.shape)
    indices = _indices(submission, data, plan, path)
    own = None if isinstance(model, str) else model
    with one_system(plan, data, own, reporter.training, reporter.note) as system:
        subject = prepare(
            model=name,
            defense=defense,
            system=system,
            data=data,
            indices=indices,
            seed=plan.seed,
            device=system.device,
            adaptive=False,
            batch=plan.batch_size,
            quick=False,
            sitting=sitting_of(plan),
        )
        reporter.begin(f"{system_name(name, defense)}: verdict", len(indices))
        verdict = concat(list(_judged(subject, submission, limits, reporter))).to("cpu")
        facts = _facts(subject, submission, path, threat)
    found = _samples(subject, submission, limits, verdict)
    return Verified(samples=found, facts=facts, likely=_likely(found, submission, data, limits, plan))


def _likely(samples: pd.DataFrame, submission: Submission, data: Dataset, threat: Threat, plan: Plan) -> Likely | None:
    """The mistake that explains the invalid examples, looked for where there are many, or where no example differs."""
    counts = (samples["fate"] != "clean-wrong").to_numpy()
    invalid = np.flatnonzero(counts & ~samples["fate"].isin((BROKEN, NOT_BROKEN)).to_numpy())
    distance = samples["distance"].to_numpy(dtype=np.float64)
    if bool((distance == 0).all()):
        return unchanged(len(samples))
    if len(invalid) <= _ODD * counts.sum():
        return None
    indices = samples["index"].to_numpy(dtype=np.int64)
    return likely_mistake(submission.images, indices, invalid, distance, data, threat, slice_seed=plan.slice_seed)


def _threat(text: str) -> Threat:
    threat = Threat.parse(text)
    if threat.rendered:
        raise UserError(
            f"threat {text}: its images are rendered from parameters, which a file of images has not; give a norm"
        )
    if threat.goal == "targeted":
        raise UserError(f"threat {text}: any wrong answer breaks a submitted example; leave out goal=targeted")
    return threat


def _indices(submission: Submission, data: Dataset, plan: Plan, path: Path) -> np.ndarray:
    """Which test images the examples were made of."""
    count, total = len(submission.images), len(data)
    if submission.indices is not None and plan.samples is not None:
        raise UserError(f"{str(path)!r} says which images it was made of; leave out samples={plan.samples}")
    if submission.indices is not None:
        indices = submission.indices
    elif plan.samples is not None:
        indices = datasets.choose(data, plan.samples, plan.slice_seed)
    else:
        indices = np.arange(count)
    if count > total or len(indices) != count:
        there = total if plan.samples is None else len(indices)
        raise UserError(
            f"{str(path)!r} holds {count} examples, and there are {there} {data.split} images of {data.name}"
        )
    wrong = indices[(indices < 0) | (indices >= total)]
    if len(wrong):
        raise UserError(f"{str(path)!r}: index {wrong[0]}; accepted: 0 to {total - 1}, the test images of {data.name}")
    values, times = np.unique(indices, return_counts=True)
    if len(values) < count:
        raise UserError(f"{str(path)!r}: index {values[times > 1][0]} stands twice; accepted: one example an image")
    _check_labels(submission, data, indices, path)
    return indices


def _check_labels(submission: Submission, data: Dataset, indices: np.ndarray, path: Path) -> None:
    if submission.labels is None:
        return
    labels = data.labels_at(indices).numpy()
    odd = np.flatnonzero(submission.labels != labels)
    if len(odd):
        first = odd[0]
        raise UserError(
            f"{str(path)!r} says {submission.labels[first]} of image {indices[first]}, which {data.name} labels"
            f" {labels[first]}; {_label_mistake(submission.labels, labels)}"
        )


def _label_mistake(given: np.ndarray, labels: np.ndarray) -> str:
    """What explains labels that are not the images'."""
    if bool((given[::-1] == labels).all()):
        return "its labels are in reverse order, so are the examples probably"
    if bool((given == labels + 1).all()):
        return "its labels count from 1; the first class is 0"
    if len(given) > 2 and (bool((given[:-1] == labels[1:]).all()) or bool((given[1:] == labels[:-1]).all())):
        return "its labels are shifted by one image: the first one is missing, or one stands before them"
    if bool((np.sort(given) == given).all()) and bool((np.sort(labels) == np.sort(given)).all()):
        return "its labels are sorted by class; keep the order of the images, or give their indices"
    return "is it in another order? give the images' indices"


def _judged(subject: Subject, submission: Submission, threat: Threat, reporter: Reporter) -> Iterator[Verdict]:
    """The verdict on every example, in the file's order; that of a random system with the draws of the last word."""
    size = subject.shapes.most
    for begin in range(0, len(subject.indices), size):
        positions = torch.arange(begin, min(begin + size, len(subject.indices)))
        x, y, draws = subject.load(positions)
        adv = submission.images[positions].to(subject.device)
        verdict = judge(subject.system, x, Goal(y=y), threat, adv, draws, subject.shapes, subject.sitting.last)
        reporter.advance(len(positions), int(verdict.broken.sum()))
        yield verdict


def _samples(subject: Subject, submission: Submission, threat: Threat, verdict: Verdict) -> pd.DataFrame:
    wrong = subject.clean.wrong
    reason = torch.where(wrong, CLEAN_WRONG, verdict.reason)
    ordinary = (reason == 0) | (reason == NAN_SCORES)
    names = [REASONS[int(code)] for code in reason]
    broken = [BROKEN if hit else NOT_BROKEN for hit in verdict.broken.tolist()]
    fates = [own if plain else name for own, plain, name in zip(broken, ordinary.tolist(), names, strict=True)]
    clean = subject.data.batch(subject.indices)
    distance = threat.distance(submission.images, clean)
    return pd.DataFrame(
        {
            "index": subject.indices,
            "label": subject.labels.numpy(),
            "clean_prediction": subject.clean.prediction.numpy(),
            "prediction": torch.where(verdict.valid, verdict.prediction, -1).numpy(),
            "valid": verdict.valid.numpy(),
            "broken": (verdict.broken | wrong).numpy(),
            "broken_8bit": (verdict.broken_8bit | wrong).numpy(),
            "break_rate": verdict.break_rate.numpy(),
            "fate": fates,
            "reason": names,
            **dict(zip(_NORMS, verdict.norms.T.numpy(), strict=True)),
            "distance": distance.numpy(),
            "beyond": _beyond(submission.images, distance, threat, verdict).numpy(),
        }
    )


def _beyond(images: Tensor, distance: Tensor, threat: Threat, verdict: Verdict) -> Tensor:
    """How far an example is outside [0, 1], or outside the ball; 0 inside, NaN where it is not finite. (n,) float64."""
    flat = images.double().flatten(1)
    box = torch.maximum(flat.amax(1) - 1, -flat.amin(1))
    ball = distance if threat.eps is None else distance - threat.eps
    outside = [REASONS.index(name) for name in ("outside-box", "outside-threat", "not-finite")]
    found = torch.zeros_like(distance)
    for code, value in zip(outside, (box, ball, torch.full_like(found, torch.nan)), strict=True):
        found = torch.where(verdict.reason == code, value, found)
    return found


def _facts(subject: Subject, submission: Submission, path: Path, threat: str) -> dict[str, Any]:
    return {
        "file": {"name": path.name, "digest": submission.digest},
        "system": {"model": subject.model, "defense": subject.defense, "digest": subject.system.digest},
        "data": {"name": subject.data.name, "digest": subject.data.digest()},
        "threat": threat,
        "seed": subject.seed,
        "draws": subject.sitting.count if subject.system.randomised else 1,
        "device": subject.device.type,
        "versions": {"robustbench-lite": __version__, "torch": str(torch.__version__)},
    }


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
