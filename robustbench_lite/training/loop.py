"""The training loop.

Everything follows from the seed: the order of the images, their random streams and dropout. Nothing but weights is kept
from batch to batch, and a training that was killed goes on from its last saved epoch, bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.cache import weights_digest
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.training.augment import moved
from robustbench_lite.training.measure import Score
from robustbench_lite.training.recipe import Recipe
from robustbench_lite.training.resume import Saver
from robustbench_lite.training.seeds import derive, seeded, threads

_CPU = torch.device("cpu")
#: a larger validation set costs more than it tells (Rice et al. 2020 hold out 1000 of CIFAR-10)
_MOST_HELD_OUT = 1000
#: values of an image up to which one thread is fastest
_TINY_IMAGE = 256


@dataclass(frozen=True, kw_only=True)
class Batch(Rows):
    """What a loss is given.

    Args:
        x: (n, c, h, w) in [0, 1]. y: (n,) int64. indices: (n,) int64, positions in the dataset.
        draws: the samples' random streams of this epoch.
    """

    x: Tensor
    y: Tensor
    indices: Tensor
    draws: Draws


@dataclass(frozen=True)
class Moment:
    """Where a training stands: `epoch` from 0, and the share of all steps that is done, 0 to 1."""

    epoch: int
    done: float


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to: its mean loss, and the validation's accuracies (0 to 1) where it had one."""

    loss: float
    clean: float | None = None
    robust: float | None = None

    def __str__(self) -> str:
        parts = (("clean", self.clean), ("robust", self.robust))
        known = [f"{name} {value:.1%}" for name, value in parts if value is not None]
        return ", ".join([f"loss {self.loss:.3f}", *known])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a training: every epoch, and the number (from 1) of the one whose weights the model now has."""

    history: tuple[Epoch, ...]
    best: int
    recipe: Recipe

    def notes(self, **more: Any) -> dict[str, Any]:
        """For a system's notes and a card: the recipe, the best and the last epoch, and what more is told."""
        last = len(self.history)
        told = {
            "best": {"epoch": self.best, **asdict(self.history[self.best - 1])},
            "last": {"epoch": last, **asdict(self.history[-1])},
        }
        return {"recipe": asdict(self.recipe), "training": {**told, **more}}


#: (model, batch, moment) -> the scalar to descend. It finds the model in training mode and must leave it so.
Loss = Callable[[nn.Module, Batch, Moment], Tensor]
#: (model, dataset, positions held out) -> accuracies; the best epoch's weights are kept
Validate = Callable[[nn.Module, Dataset, np.ndarray], Score]
#: (steps done, steps in all, one line of text)
Progress = Callable[[int, int, str], None]


def fit(
    model: nn.Module,
    data: Dataset,
    loss: Loss,
    *,
    recipe: Recipe,
    seed: int,
    device: torch.device = _CPU,
    progress: Progress | None = None,
    validate: Validate | None = None,
    scratch: Path | None = None,
) -> Fitted:
    """Train `model` in place and leave it in eval mode.

    With `validate`, a stratified share of the data is held out, and the epoch with the highest robust (then clean)
    accuracy on it gives the weights, the earlier one on ties: early stopping against robust overfitting (Rice et al.
    2020, arXiv 2002.11569). Without it all data is trained on and the last weights stay.

    Args:
        scratch: a folder of this training alone; a training that was killed goes on there after its last saved epoch.

    Raises:
        UserError: the loss is not finite any more, or there are too few images to hold some out.
    """
    model.to(device).requires_grad_(True)
    rows, held = np.arange(len(data)), np.zeros(0, dtype=np.int64)
    if validate is not None:
        rows, held = split(data.labels, recipe.validation, seed)
    task = repr((recipe, seed, data.digest(), validate is not None, device.type, weights_digest(model.state_dict())))
    training = _Training(model=model, data=data, loss=loss, recipe=recipe, seed=seed, device=device, rows=rows)
    training.restore(saver := Saver(scratch, task))
    with threads(threads_for(data, device)):
        for number in range(len(training.history), recipe.epochs):
            training.run_epoch(number, progress)
            training.close_epoch(validate, held)
            training.save(saver)
            if progress is not None:
                progress((number + 1) * training.steps, training.steps * recipe.epochs, training.line())
    return training.finish()


