"""The training loop.

Everything follows from the seed: the order of the images, their random streams and dropout. Nothing but weights is kept
from batch to batch, and a training that was killed goes on from its last saved epoch, bit for bit.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.cores import usable_cores
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.randomness import Draws
from robustbench_lite.seeding import derive, seeded, threads
from robustbench_lite.training.augment import moved
from robustbench_lite.training.average import Average
from robustbench_lite.training.batch import Around, Batch, Loss, Progress, Validate, Watch
from robustbench_lite.training.history import Epoch, Fitted, Moment
from robustbench_lite.training.layout import fast_layout, tiny
from robustbench_lite.training.mixture import Mixture
from robustbench_lite.training.recipe import Recipe
from robustbench_lite.training.resume import Saver

_CPU = torch.device("cpu")
#: a larger validation set costs more than it tells (Rice et al. 2020 hold out 1000 of CIFAR-10)
_MOST_HELD_OUT = 1000


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
    around: Around | None = None,
    carry: dict[str, Tensor] | None = None,
    watch: Watch | None = None,
    mix: Mixture | None = None,
) -> Fitted:
    """Train `model` in place and leave it in eval mode.

    With `validate`, a stratified share of the data is held out, and the epoch with the highest robust (then clean)
    accuracy on it gives the weights, the earlier one on ties: early stopping against robust overfitting (Rice et al.
    2020, arXiv 2002.11569). Without it all data is trained on and the last weights stay. With `recipe.ema` these are
    the averaged ones. An epoch that shows catastrophic overfitting is marked, and a warning says so.

    Args:
        scratch: a folder of this training alone; a training that was killed goes on there after its last saved epoch.
        around: entered for every step before its loss is computed and left after the optimizer's step (adversarial weight
            perturbation moves the weights, and puts them back); it is given the whole batch, the loss each part of it.
        carry: what loss and `around` keep from one batch to the next, if anything; saved with every epoch, and put back
            into this very dictionary where a killed training goes on.
        watch: called after every epoch with the kept weights in the model, in eval mode; what it puts into `carry` is saved.
        mix: generated images that take the place of a share of every batch; validation sees real ones alone.

    Raises:
        UserError: the loss is not finite any more, or there are too few images to hold some out.
    """
    model.to(device).requires_grad_(True)
    rows, held = np.arange(len(data)), np.zeros(0, dtype=np.int64)
    if validate is not None:
        rows, held = split(data.labels, recipe.validation, seed)
    pool, share = (data, ()) if mix is None else (mix.behind(data), (mix.share,))
    weights = hash_tensors(model.state_dict())
    task = repr((recipe, seed, pool.digest(), validate is not None, device.type, weights, *share))
    with threads(threads_for(data, device)), fast_layout(model, data, device):
        training = _Training(
            model=model, data=pool, loss=loss, recipe=recipe, seed=seed, device=device, rows=rows,
            around=around or _nothing_around, carry={} if carry is None else carry, mix=mix,
        )  # fmt: skip
        training.restore(saver := Saver(scratch, task))
        for number in range(len(training.history), recipe.epochs):
            training.run_epoch(number, progress)
            training.close_epoch(validate, held)
            if watch is not None:
                training.shown_to(watch)
            training.save(saver)
            if progress is not None:
                progress((number + 1) * training.steps, training.steps * recipe.epochs, training.line())
    return training.finish()


def threads_for(data: Dataset, device: torch.device) -> int:
    """How many threads a training on this data uses.

    One for tiny images: more would wait for each other (8x8, batch 64, two busy cores: measured 8 times slower), and
    the last bits of the weights would differ from machine to machine.
    """
    return 1 if tiny(data, device) else min(torch.get_num_threads(), usable_cores())


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
    around: Around
    carry: dict[str, Tensor]
    mix: Mixture | None = None
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.model, self.recipe)
        self.average = Average(self.model, self.recipe.ema) if self.recipe.ema else None
        self.streams = Draws.numbered(derive(self.seed, "streams"), range(len(self.data)))
        self.cuts = -(-len(self.rows) // self.recipe.batch_size)
        self.steps = self.cuts * self.recipe.replays

    def run_epoch(self, number: int, progress: Progress | None) -> None:
        """One pass over the data; the mean loss goes into the history."""
        self.model.train()
        total, seen, steps = 0.0, 0, self.steps * self.recipe.epochs
        with seeded(derive(self.seed, "epoch", number), self.device):
            for step, (batch, replay) in enumerate(self.replayed(number)):
                done = number * self.steps + step
                moment = Moment(number, done / steps, replay, done // self.recipe.replays)
                total += self.step(batch, moment) * len(batch)
                if self.average is not None:
                    self.average.update(done)
                seen += len(batch)
                if progress is not None and step + 1 < self.steps:
                    progress(done + 1, steps, self.line(number, total / seen))
        self.history.append(Epoch(loss=total / seen))

    def step(self, batch: Batch, moment: Moment) -> float:
        """One step of the optimizer; the batch's mean loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(moment.done)
        with self.around(self.model, batch, moment):
            value = 0.0
            for number, part in enumerate(self.parts(batch)):
                value += self.descend(part, len(part) / len(batch), moment, first=not number)
            self.optimizer.step()
        if not np.isfinite(value):
            epoch = moment.epoch + 1
            raise UserError(f"the training diverged in epoch {epoch}: the loss is {value}; try a smaller learning_rate")
        return value

    def descend(self, part: Batch, share: float, moment: Moment, *, first: bool) -> float:
        """Take the gradient of a part's loss, weighted by its share of the batch, and add it to that of the parts before."""
        reduced = self.recipe.precision == "bfloat16"
        # Without its cache: weights that were cast where no gradient is taken, while crafting, would get none afterwards.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced, cache_enabled=False):
            loss = self.loss(self.model, part, moment) * share
        if first:  # not earlier: the loss may have left gradients behind
            self.optimizer.zero_grad()
        loss.backward()
        return float(loss.detach())

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch cut into as many nearly equal parts as the recipe wants, or as it has images."""
        for rows in torch.arange(len(batch), device=self.device).tensor_split(min(self.recipe.accumulate, len(batch))):
            yield batch if len(rows) == len(batch) else batch[rows]

    def replayed(self, number: int) -> Iterator[tuple[Batch, int]]:
        """The epoch's batches, each as often as the recipe wants, with random streams of its own each time."""
        for batch in self.batches(number):
            yield batch, 0
            for replay in range(1, self.recipe.replays):
                yield replace(batch, draws=batch.draws.fold(replay)), replay

    def batches(self, number: int) -> Iterator[Batch]:
        """The epoch's batches, of nearly equal size, so that none is too small for batch normalisation."""
        generator = torch.Generator().manual_seed(derive(self.seed, "shuffle", number))
        order = self.rows[torch.randperm(len(self.rows), generator=generator).numpy()]
        streams = self.streams.fold(number)
        cuts = np.array_split(order, self.cuts)
        if self.mix is not None:
            real = len(self.data) - len(self.mix.data)
            cuts = self.mix.into(cuts, real, derive(self.seed, "mixture", number))
        for chosen in cuts:
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
        with self.kept_weights():
            score = validate(self.model, self.data, held)
            before = next((epoch for epoch in reversed(self.history[:-1]) if epoch.robust is not None), None)
            now = Epoch(loss=self.history[-1].loss, **score._asdict())
            self.history[-1] = now = replace(now, collapsed=now.collapses_after(before))
            if not self.best or _rank(now) > _rank(self.history[self.best - 1]):
                self.best = number
                self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def shown_to(self, watch: Watch) -> None:
        """Have somebody look at the network as it would be kept now."""
        self.model.eval()
        with self.kept_weights(), torch.no_grad():
            watch(len(self.history))

    def kept_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept: the averaged ones, where there are such."""
        return nullcontext() if self.average is None else self.average.shown()

    def finish(self) -> Fitted:
        """Give the model its best weights, which are the last where nothing was validated."""
        if not self.best:
            with self.kept_weights():
                self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        fitted = Fitted(history=tuple(self.history), best=self.best or self.recipe.epochs, recipe=self.recipe)
        if fitted.collapse is not None:
            warnings.warn(f"catastrophic overfitting in epoch {fitted.collapse}: {_collapse(fitted)}", stacklevel=3)
        return fitted

    def line(self, number: int | None = None, loss: float | None = None) -> str:
        """One line for a progress bar: the epoch, its loss so far, and the accuracies that were measured last."""
        shown = len(self.history) if number is None else number + 1
        known = [epoch for epoch in self.history if epoch.clean is not None]
        now = self.history[-1] if loss is None else Epoch(loss=loss)
        now = replace(known[-1], loss=now.loss) if known else now
        return f"epoch {shown}/{self.recipe.epochs}: {now}"

    def save(self, saver: Saver) -> None:
        told = {"history": [asdict(epoch) for epoch in self.history], "best": self.best}
        groups = {
            "best": self.best_weights,
            "average": self.average.tensors() if self.average else {},
            "carry": self.carry,
        }
        saver.save(self.model, self.optimizer, groups, told, last=len(self.history) == self.recipe.epochs)

    def restore(self, saver: Saver) -> None:
        found = saver.load(self.model, self.optimizer)
        if found is not None:
            told, groups = found
            self.best_weights = groups.get("best", {})
            self.carry.clear()
            self.carry.update(groups.get("carry", {}))
            if self.average is not None:
                self.average.restore(groups["average"])
            self.history, self.best = [Epoch(**epoch) for epoch in told["history"]], told["best"]


def _nothing_around(model: nn.Module, batch: Batch, moment: Moment) -> AbstractContextManager[None]:
    return nullcontext()


def _collapse(fitted: Fitted) -> str:
    """What the first collapsed epoch shows, and which weights the model has."""
    assert fitted.collapse is not None
    then = fitted.history[fitted.collapse - 1]
    single = "" if then.one_step is None else f"{then.one_step:.1%} under a single step, "
    return f"{single}{then.robust:.1%} under several; the model has the weights of epoch {fitted.best}"


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.robust or 0.0, epoch.clean or 0.0


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        betas = (recipe.beta1, 0.999)
        return torch.optim.Adam(model.parameters(), recipe.learning_rate, betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
