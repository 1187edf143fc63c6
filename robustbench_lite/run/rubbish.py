"""`rubbish`: how easily noise is taken for something. There is no clean image, so it is no attack with a threat and a verdict.

Noise is drawn; (a) how often is the system sure of any class of it; (b) how often does one gradient step towards a class make
it sure of that class; (c) how often do several. Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, sec. 8 and appendix A
(rubbish class examples); Nguyen, Yosinski and Clune 2015, arXiv 1412.1897 (fooling images).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.cache import atomic_write, writable, writing
from robustbench_lite.errors import UserError, nearest
from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.rows import along
from robustbench_lite.run.dataset import tell
from robustbench_lite.run.one import data_of, one_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.systems import GivenModel, name_of
from robustbench_lite.specs import system_name
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

#: noise, and whether it is an image (inside [0, 1], where the steps then stay too)
STARTS: Mapping[str, tuple[Callable[[Draws, tuple[int, ...]], Tensor], bool]] = {
    "uniform": (lambda draws, shape: draws.uniform(shape, "rubbish"), True),
    "gaussian": (lambda draws, shape: draws.normal(shape, "rubbish").clamp(0, 1), True),
    "gaussian-unclipped": (lambda draws, shape: draws.normal(shape, "rubbish"), False),
}
DIRECTIONS = ("sign", "unit", "raw")
COLUMNS = ("start", "in_box", "measure", "target", "step", "n", "hits", "rate", "low", "high", "confidence")
_BLOCK = 256
_DUST = 1e-12
Shown = tuple[np.ndarray, float, int]


@dataclass(frozen=True, kw_only=True)
class Rubbish:
    """What came of the noise.

    Args:
        table: COLUMNS. `measure` is `noise` (sure of any class; its own row), or `fooled` (sure of the target by that
            step, of the draws of that target; target `any` is all of them). `confidence` is the mean of the largest
            probability over all draws for `noise`, and of the target's probability over those that are fooled else.
        images: (start, class) -> (image, probability, step) of a draw that fooled it, after a step where one did, or None.
        forwards, backwards: what it all cost.
    """

    table: pd.DataFrame
    images: dict[tuple[str, int], Shown | None]
    num_classes: int
    class_names: tuple[str, ...] | None
    model: str
    defense: str
    forwards: int
    backwards: int

    @property
    def summary(self) -> pd.DataFrame:
        """A row a start: the three rates, the hardest and the easiest class of the one step."""
        rows = []
        for start, own in self.table.groupby("start", sort=False):
            noise = own[own["measure"] == "noise"].iloc[0]
            fooled = own[own["measure"] == "fooled"]
            every, single = (
                fooled[fooled["target"] == "any"],
                fooled[(fooled["target"] != "any") & (fooled["step"] == 1)],
            )
            last = every[every["step"] == every["step"].max()].iloc[0]
            first = every[every["step"] == 1].iloc[0]
            hard, easy = (single.loc[getattr(single["rate"], pick)()] for pick in ("idxmin", "idxmax"))
            rows.append(
                {
                    "start": start,
                    "n": int(noise["n"]),
                    "sure_of_noise": float(noise["rate"]),
                    "mean_confidence": float(noise["confidence"]),
                    "fooled_by_one_step": float(first["rate"]),
                    "confidence_then": float(first["confidence"]),
                    "hardest_class": f"{hard['target']} ({100 * hard['rate']:.1f} %)",
                    "easiest_class": f"{easy['target']} ({100 * easy['rate']:.1f} %)",
                    f"fooled_by_{last['step']}_steps": float(last["rate"]),
                    "confidence_at_last": float(last["confidence"]),
                }
            )
        return pd.DataFrame(rows)

    def write(self, folder: Path) -> Path:
        """rubbish.csv and rubbish.png in the folder (no picture of images that are neither grey nor in colour).

        Raises:
            UserError: it cannot be written to.
        """
        from robustbench_lite.results.overlays import plot_rubbish

        channels = {shown[0].shape[0] for shown in self.images.values() if shown is not None}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "rubbish.csv", self.table.to_csv(index=False).encode())
            if channels <= {1, 3}:
                atomic_write(folder / "rubbish.png", partial(plot_rubbish, self))
        return folder


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How noise is drawn and pushed.

    Args:
        starts: of STARTS. count: draws of each.
        steps: how many, each `step_size` long; one that is sure of its target stops.
        direction: `sign` of the gradient, `unit` (divided by its length) or `raw`, times p itself: x + step_size grad p.
        threshold: how sure is sure.

    Raises:
        UserError: a value that is not accepted.
    """

    starts: tuple[str, ...] = tuple(STARTS)
    count: int = 1000
    steps: int = 10
    step_size: float = 0.1
    direction: str = "sign"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, given, accepted in (
            *(("start", start, tuple(STARTS)) for start in self.starts),
            ("direction", self.direction, DIRECTIONS),
        ):
            if given not in accepted:
                guess = nearest(given, accepted)
                also = f"; did you mean {guess}?" if guess else ""
                raise UserError(f"{name}={given}; accepted: {', '.join(accepted)}{also}")
        if not self.starts or self.count < 1 or self.steps < 1:
            raise UserError(f"count={self.count}, steps={self.steps}; accepted: 1 and more, and one start at least")
        if not 0 < self.step_size < float("inf") or not 0 < self.threshold < 1:
            raise UserError(
                f"step_size={self.step_size:g}, threshold={self.threshold:g}; accepted: above 0, and between 0 and 1"
            )


