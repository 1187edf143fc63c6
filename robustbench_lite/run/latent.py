"""`latent`: unrestricted adversarial examples. Its rates belong to a generator and to no norm, and stand in no table with one.

Every attempt draws a latent point and searches near it for an image of class y that the system takes for another
(`attacks.latent`). An independent judge, which the search has never asked, says whether the image still shows y: a proxy for
people, who decide that in the paper (Song et al. 2018, arXiv 1805.07894, sec. 4.2). What the starting points do without any
search is told beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite.attacks.latent import Latent, Witness
from robustbench_lite.cache import atomic_savez, atomic_write, writable, writing
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Trained, load_generator
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.dataset import tell
from robustbench_lite.run.one import data_of, one_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.shapes import Shapes, default_shapes
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.run.systems import Builder, GivenModel, name_of
from robustbench_lite.run.verdict import Sitting, Verdict, judge
from robustbench_lite.specs import system_name
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: a row an attempt
COLUMNS = (
    *("class", "attempt", "target", "start_prediction", "start_judge", "start_fooled", "prediction", "judge", "fooled"),
    *("proxy_legitimate", "success", "moved", "noise", "margin", "forwards", "backwards"),
)


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Who reads the images.

    Args:
        guide: takes part in the search; None: nobody. judge: never does, and decides what shows its class.
    """

    judge: System
    guide: System | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Unrestricted:
    """What came of the attempts.

    Args:
        table: COLUMNS. `success`: the verdict finds the system fooled, and the judge reads the class that was asked for.
            `start_…`: the same of the image before the search.
        images, starts: (n, c, h, w), after and before the search. witness: what they are rendered from.
        told: generator, system, judges, options, seed.
    """

    table: pd.DataFrame
    images: np.ndarray
    starts: np.ndarray
    witness: Witness
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> pd.DataFrame:
        """A row a class and one for all.

        `judged_right` is the share of plain generated images that the judge reads as asked for: where it is low, nothing
        below it means much. `start_rate`: of what the system gets wrong without a search. `success_rate` with its 95 %
        interval; `attempts_each`: per success. `variety`: the mean distance between successes, by that between starts.
        """
        groups = [("all", self.table), *((str(k), part) for k, part in self.table.groupby("class"))]
        return pd.DataFrame([self._row(name, part) for name, part in groups])

    def _row(self, name: str, part: pd.DataFrame) -> dict[str, Any]:
        n, hits = len(part), int(part["success"].sum())
        low, high = clopper_pearson(hits, n)
        rows = part.index.to_numpy()
        won = self.images[rows[part["success"].to_numpy()]]
        return {
            "class": name,
            "attempts": n,
            "judged_right": float((part["start_judge"] == part["class"]).mean()),
            "start_rate": float(part["start_fooled"].mean()),
            "fooled_rate": float(part["fooled"].mean()),
            "proxy_legitimate": float(part["proxy_legitimate"].mean()),
            "successes": hits,
            "success_rate": hits / n,
            "low": low,
            "high": high,
            "attempts_each": n / hits if hits else np.inf,
            "variety": _spread(won) / max(_spread(self.starts[rows]), 1e-12) if len(won) > 1 else np.nan,
        }

    def write(self, folder: Path) -> Path:
        """latent.csv (a row an attempt), latent_summary.csv and latent.npz (images, starts, z, labels) in the folder.

        Raises:
            UserError: it cannot be written to.
        """
        made = self.witness

        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "latent.csv", self.table.to_csv(index=False).encode())
            atomic_write(folder / "latent_summary.csv", self.summary.to_csv(index=False).encode())
            arrays = {"y": made.y.numpy(), "z": made.z.numpy(), "noise": made.noise.numpy()}
            atomic_savez(folder / "latent.npz", x=self.images, start=self.starts, **arrays)
        return folder


