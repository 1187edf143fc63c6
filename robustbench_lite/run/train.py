"""`train`: from a model, a dataset and a defense to a checkpoint with its card."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from robustbench_lite import __version__, training, zoo
from robustbench_lite import data as datasets
from robustbench_lite.attack import resolve_attack
from robustbench_lite.cache import Card, atomic_write, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Defense, Workshop, resolve_defense
from robustbench_lite.devices import find_device
from robustbench_lite.errors import UserError
from robustbench_lite.results.training_plot import plot_training, training_history
from robustbench_lite.run.build import UNDEFENDED, about, defended_system
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.zoo.checkpoints import checkpoint_place, save_checkpoint

#: what the card's robust accuracy is measured with, and on how many test images at most: a hint, no evaluation
MEASURED_WITH, MEASURED_ON = "pgd:steps=20,step_size=1/10,restarts=1", 1000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Trainings that differ in their seed alone."""

    seeds: tuple[int, ...]
    cards: tuple[Card, ...]
    files: tuple[Path | None, ...]

    def of(self, name: str) -> tuple[float, float, float]:
        """Mean, smallest and largest of `clean_accuracy` or `robust_accuracy` over the seeds."""
        values = [float(card[name]) for card in self.cards]
        return fmean(values), min(values), max(values)


def train(
    model: str = "small-cnn",
    dataset: str = "digits",
    defense: str = "none",
    *,
    threat: str | Threat | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    weight_decay: float | None = None,
    ema: float | None = None,
    accumulate: int | None = None,
    precision: str | None = None,
    label_smoothing: float | None = None,
    device: str | torch.device = "auto",
    data_root: str | Path | None = None,
    download: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    use_cache: bool = True,
    progress: training.Progress | None = None,
) -> Card:
    """Train a model and return its card; the same content is not trained twice.

    Args:
        model: a spec; its architecture is trained from fresh weights. defense: `none` or one that trains.
        threat: what to train and to measure under; the usual one for such images if left out (`usual_threat`).
        out: FILE.safetensors to write, with FILE.json, FILE.history.csv and FILE.history.png beside it; `--model
            checkpoint:FILE` loads it back.
        epochs, batch_size, learning_rate, schedule, weight_decay, ema, accumulate, precision, label_smoothing: instead of
            the default recipe's (`training.Recipe`), as far as the defense has such an option.
        use_cache: whether a cached training of the same content is good enough.
        progress: called with (steps done, steps in all, one line of text).

    Returns:
        The card: architecture, data, normalisation, recipe, seed, clean and robust accuracy (on the test split; on how
        many images, under what), best and last epoch, the history of all, versions.

    Raises:
        UserError: a name, option or file that is not accepted, or a training that diverged.
    """
    chosen = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "schedule": schedule,
        "weight_decay": weight_decay, "ema": ema, "accumulate": accumulate, "precision": precision,
        "label_smoothing": label_smoothing,
    }  # fmt: skip
    changes = {name: value for name, value in chosen.items() if value is not None}
    chain, place = _changed(resolve_defense(defense), changes), find_device(device)
    target = None if out is None else checkpoint_place(Path(out))
    root = None if data_root is None else Path(data_root)
    data, test = (datasets.load(dataset, split, root=root, download=download) for split in ("train", "test"))
    aim = _aim(threat, data)
    found = zoo.load(
        model,
        num_classes=data.num_classes,
        input_shape=data.shape,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
    )
    untrained = replace(found, trained=False)  # weights that the spec names are not what is asked for
    shop = Workshop(train=data, threats=(aim,), seed=seed, device=place, progress=progress)
    system = defended_system(untrained, chain, lambda: shop, changes=changes, use_cache=use_cache).to(place)
    card = {
        **about(found, system),
        "data": {
            **{"name": data.name, "images": len(data), "digest": data.digest()},
            **({"provenance": dict(data.provenance)} if data.provenance else {}),
        },
        "defense": "+".join(map(str, chain)),
        "seed": seed,
        "device": place.type,
        **system.notes,
        **_measured(system, test, aim),
        "versions": _versions(),
    }
    if target is not None:
        with writing(target.parent):
            save_checkpoint(target, system.model, card)
            _write_history(target, card)
    return card


