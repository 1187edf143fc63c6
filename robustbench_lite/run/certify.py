"""`certify`: what can be proved of a system that answers under Gaussian noise, image by image.

The procedure of Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918, sec. 3.2: n0 noisy answers choose a class, n fresh ones
bound its chance from below. What is counted is kept as it comes, so a run that was killed goes on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite import data as datasets
from robustbench_lite.cache import atomic_write, writable, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_json
from robustbench_lite.randomness import Draws
from robustbench_lite.results.certificates import COUNTS, certificates, certified_accuracy, summary
from robustbench_lite.run.dataset import tell
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.one import data_of, one_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.shapes import default_shapes
from robustbench_lite.run.subject import fits
from robustbench_lite.run.systems import GivenModel, name_of
from robustbench_lite.system import System

#: raised when the counting changes in a way that could change a number; part of the key
VERSION = 1
#: keys of the draws that select, and of those that estimate: none is used twice, and none by an attack or a training
_SELECT, _ESTIMATE = 0x5E1EC7, 0xE57A7E
#: draws between two writes
_BLOCK = 200_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How often is asked, and what is told.

    Args:
        n0: draws that select a class. n: fresh draws that bound its chance. alpha: how often a certificate may be wrong.
        radii: of the table, in L2.

    Raises:
        UserError: a value that is not accepted.
    """

    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    radii: tuple[float, ...] = (0.0, 0.25, 0.5)

    def __post_init__(self) -> None:
        for name in ("n0", "n"):
            if not 1 <= getattr(self, name) <= 10**9:
                raise UserError(f"{name}={getattr(self, name)}; accepted: 1 to 1000000000 draws")
        if not 0 < self.alpha < 0.5:
            raise UserError(f"alpha={self.alpha:g}; accepted: more than 0 and less than 0.5, such as 0.001")
        if not self.radii or not all(0 <= r < float("inf") for r in self.radii):
            given = ",".join(f"{r:g}" for r in self.radii)
            raise UserError(f"radii={given}; accepted: one or several numbers from 0 on, such as 0,0.25,0.5")


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """What was proved.

    Args:
        rows: one an image (`results.certificates.CERTIFICATES`). sigma: of the noise. shape: of an image.
        environment: what the counts depend on.
    """

    rows: pd.DataFrame
    settings: Settings
    sigma: float
    shape: tuple[int, int, int]
    model: str
    defense: str
    environment: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """Certified accuracy at every radius, with exact 95 % intervals (test images only)."""
        return certified_accuracy(self.rows, self.settings.radii, int(np.prod(self.shape)))

    @property
    def summary(self) -> dict[str, float]:
        """Accuracy and abstentions of the smoothed classifier, and the mean certified radius."""
        return summary(self.rows)

    def write(self, folder: Path) -> Path:
        """certificates.csv (a row an image), certified.csv (a row a radius) and certify.json (settings and summary).

        Raises:
            UserError: it cannot be written to.
        """
        told = {
            "model": self.model,
            "defense": self.defense,
            "sigma": self.sigma,
            **asdict(self.settings),
            **self.summary,
            "environment": self.environment,
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "certificates.csv", self.rows.to_csv(index=False).encode())
            atomic_write(folder / "certified.csv", self.table.to_csv(index=False).encode())
            atomic_write(folder / "certify.json", (json.dumps(told, indent=2) + "\n").encode())
        return folder