def threads_for(data: Dataset, device: torch.device) -> int:
    """How many threads a training on this data uses.

    One for tiny images: more would wait for each other (8x8, batch 64, two busy cores: measured 8 times slower), and
    the last bits of the weights would differ from machine to machine.
    """
    tiny = device.type == "cpu" and math.prod(data.shape) <= _TINY_IMAGE
    return 1 if tiny else torch.get_num_threads()


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions held out, both sorted; classes keep their shares, at most 1000 are held out.

    Raises:
        UserError: nothing would be left on one of the sides.
    """
    share = min(share, _MOST_HELD_OUT / max(len(labels), 1))
    order = np.random.default_rng(derive(seed, "validation")).permutation(len(labels))
    # Sorted by class and, within, at random: every 1/share-th of them is a stratified sample of the right size.
    ranked = order[np.argsort(labels[order], kind="stable")]
    count = round(share * len(labels))
    if not 0 < count < len(labels):
        raise UserError(f"{len(labels)} training images are too few to hold out {share:.0%}; use early_stopping=false")
    held = np.zeros(len(labels), dtype=bool)
    held[ranked[((np.arange(count) + 0.5) * len(labels) / count).astype(np.int64)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(kw_only=True, eq=False)
class _Training:
    """A training under way: what `fit` passes from epoch to epoch."""

    model: nn.Module
    data: Dataset
    loss: Loss
    recipe: Recipe
    seed: int
    device: torch.device
    rows: np.ndarray
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.model, self.recipe)
        digests = [index.to_bytes(8, "little") for index in range(len(self.data))]
        self.streams = Draws.of(derive(self.seed, "streams"), digests)
        self.steps = -(-len(self.rows) // self.recipe.batch_size)

    def run_epoch(self, number: int, progress: Progress | None) -> None:
        """One pass over the data; the mean loss goes into the history."""
        self.model.train()
        total, steps = 0.0, self.steps * self.recipe.epochs
        with seeded(derive(self.seed, "epoch", number), self.device):
            for step, batch in enumerate(self.batches(number)):
                done = number * self.steps + step
                total += self.step(batch, Moment(number, done / steps)) * len(batch)
                if progress is not None and step + 1 < self.steps:
                    progress(done + 1, steps, self.line(number))
        self.history.append(Epoch(loss=total / len(self.rows)))

    def step(self, batch: Batch, moment: Moment) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(moment.done)
        loss = self.loss(self.model, batch, moment)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            epoch = moment.epoch + 1
            raise UserError(f"the training diverged in epoch {epoch}: the loss is {value}; try a smaller learning_rate")
        return value

    def batches(self, number: int) -> Iterator[Batch]:
        """The epoch's batches, of nearly equal size, so that none is too small for batch normalisation."""
        generator = torch.Generator().manual_seed(derive(self.seed, "shuffle", number))
        order = self.rows[torch.randperm(len(self.rows), generator=generator).numpy()]
        streams = self.streams.fold(number)
        for chosen in np.array_split(order, self.steps):
            indices = torch.from_numpy(chosen)
            draws = streams[indices]
            x = moved(self.data.batch(chosen), draws, self.recipe.crop, self.recipe.flip)
            yield Batch(x=x, y=self.data.labels_at(chosen), indices=indices, draws=draws).to(self.device)

    def close_epoch(self, validate: Validate | None, held: np.ndarray) -> None:
        """Measure the epoch and keep its weights if it is the best so far."""
        number = len(self.history)
        if validate is None or (number % self.recipe.validate_every and number < self.recipe.epochs):
            return
        self.model.eval()
        score = validate(self.model, self.data, held)
        now = Epoch(loss=self.history[-1].loss, clean=score.clean, robust=score.robust)
        self.history[-1] = now
        if not self.best or _rank(now) > _rank(self.history[self.best - 1]):
            self.best = number
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def finish(self) -> Fitted:
        """Give the model its best weights, which are the last where nothing was validated."""
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()
        return Fitted(history=tuple(self.history), best=self.best or self.recipe.epochs, recipe=self.recipe)

    def line(self, number: int | None = None) -> str:
        """One line for a progress bar: the epoch, and what the last complete one came to."""
        shown = len(self.history) if number is None else number + 1
        known = [epoch for epoch in self.history if epoch.clean is not None] or self.history
        return f"epoch {shown}/{self.recipe.epochs}" + (f": {known[-1]}" if known else "")

    def save(self, saver: Saver) -> None:
        told = {"history": [asdict(epoch) for epoch in self.history], "best": self.best}
        saver.save(self.model, self.optimizer, self.best_weights, told, last=len(self.history) == self.recipe.epochs)

    def restore(self, saver: Saver) -> None:
        found = saver.load(self.model, self.optimizer)
        if found is not None:
            told, self.best_weights = found
            self.history, self.best = [Epoch(**epoch) for epoch in told["history"]], told["best"]


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.robust or 0.0, epoch.clean or 0.0


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