def train_seeds(count: int, train_one: Callable[[int, Path | None], Card], *, first: int, out: Path | None) -> Spread:
    """Train the same with several seeds, one after the other.

    Args:
        train_one: (seed, file) -> card, a call of `train`. first: the first seed; the others count on from it.
        out: FILE.safetensors; the checkpoints are FILE-seed0.safetensors and so on.

    Raises:
        UserError: not one seed at least, or what `train_one` raises.
    """
    if count < 1:
        raise UserError(f"seeds={count}; accepted: 1 and more")
    seeds = range(first, first + count)
    files = [None if out is None else out.with_name(f"{out.stem}-seed{seed}{out.suffix}") for seed in seeds]
    cards = [train_one(seed, file) for seed, file in zip(seeds, files, strict=True)]
    return Spread(seeds=tuple(seeds), cards=tuple(cards), files=tuple(files))


def usual_threat(data: Dataset) -> Threat:
    """The threat that the field uses for such images: Linf 0.2 on 8x8 digits, 0.3 on MNIST-like, 8/255 on colour."""
    if data.shape[0] != 1:
        return Threat(norm="Linf", eps=8 / 255)
    return Threat(norm="Linf", eps=0.2 if max(data.shape[1:]) <= 16 else 0.3)


def _aim(threat: str | Threat | None, data: Dataset) -> Threat:
    """The untargeted threat to train and to measure under."""
    if threat is None:
        return usual_threat(data)
    given = Threat.parse(threat) if isinstance(threat, str) else threat
    aim = Threat(norm=given.norm, eps=given.radius)
    aim.check_shape(data.shape)
    resolve_attack(MEASURED_WITH).check(aim, data.num_classes)
    return aim


def _changed(chain: tuple[Defense, ...], changes: dict[str, Any]) -> tuple[Defense, ...]:
    """The defense that trains with the changes to its recipe; other parts cannot go into a checkpoint."""
    parts = [part for part in chain if part.name != UNDEFENDED]
    if len(parts) > 1 or not all(part.trains for part in parts):
        given = "+".join(map(str, parts))
        raise UserError(f"{given} is more than weights; accepted: none, or one defense that trains")
    return tuple(_with(part, changes) for part in parts) or chain


def _with(defense: Defense, changes: dict[str, Any]) -> Defense:
    missing = sorted(changes.keys() - {item.name for item in fields(defense)})
    if missing:
        raise UserError(f"{defense.name} has no option {missing[0]!r}")  # a recipe that it does not leave to its user
    return replace(defense, **changes)


def _write_history(target: Path, card: Card) -> None:
    """FILE.history.csv and FILE.history.png beside the weights; a training of another program may have told of none."""
    if "history" not in card.get("training", {}):
        return
    history = training_history(card)
    atomic_write(target.with_suffix(".history.csv"), history.to_csv(index=False).encode())
    title = f"{card['architecture']}, {card['defense']}, seed {card['seed']}"
    atomic_write(target.with_suffix(".history.png"), lambda path: plot_training(history, path, title=title))


def _measured(system: System, test: Dataset, threat: Threat) -> dict[str, Any]:
    """Clean and robust accuracy on the test images, and what that was: how many images, under what."""
    few = datasets.choose(test, str(MEASURED_ON) if len(test) > MEASURED_ON else "all", 0)
    with training.threads(training.threads_for(test, system.device)):
        score = training.accuracy(system, resolve_attack(MEASURED_WITH), threat, test, few, seed=0)
    under = {"images": len(few), "threat": str(threat), "attack": MEASURED_WITH}
    return {"clean_accuracy": score.clean, "robust_accuracy": score.robust, "measured": under}


def _versions() -> dict[str, str]:
    return {
        "robustbench-lite": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
