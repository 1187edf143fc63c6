"""`measure`: all that can be said of a generator in numbers, each with its spread over repeated samplings."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.points import Mixture, mixture_of, to_points
from robustbench_lite.data.slices import choose
from robustbench_lite.data.stacked import is_stacked
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Trained
from robustbench_lite.generators.quality import inversion, modes
from robustbench_lite.generators.quality.arithmetic import encoded, latent_figures
from robustbench_lite.generators.quality.features import BATCH, look
from robustbench_lite.generators.quality.images import Reference, image_figures
from robustbench_lite.randomness import Draws
from robustbench_lite.seeding import derive
from robustbench_lite.system import System

#: images of a sampling, at most, when nobody says
_IMAGES = 10_000
Figures = dict[str, float]


def measure(
    trained: Trained,
    train: Dataset,
    test: Dataset,
    *,
    judge: System | None = None,
    samples: int | None = None,
    seed: int = 0,
    repeats: int = 5,
    inverted: int = 100,
    restarts: int = 5,
    steps: int = 500,
) -> Figures:
    """What applies to the data, by name: `NAME` is the mean over `repeats` samplings, `NAME_sd` their standard deviation.

    Points in the plane: their modes (`modes.point_figures`). Stacks: theirs (`modes.stacked_figures`). Images: what a
    classifier sees, copies, usefulness (`images.image_figures`), `inversion.inversion_figures`, and of grey figures
    `arithmetic.latent_figures`. What ends in `_real` or `_floor` is a figure of real images, and in `_noise` of uniform
    noise; the generator's own lies between them. An autoencoder has no prior to sample from: of it there is inversion,
    and how well it brings images back.

    Args:
        train, test: the splits. judge: a classifier of such images, of stacks one of a single channel; points need none.
        samples: of each sampling; left out, 2,500 points, 26,000 stacks, or as many images as the training split has, at
            most 10,000.
        inverted: images of each split that are inverted, from `restarts` points by `steps` steps; 0: none.

    Raises:
        UserError: images without a judge, a judge of other images, or no repeat or no samples.
    """
    if repeats < 1 or (samples is not None and samples < 10):
        raise UserError(f"repeats={repeats}, samples={samples}; accepted: repeats from 1, samples from 10")
    if tuple(trained.network.shape) != tuple(test.shape) or train.shape != test.shape:
        raise UserError(f"{trained.name} makes images {trained.network.shape}; the data has {test.shape}")
    mixture = mixture_of(test)
    if mixture is not None:
        return _points(trained, train, test, mixture, samples or modes.POINTS, seed, repeats)
    if judge is None:
        raise UserError("images are measured by what a classifier sees in them; give a judge")
    if is_stacked(test):
        return _stacked(trained, train, test, judge, samples or modes.STACKS, seed, repeats)
    network, codes = trained.network, None
    if trained.density == "none":
        figures = _restored(trained, train, test)
    else:
        figures = _images(trained, train, test, judge, samples or min(len(train), _IMAGES), seed, repeats)
    if inverted:
        codes, seen = (
            inversion.inverted(network, data, inverted, seed=seed, restarts=restarts, steps=steps)
            for data in (test, train)
        )
        figures |= inversion.inversion_figures(codes, seen)
    if network.encodes:
        codes = encoded(network, test, seed=seed)
    return figures if codes is None else figures | latent_figures(network, codes, judge)


def _points(
    trained: Trained, train: Dataset, test: Dataset, mixture: Mixture, count: int, seed: int, repeats: int
) -> Figures:
    """Modes of points, and of real ones."""
    drawn = _samplings(trained, train, count, seed, repeats)
    found = [modes.point_figures(to_points(x), mixture) for x, _ in drawn]
    real = modes.point_figures(to_points(test.batch(choose(test, min(count, len(test))))), mixture)
    return {**_spread(found), **{f"{name}_real": value for name, value in real.items()}}


def _images(
    trained: Trained, train: Dataset, test: Dataset, judge: System, count: int, seed: int, repeats: int
) -> Figures:
    """Figures of images, and those of real ones and of noise."""
    reference, told = Reference.of(train, test, judge, count, seed), trained.network.conditional
    drawn = _samplings(trained, train, count, seed, repeats)
    figures = _spread([image_figures(reference, x, y if told else None) for x, y in drawn])
    return figures | _levels(trained, reference, seed) | reference.controls()


@torch.no_grad()
def _levels(trained: Trained, reference: Reference, seed: int) -> Figures:
    """Of a pyramid, `frechet_from_14` and so on: of held-out images that are real up to that height, with detail made above.

    Beside `frechet_floor` it tells what the levels above cost; a step to the next smaller height, what that level adds.
    """
    network, parts = trained.network, list[dict[int, Tensor]]()
    labels = reference.test.labels_at(reference.held_out_rows)
    for rows in torch.arange(len(labels)).split(BATCH):
        x, y = reference.held_out[rows].to(network.device), labels[rows].to(network.device)
        z = network.prior(Draws.numbered(derive(seed, "levels"), rows.tolist(), network.device))
        parts.append({height: made.cpu() for height, made in network.completed(x, z, y).items()})
        if not parts[0]:
            return {}
    made = {height: torch.cat([part[height] for part in parts]) for height in parts[0]}
    return {
        f"frechet_from_{height}": reference.compare(look(reference.judge, x))["frechet"] for height, x in made.items()
    }


def _stacked(
    trained: Trained, train: Dataset, test: Dataset, judge: System, count: int, seed: int, repeats: int
) -> Figures:
    """Modes of stacks, of the generator, of real ones and of noise; batch by batch, since they are many."""
    found = [
        modes.stacked_figures(judge, (x for x, _ in _batches(trained, train, count, derive(seed, "sampling", repeat))))
        for repeat in range(repeats)
    ]
    real = modes.stacked_figures(judge, _real(test, count))
    noise = modes.stacked_figures(judge, _noise(test.shape, count, seed))
    controls = {
        f"{name}_{kind}": value for kind, part in (("real", real), ("noise", noise)) for name, value in part.items()
    }
    return _spread(found) | controls


@torch.no_grad()
def _restored(trained: Trained, train: Dataset, test: Dataset) -> Figures:
    """The mean squared error of what an autoencoder brings back, over the pixels."""
    figures: Figures = {}
    for name, data in (("restored", test), ("restored_train", train)):
        total = 0.0
        for rows in np.array_split(np.arange(len(data)), -(-len(data) // BATCH)):
            x, y = data.batch(rows).to(trained.network.device), _labels(trained, data, rows)
            errors = (trained.network.reconstruct(x, y) - x).pow(2).flatten(1).mean(1)
            total += float(errors.sum())
        figures[name] = total / len(data)
    return figures


def _samplings(
    trained: Trained, train: Dataset, count: int, seed: int, repeats: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each sampling's images (count, c, h, w) and the labels (count,) that were asked for, on the CPU."""
    for repeat in range(repeats):
        parts = list(_batches(trained, train, count, derive(seed, "sampling", repeat)))
        yield torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _batches(trained: Trained, train: Dataset, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one sampling; labels are drawn as often as the training split has them."""
    device = trained.network.device
    for at in range(0, count, BATCH):
        numbers = range(at, min(at + BATCH, count))
        draws = Draws.numbered(seed, numbers)
        y = train.labels_at(draws.integers(len(train), (1,), "label")[:, 0].numpy())
        yield trained.sample(draws.to(device), y.to(device)).cpu(), y


def _real(data: Dataset, count: int) -> Iterator[Tensor]:
    for at in range(0, min(count, len(data)), BATCH):
        yield data.batch(np.arange(at, min(at + BATCH, count, len(data))))


def _noise(shape: tuple[int, int, int], count: int, seed: int) -> Iterator[Tensor]:
    for at in range(0, count, BATCH):
        numbers = range(at, min(at + BATCH, count))
        draws = Draws.numbered(derive(seed, "noise"), numbers)
        yield draws.uniform(shape, "noise")


def _labels(trained: Trained, data: Dataset, rows: np.ndarray) -> Tensor | None:
    """The labels that a conditional network is told; None for another."""
    return data.labels_at(rows).to(trained.network.device) if trained.network.conditional else None


def _spread(found: list[Figures]) -> Figures:
    """Mean and standard deviation of each figure over the samplings that have it; of one sampling the latter is 0."""
    figures = {}
    for name in found[0]:
        values = np.array([part[name] for part in found])
        values = values[~np.isnan(values)]
        figures[name] = float(values.mean()) if len(values) else math.nan
        figures[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return figures
