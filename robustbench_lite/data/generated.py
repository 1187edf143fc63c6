"""`generated:FILE`: images that a generator makes, with labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.base import ArrayImages, Dataset, Split
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws

if TYPE_CHECKING:
    from robustbench_lite.generators import Trained

#: images that are made at a time, and how many are made for one that is kept before that is given up
_BLOCK, _PATIENCE = 256, 50
#: what a judge has to be sure of, where nobody says
_SURE = 0.5
#: images (n, c, h, w) -> logits (n, k)
Judge = Callable[[Tensor], Tensor]


def load(
    *,
    split: Split,
    path: Path,
    spec: str,
    count: int = 1000,
    seed: int = 0,
    judge: str | None = None,
    confidence: float | None = None,
) -> Dataset:
    """Images that the generator in this file makes; training and test images come from different random streams.

    A conditional generator is asked for every class equally often, and its condition is the label. The images of another
    one get the label that a judge reads. A judge also turns away what it reads as another class than the condition, and
    what it is not sure of; as much is made again. Images have 256 levels, as in files.

    A generator knows its training images: evaluate nothing on what it makes that learned from the images it is compared
    with, and let neither generator nor judge learn from test images.

    Args:
        path: of the generator's .safetensors. count: how many images. seed: of the random streams.
        judge: a model with its weights, such as (checkpoint:FILE). confidence: the least probability of the label by the
            judge; left out, 0.5.

    Raises:
        UserError: no such generator, one without a prior, labels that nobody knows, or a judge that turns away nearly all.
    """
    from robustbench_lite.generators import load_generator
    from robustbench_lite.training import derive

    _check(spec, count, judge, confidence)
    trained, sure = load_generator(path), _SURE if confidence is None else confidence
    classes = int(trained.card["num_classes"])
    if not trained.network.conditional and judge is None:
        raise UserError(
            f"{trained.name} is not told a label; name who reads its images: {spec};judge=(checkpoint:FILE)"
        )
    press = _Press(
        trained=trained, judge=None if judge is None else _judge(judge, trained, classes), sure=sure, classes=classes,
        streams=derive(seed, f"generated-{split}"), spec=spec,
    )  # fmt: skip
    images, labels = press.edition(count)
    return Dataset(
        name=spec,
        images=ArrayImages(images),
        labels=labels,
        num_classes=classes,
        shape=trained.network.shape,
        split=split,
        provenance={
            "generator": {
                "file": str(path), "name": trained.name, "weights": trained.digest, "learned from": trained.card.get("data")
            },
            "labels": "condition" if trained.network.conditional else "judge",
            "judge": judge,
            "confidence": None if judge is None else sure,
            "seed": seed,
            "made": press.made,
            "turned away": press.refused,
            "of each class": np.bincount(labels, minlength=classes).tolist(),
        },
    )  # fmt: skip


@dataclass(kw_only=True, eq=False)
class _Press:
    """Makes images until enough are kept, and counts.

    Args:
        made: images so far; each has a random stream of its own. refused: those the judge turned away, by why.
    """

    trained: "Trained"
    judge: Judge | None
    sure: float
    classes: int
    streams: int
    spec: str
    made: int = 0
    refused: dict[str, int] = field(default_factory=lambda: {"another class": 0, "unsure": 0})

    def edition(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (count, c, h, w) uint8 and labels (count,) int64; where the generator is told the class, class by class
        in turn, so that every slice from the first on is balanced."""
        told, kept, labels = self.trained.network.conditional, list[np.ndarray](), list[np.ndarray]()
        missing = np.bincount(np.arange(count) % self.classes, minlength=self.classes) if told else np.array([count])
        while (left := int(missing.sum())) > 0:
            if self.made > _PATIENCE * count + _BLOCK:
                raise UserError(
                    f"{self.spec}: the judge turns away nearly all: {count - left} of {self.made} images are kept; "
                    f"try confidence=0, or a better generator"
                )
            for images, read in self._sheets(_in_turn(np.repeat(np.arange(len(missing)), missing))[0]):
                kept.append(images)
                labels.append(read)
                missing = missing - (np.bincount(read, minlength=self.classes) if told else len(read))
        images, y = np.concatenate(kept), np.concatenate(labels)
        order = _in_turn(y)[1] if told else np.arange(len(y))
        return images[order], y[order]

    def _sheets(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What is kept of an image for each of these classes, block by block."""
        for begin in range(0, len(wanted), _BLOCK):
            asked = torch.from_numpy(wanted[begin : begin + _BLOCK])
            numbers = range(self.made, self.made + len(asked))
            draws = Draws.numbered(self.streams, numbers)
            self.made += len(asked)
            x = (self.trained.sample(draws, asked if self.trained.network.conditional else None) * 255).round() / 255
            y, keep = self._read(x, asked)
            yield (x[keep] * 255).round().to(torch.uint8).numpy(), y[keep].numpy()

    @torch.no_grad()
    def _read(self, x: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The labels (n,), and which images stay (n,) bool."""
        if self.judge is None:
            return asked, torch.ones(len(x), dtype=torch.bool)
        p, read = self.judge(x).softmax(1).max(1)
        strange = read != asked if self.trained.network.conditional else torch.zeros(len(x), dtype=torch.bool)
        unsure = ~strange & ~(p >= self.sure)
        self.refused["another class"] += int(strange.sum())
        self.refused["unsure"] += int(unsure.sum())
        return read, ~(strange | unsure)


def _in_turn(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels (n,) so that each class comes as early and as evenly as it can, and the positions that make it so."""
    turn = np.zeros(len(labels), dtype=np.int64)
    for k in np.unique(labels):
        turn[labels == k] = np.arange(int((labels == k).sum()))
    order = np.lexsort((labels, turn))
    return labels[order], order


def _check(spec: str, count: int, judge: str | None, confidence: float | None) -> None:
    if count < 1:
        raise UserError(f"{spec}: count={count}; accepted: 1 and more")
    if confidence is not None and judge is None:
        raise UserError(f"{spec}: confidence={confidence:g} of whom? name a judge: ;judge=(checkpoint:FILE)")
    if confidence is not None and not 0 <= confidence <= 1:
        raise UserError(f"{spec}: confidence={confidence:g}; accepted: 0 to 1")


def _judge(text: str, trained: "Trained", classes: int) -> Judge:
    from robustbench_lite import zoo

    found = zoo.load(text, num_classes=classes, input_shape=trained.network.shape)
    if not found.trained:
        raise UserError(
            f"judge={text} has no weights, so it cannot read; accepted: checkpoint:FILE, or NAME;weights=FILE"
        )
    return found.module.eval().requires_grad_(False)