def latent(
    model: GivenModel = "small-cnn",
    *,
    generator: str | Path,
    judge: str,
    guide: str | None = None,
    dataset: str = "digits",
    defense: str = "none",
    attempts: int = 50,
    target: int | None = None,
    settings: Latent | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Unrestricted:
    """Search for images of every class that the system takes for another, or for the target.

    Args:
        model, defense: as for `evaluate`. generator: FILE.safetensors of a conditional one.
        judge: a model that the search never asks, and guide: one that it does, such as `mlp` or checkpoint:FILE. One
            without weights is trained on the dataset, with a seed of its own. They must be two different ones.
        dataset: tells the shape of images, and trains where something must be trained.
        attempts: starting points of each class.
        target: what images of the other classes shall be taken for; None: anything else.
        out: a folder for latent.csv, latent_summary.csv and latent.npz.
        options: `threat` (of a defense that trains), `data_root`, `download`, `allow_pickle`, and the fields of `Latent`.

    Raises:
        UserError: a name or a value that is not accepted, or a judge that is the guide.
    """
    reporter = reporter or Silent()
    if out is not None:
        writable(Path(out))
    own = {name: options.pop(name) for name in list(options) if name in Latent.__dataclass_fields__}
    chosen = replace(settings or Latent(), **own)
    if guide is not None and guide == judge:
        raise UserError(
            f"guide={guide} is the judge as well; accepted: another classifier, which the search never asks"
        )
    named, trained = isinstance(model, str), load_generator(generator)
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
        shelf = _shelf(plan, system, data, reporter)
        judges = Judges(judge=shelf.model(judge), guide=None if guide is None else shelf.model(guide))
        reporter.begin(f"latent search on {system_name(name, defense)}", attempts * system.num_classes)
        found = measure(
            system, trained, judges, chosen, attempts=attempts, target=target, seed=seed, advance=reporter.advance
        )
    names = {"model": name, "defense": defense, "judge": judge, "guide": guide}
    found = replace(found, told={**found.told, **names})
    if out is not None:
        found.write(Path(out))
    return found


def measure(
    system: System,
    trained: Trained,
    judges: Judges,
    settings: Latent,
    *,
    attempts: int = 50,
    target: int | None = None,
    seed: int = 0,
    advance: Callable[[int, int], None] = lambda done, hits: None,
) -> Unrestricted:
    """The same on systems at hand; no files."""
    _check(system, trained, attempts, target)
    network, device = trained.network.to(system.device), system.device
    shapes = default_shapes(device, None, system.input_shape)
    wanted = [(k, number) for number in range(attempts) for k in range(system.num_classes) if k != target]
    rows, images, starts, witnesses = list[pd.DataFrame](), list[Tensor](), list[Tensor](), list[Witness]()
    for begin in range(0, len(wanted), shapes.floor):
        some = wanted[begin : begin + shapes.floor]
        index = shapes.padding(
            len(some), device
        )  # whole blocks, so that an attempt's bits do not depend on their number
        draws = Draws.of(seed, [f"{k}/{number}".encode() for k, number in some], device)[index]
        y = torch.tensor([k for k, _ in some], device=device)[index]
        goal = None if target is None else torch.full_like(y, target)
        guide = None if judges.guide is None else _reader(judges.guide)
        witness, forwards, backwards = settings.search(network, system, y, draws, guide, goal)
        assert bool(settings.allowed(witness).all()), "the search has left its limits"
        first = replace(witness, z=witness.start, noise=torch.zeros_like(witness.noise))
        looks = [settings.render(network, one) for one in (first, witness)]
        told = [_judged(system, judges.judge, x, y, goal, draws, shapes) for x in looks]
        rows.append(_rows(some, target, witness, told, forwards, backwards))
        starts.append(looks[0][: len(some)].cpu())
        images.append(looks[1][: len(some)].cpu())
        witnesses.append(witness[: len(some)].to("cpu"))
        advance(len(some), int(rows[-1]["success"].sum()))
    kept = {item: torch.cat([getattr(one, item) for one in witnesses]) for item in ("y", "z", "start", "noise")}
    return Unrestricted(
        table=pd.concat(rows, ignore_index=True)[list(COLUMNS)],
        images=torch.cat(images).numpy(),
        starts=torch.cat(starts).numpy(),
        witness=Witness(**kept),
        told={
            "generator": trained.name, "weights": trained.digest, "learned from": trained.card.get("data"),
            "system": system.digest, "options": str(settings), "seed": seed, "attempts": attempts,
        },
    )  # fmt: skip


def _judged(
    system: System, reader: System, x: Tensor, y: Tensor, target: Tensor | None, draws: Draws, shapes: Shapes
) -> tuple[Verdict, Tensor]:
    """The verdict on images that no limit but the box holds, and what the judge reads (n,)."""
    goal = Goal(y=y, target=target, success="untargeted" if target is None else "targeted")
    with torch.no_grad():
        read = reader(x, draws).prediction()
    return judge(system, x, goal, Threat(norm="Linf", eps=1.0), x, draws, shapes, Sitting().last), read


def _rows(
    some: list[tuple[int, int]],
    target: int | None,
    witness: Witness,
    told: list[tuple[Verdict, Tensor]],
    forwards: Tensor,
    backwards: Tensor,
) -> pd.DataFrame:
    (before, read_before), (after, read) = told
    legitimate = read == witness.y
    columns = {
        "start_prediction": before.prediction,
        "start_judge": read_before,
        "start_fooled": before.broken & (read_before == witness.y),
        "prediction": after.prediction,
        "judge": read,
        "fooled": after.broken,
        "proxy_legitimate": legitimate,
        "success": after.broken & legitimate,
        "moved": (witness.z - witness.start).abs().amax(1),
        "noise": witness.noise.abs().flatten(1).amax(1),
        "margin": after.margin,
        "forwards": forwards,
        "backwards": backwards,
    }
    names = pd.DataFrame(some, columns=["class", "attempt"]).assign(target=-1 if target is None else target)
    return names.assign(**{name: value[: len(some)].cpu().numpy() for name, value in columns.items()})


def _reader(guide: System) -> Callable[[Tensor], Tensor]:
    return lambda x: guide(x).scores


def _spread(images: np.ndarray) -> float:
    """The mean Euclidean distance between two of the images."""
    flat = torch.from_numpy(images).flatten(1).double()
    return float(torch.pdist(flat).mean()) if len(flat) > 1 else 0.0


def _shelf(plan: Plan, system: System, data: Any, reporter: Reporter) -> Shelf:
    threats = tuple(Threat.parse(text) for text in plan.threats)
    builder = Builder(plan=plan, data=data, device=system.device, threats=threats, training=reporter.training)
    return builder.shelf().of(system.num_classes)


def _check(system: System, trained: Trained, attempts: int, target: int | None) -> None:
    network = trained.network
    if not network.conditional:
        raise UserError(f"{trained.name} is not told the class of its images; accepted: a conditional generator")
    if tuple(network.shape) != tuple(system.input_shape) or network.num_classes != system.num_classes:
        raise UserError(
            f"{trained.name} makes images {network.shape} of {network.num_classes} classes; {system.name} takes "
            f"{system.input_shape} and tells {system.num_classes} apart"
        )
    if attempts < 1:
        raise UserError(f"attempts={attempts}; accepted: 1 and more")
    if target is not None and not 0 <= target < system.num_classes:
        raise UserError(f"target={target}; accepted: a class from 0 to {system.num_classes - 1}")