def rubbish(
    model: GivenModel = "small-cnn",
    *,
    dataset: str = "digits",
    defense: str = "none",
    settings: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Rubbish:
    """Draw noise and push it towards every class.

    Args:
        model, defense: as for `evaluate`. dataset: tells the shape of images, and trains where something must be trained.
        out: a folder for rubbish.csv and rubbish.png.
        options: `threat` (of a defense that trains), `data_root`, `download`, `allow_pickle`, and the fields of `Settings`.

    Raises:
        UserError: a name or a value that is not accepted.
    """
    reporter = reporter or Silent()
    if out is not None:
        writable(Path(out))
    own = {name: options.pop(name) for name in list(options) if name in Settings.__dataclass_fields__}
    chosen = replace(settings or Settings(), **own)
    named = isinstance(model, str)
    name = name_of(model)
    plan = Plan(dataset=dataset, models=(name,), defenses=(defense,), seed=seed, device=device).with_options(
        {
            "threats" if key == "threat" else key: (value,) if key == "threat" else value
            for key, value in options.items()
        }
    )
    data = data_of(plan)
    tell(data, reporter)
    with one_system(plan, data, None if named else model, reporter.training, reporter.note) as system:
        reporter.begin(f"noise on {system_name(name, defense)}", len(chosen.starts) * chosen.count)
        found = measure(system, chosen, seed=seed, advance=reporter.advance)
    found = replace(found, class_names=data.class_names, model=name, defense=defense)
    if out is not None:
        found.write(Path(out))
    return found


def measure(
    system: System, settings: Settings, *, seed: int = 0, advance: Callable[[int, int], None] = lambda done, hits: None
) -> Rubbish:
    """The same on a system at hand; no files."""
    tallies = {start: _Tally(system.num_classes, settings.steps) for start in settings.starts}
    images: dict[tuple[str, int], Shown | None] = {
        (start, k): None for start in settings.starts for k in range(system.num_classes)
    }
    for start, tally in tallies.items():
        for begin in range(0, settings.count, _BLOCK):
            numbers = range(begin, min(begin + _BLOCK, settings.count))
            draws = Draws.numbered(seed, numbers, system.device)
            noise = STARTS[start][0](draws, system.input_shape)
            sure = tally.noise(system, noise, draws, settings.threshold)
            for k in range(system.num_classes):
                _push(
                    system, noise, draws, k, settings, STARTS[start][1], tally, partial(images.__setitem__, (start, k))
                )
            advance(len(numbers), sure)
    rows = [row for start, tally in tallies.items() for row in tally.rows(start, STARTS[start][1])]
    return Rubbish(
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
        images=images,
        num_classes=system.num_classes,
        class_names=None,
        model=system.name,
        defense="none",
        forwards=sum(tally.forwards for tally in tallies.values()),
        backwards=sum(tally.backwards for tally in tallies.values()),
    )


class _Tally:
    """The counts of one kind of noise: by class and step."""

    def __init__(self, classes: int, steps: int) -> None:
        self.n = self.sure = self.forwards = self.backwards = 0
        self.largest = 0.0
        self.hits, self.confidence = np.zeros((classes, steps + 1), dtype=np.int64), np.zeros((classes, steps + 1))
        self.seen = dict[int, int]()  # class -> the step of the image that is kept of it

    def noise(self, system: System, x: Tensor, draws: Draws, threshold: float) -> int:
        """Plain noise: how many the system is sure of."""
        with torch.no_grad():
            outputs = system(x, draws, 0)
        top = outputs.scores.softmax(1).amax(1)
        sure = int(((top > threshold) & outputs.accepted()).sum())
        self.n, self.sure, self.largest = self.n + len(x), self.sure + sure, self.largest + float(top.double().sum())
        self.forwards += len(x)
        return sure

    def rows(self, start: str, in_box: bool) -> list[tuple[Any, ...]]:
        """As the table has them."""
        found = [(start, in_box, "noise", "any", 0, *_share(self.sure, self.n), self.largest / self.n)]
        # by that step: those that were fooled earlier count as well
        hits, confidence = self.hits.cumsum(1), self.confidence.cumsum(1)
        for step in range(hits.shape[1]):
            whole = int(hits[:, step].sum())
            mean = confidence[:, step].sum() / whole if whole else np.nan
            found.append((start, in_box, "fooled", "any", step, *_share(whole, self.n * len(hits)), mean))
            for k in range(len(hits)):
                mean = confidence[k, step] / hits[k, step] if hits[k, step] else np.nan
                found.append((start, in_box, "fooled", str(k), step, *_share(int(hits[k, step]), self.n), mean))
        return found


def _share(hits: int, n: int) -> tuple[int, int, float, float, float]:
    return (n, hits, hits / n, *clopper_pearson(hits, n))


def _push(
    system: System,
    noise: Tensor,
    draws: Draws,
    k: int,
    settings: Settings,
    in_box: bool,
    tally: _Tally,
    keep: Callable[[Shown], None],
) -> None:
    """Towards class k, until the system is sure of it; those that are leave."""
    x, here = noise, torch.arange(len(noise), device=noise.device)
    threat = Threat(norm="Linf", eps=1.0)  # there is no clean image to stay near to; nothing is watched
    for step in range(settings.steps + 1):
        target = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
        goal, streams = Goal(y=target, target=target), draws[here]
        oracle = Oracle(system, Needs.GRADIENTS, x, goal, threat, streams, watch=False)
        said = oracle.query(x, _probability if settings.direction == "raw" else _log_probability, probe=True)
        assert said.scores is not None
        assert said.labels is not None
        assert said.grads is not None
        p = said.scores.softmax(1)[:, k]
        fooled = (p > settings.threshold) & (said.labels >= 0)  # -1: it was rejected
        tally.hits[k, step] += int(fooled.sum())
        tally.confidence[k, step] += float(p[fooled].double().sum())
        tally.forwards, tally.backwards = tally.forwards + len(x), tally.backwards + len(x)
        if bool(fooled.any()) and tally.seen.get(k, 0) == 0 and (step > 0 or k not in tally.seen):
            tally.seen[k] = step
            first = int(fooled.nonzero()[0])
            keep((x[first].cpu().numpy(), float(p[first]), step))
        left = ~fooled
        if step == settings.steps or not bool(left.any()):
            return
        x, here = _moved(x[left], said.grads[0][left], settings, in_box), here[left]


def _moved(x: Tensor, slope: Tensor, settings: Settings, in_box: bool) -> Tensor:
    if settings.direction == "sign":
        slope = slope.sign()
    elif settings.direction == "unit":
        slope = slope / along(slope.flatten(1).norm(dim=1).clamp(min=_DUST), slope)
    x = x + settings.step_size * slope
    return x.clamp(0, 1) if in_box else x


def _log_probability(outputs: Outputs, goal: Goal) -> Tensor:
    """ln p of the target: the direction of p's own slope, which vanishes where p is small."""
    assert goal.target is not None
    return -F.cross_entropy(outputs.scores, goal.target, reduction="none")


def _probability(outputs: Outputs, goal: Goal) -> Tensor:
    assert goal.target is not None
    return outputs.scores.softmax(1).gather(1, goal.target[:, None]).squeeze(1)