def certify(
    model: GivenModel = "small-cnn",
    x: Tensor | np.ndarray | None = None,
    y: Tensor | np.ndarray | None = None,
    *,
    defense: str | None = None,
    sigma: float | None = None,
    dataset: str = "digits",
    samples: str | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Certificates:
    """Prove what can be proved of a smoothed classifier: for every image a class, and a radius in L2 around it.

    Args:
        model, x, y, dataset: as for `evaluate`. samples: which test images.
        defense: one that ends in Gaussian noise; `randomized-smoothing` if left out, and `none` where `sigma` is given.
        sigma: put noise of this standard deviation before the system as it is, whatever it was trained on.
        out: a folder to write to, and to go on from; without it nothing is written. fresh: count everything again.
        options: fields of `Settings` (n0, n, alpha, radii), and of `Plan`: seed, slice_seed, device, batch_size, data_root,
            download, allow_pickle, `threat` (of a defense that trains against one).

    Raises:
        UserError: a name or value that is not accepted, or a system of which nothing can be proved this way.
    """
    reporter = reporter or Silent()
    own = {name: options.pop(name) for name in list(options) if name in Settings.__dataclass_fields__}
    if "radii" in own:
        own["radii"] = tuple(float(r) for r in own["radii"])
    settings = replace(settings or Settings(), **own)
    if sigma is not None and not 0 < sigma < float("inf"):
        raise UserError(f"sigma={sigma:g}; accepted: a number above 0, such as 0.25")
    chosen = defense or ("randomized-smoothing" if sigma is None else "none")
    name = name_of(model)
    if "threat" in options:
        options["threats"] = (str(options.pop("threat")),)
    plan = Plan(dataset=dataset, models=(name,), defenses=(chosen,)).with_options({"samples": samples, **options})
    data = data_of(plan) if x is None or y is None else from_tensors(x, y)
    tell(data, reporter)
    indices = datasets.choose(data, plan.samples, plan.slice_seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        writable(folder)
    given = None if isinstance(model, str) else model
    with one_system(plan, data, given, reporter.training, reporter.note) as system:
        system = system if sigma is None else system.with_noise(sigma)
        noise = noise_of(system)
        fits(system, data)
        count = _Counting(system=system, data=data, settings=settings, seed=plan.seed, batch=plan.batch_size)
        kept = _Kept(None if folder is None else folder / "certificates", count.key, fresh=fresh)
        reporter.begin(f"{name}, {chosen}: certificates", len(indices))
        found = _counted(count, kept, indices, reporter)
    rows = certificates(found, n=settings.n, alpha=settings.alpha, sigma=noise)
    made = Certificates(
        rows=rows,
        settings=settings,
        sigma=noise,
        shape=data.shape,
        model=name,
        defense=chosen if sigma is None else f"{chosen} under noise {sigma:g}",
        environment={**count.facts, "key": count.key},
    )
    if folder is not None:
        made.write(folder)
    return made


def noise_of(system: System) -> float:
    """The standard deviation of the noise that is all that stands before the model.

    Raises:
        UserError: there is none, or something else that the proof does not cover.
    """
    if system.detector is not None:
        raise UserError(f"{system.detector.name} rejects images, and a certificate is about a classifier that answers")
    if system.model_is_random:
        raise UserError(
            f"the answers of {system.name} are random by themselves; certificates need noise in the image alone"
        )
    others = [part.name for part in system.purifiers if not part.noise]
    if others:
        raise UserError(
            f"{others[0]} stands before the noise, and a radius proved behind it says nothing about the image; "
            "certify the system without it"
        )
    if len(system.purifiers) != 1:
        given = "no Gaussian noise" if not system.purifiers else "Gaussian noise more than once"
        raise UserError(
            f"{system.name} answers under {given}; name a defense such as randomized-smoothing:sigma=0.25, or give sigma"
        )
    return system.purifiers[0].noise


@dataclass(frozen=True, kw_only=True)
class _Counting:
    """Noisy answers of one system on one dataset.

    The draws of an image go through the network by themselves, in pieces whose sizes depend on nothing else, so an image's
    counts do not depend on which others are asked about.
    """

    system: System
    data: Dataset
    settings: Settings
    seed: int
    batch: int | None

    @property
    def rows(self) -> int:
        """How many noisy images go through the network at once."""
        return default_shapes(self.system.device, self.batch, self.data.shape).most

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the counts."""
        return {
            "certify": VERSION,
            "system": self.system.digest,
            "data": self.data.digest(),
            "seed": self.seed,
            "n0": self.settings.n0,
            "n": self.settings.n,
            "rows": self.rows,
            "torch": torch.__version__,
            "device": self.system.device.type,
            "threads": torch.get_num_threads(),
        }

    @property
    def key(self) -> str:
        """Names the counts."""
        return hash_json(self.facts)

    def of(self, index: int) -> tuple[int, ...]:
        """The row (COUNTS) of one image."""
        x, y = self.data.batch([index]), self.data.labels_at([index])
        draws, x = Draws.for_images(self.seed, x, y).to(self.system.device), x.to(self.system.device)
        selected = int(self.votes(x, draws.fold(_SELECT), self.settings.n0).argmax())
        votes = self.votes(x, draws.fold(_ESTIMATE), self.settings.n)
        (first, second), top = votes.sort(descending=True, stable=True).values[:2].tolist(), int(votes.argmax())
        return index, int(y), selected, int(votes[selected]), top, first, second

    @torch.no_grad()
    def votes(self, x: Tensor, draws: Draws, count: int) -> Tensor:
        """How often each class is the answer to the image x (1, c, h, w), (k,) int64; NaN scores vote for none."""
        votes = torch.zeros(max(self.system.num_classes, 2), dtype=torch.int64)
        with exact_math():
            for begin in range(0, count, self.rows):
                index = torch.arange(begin, min(begin + self.rows, count), device=x.device)
                shown = x.expand(len(index), *x.shape[1:]).contiguous()
                scores = self.system(shown, draws[torch.zeros_like(index)], index).scores
                said = scores.argmax(1)[~scores.isnan().any(1)].cpu()
                votes += torch.bincount(said, minlength=len(votes))
        return votes


class _Kept:
    """Counts on disk, in parts that are there whole or not at all; without a folder in memory."""

    def __init__(self, folder: Path | None, key: str, *, fresh: bool) -> None:
        self._folder = None if folder is None else folder / key
        self.rows: dict[int, tuple[int, ...]] = {}
        if self._folder is None:
            return
        for path in sorted(self._folder.glob("part-*.csv")):
            if fresh:
                path.unlink(missing_ok=True)
            else:
                self.rows |= {row[0]: row for row in _read(path)}

    def add(self, rows: Sequence[tuple[int, ...]]) -> None:
        """Keep these; on disk once this returns."""
        self.rows |= {row[0]: row for row in rows}
        if self._folder is not None:
            text = pd.DataFrame(list(rows), columns=list(COUNTS)).to_csv(index=False)
            with writing(self._folder):
                atomic_write(self._folder / f"part-{rows[0][0]:08d}-{rows[-1][0]:08d}-{len(rows)}.csv", text.encode())


def _read(path: Path) -> Iterator[tuple[int, ...]]:
    """The rows of a part; none of a file that is no such part."""
    try:
        table = pd.read_csv(path, dtype="int64")
    except (OSError, ValueError):
        return
    if tuple(table.columns) == COUNTS:
        yield from table.itertuples(index=False, name=None)


def _counted(count: _Counting, kept: _Kept, indices: np.ndarray, reporter: Reporter) -> pd.DataFrame:
    """The counts of these images, in their order."""
    left = [int(index) for index in indices if int(index) not in kept.rows]
    reporter.advance(len(indices) - len(left), 0)
    size = max(1, min(32, _BLOCK // (count.settings.n0 + count.settings.n)))
    for begin in range(0, len(left), size):
        rows = []
        for index in left[begin : begin + size]:
            rows.append(count.of(index))
            reporter.advance(1, 0)
        kept.add(rows)
    return pd.DataFrame([kept.rows[int(index)] for index in indices], columns=list(COUNTS))
