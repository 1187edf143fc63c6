"""Adversarial examples, with the right labels, put into the training set once and for all."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.data.base import Dataset, Images
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.robust import TrainsAgainst, cross_entropy
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import Hasher
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Moment

_BATCH = 256


def _pgd() -> Attack:
    return resolve_attack("pgd:steps=10,step_size=1/4,restarts=1")


@dataclass(frozen=True, kw_only=True)
class StaticAdversarials(TrainsAgainst):
    """Train on the data and, once, on adversarial examples of an ordinarily trained network, correctly labelled.

    Worthless as a defense, and here to show that: the new network is right on those very examples, and as defenceless as
    ever against fresh ones, which are made for itself (Szegedy et al. 2014 and everybody since make them anew during the
    training: `adversarial-training`). Its card says how many of the added examples it is right on; that is no robustness.

    The frozen network is what `none` trains with the same seed and recipe. Nothing is held out: an image and its
    adversarial twin would come to lie on both sides.

    Args:
        attack: makes the examples, one for every training image.
        threat: what they may do; left out, the first threat of the evaluation that has a radius.
    """

    name: ClassVar[str] = "static-adversarials"
    source: ClassVar[str] = "Szegedy et al. 2014, Intriguing properties of neural networks, arXiv 1312.6199, sec. 4.3"
    attack: Attack = field(default_factory=_pgd)
    early_stopping: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early_stopping:
            raise UserError(f"{self.name}: early_stopping=true; accepted: false, since nothing can be held out")

    def inner(self) -> tuple[Attack, ...]:
        """The attack that makes the examples."""
        return (self.attack,)

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place, after a copy of it that the examples are made on.

        Raises:
            UserError: no threat with a radius, or an attack that does not know its norm.
        """
        threat = self.checked(self.trained_against(workshop), system.num_classes)
        recipe = self.recipe_for(workshop, system)
        seen = system.without_detector()
        frozen = seen.with_model(copy.deepcopy(system.model))
        first = None if workshop.scratch is None else workshop.scratch / "frozen"
        frozen = training.standard_training(frozen, replace(workshop, scratch=first), recipe)
        added = adversarial_copies(frozen, self.attack, threat, workshop.train, workshop.seed)
        data = grown(workshop.train, added)

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            return cross_entropy(seen, batch.x, batch)

        fitted = training.fit(
            system.model,
            data,
            loss,
            recipe=recipe,
            seed=workshop.seed,
            device=workshop.device,
            progress=workshop.progress,
            scratch=workshop.scratch,
        )
        told = {
            "added": len(added),
            "made_on": frozen.digest,
            "made_by": str(self.attack),
            "threat": str(threat),
            "broke_when_made": 1 - right_on_added(frozen, data, len(added)),
            "right_on_added": right_on_added(seen, data, len(added)),
        }
        return system.with_notes(fitted.notes(**told))


@dataclass(frozen=True, eq=False)
class WithTwins:
    """Images as they are stored, and behind them others, (m, c, h, w) float32 in [0, 1]."""

    originals: Images
    twins: np.ndarray

    def __len__(self) -> int:
        return len(self.originals) + len(self.twins)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at these positions, (m, c, h, w) float32."""
        count = len(self.originals)
        images = np.empty((len(indices), *self.twins.shape[1:]), dtype=np.float32)
        old = indices < count
        stored = self.originals.take(indices[old])
        images[old] = stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else stored
        images[~old] = self.twins[indices[~old] - count]
        return images

    def feed(self, state: Hasher) -> None:
        """Hash what the images are."""
        self.originals.feed(state)
        state.update(np.ascontiguousarray(self.twins).data)


def grown(data: Dataset, added: np.ndarray) -> Dataset:
    """The data and, behind it, a twin of every image (n, c, h, w) with the label of its original."""
    if added.shape != (len(data), *data.shape):
        raise ValueError(f"twins {added.shape} of {len(data)} images {data.shape}")
    labels = np.concatenate([data.labels, data.labels])
    return replace(data, images=WithTwins(data.images, added), labels=labels)


def adversarial_copies(system: System, attack: Attack, threat: Threat, data: Dataset, seed: int) -> np.ndarray:
    """An adversarial example of every image of the data, (n, c, h, w) float32, away from its true label."""
    parts = []
    for x, y in _batches(data, np.arange(len(data)), system.device):
        draws = Draws.for_images(training.derive(seed, "static-adversarials"), x, y).to(system.device)
        parts.append(craft(attack, system, x, Goal(y=y), threat, draws).cpu().numpy())
    return np.concatenate(parts)


def right_on_added(system: System, data: Dataset, count: int) -> float:
    """The share of the last `count` images of the data that the system is right on."""
    rows = np.arange(len(data) - count, len(data))
    return training.clean_validation(system, 0)(system.model, data, rows).clean


def _batches(data: Dataset, rows: np.ndarray, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for begin in range(0, len(rows), _BATCH):
        chosen = rows[begin : begin + _BATCH]
        yield data.batch(chosen).to(device), data.labels_at(chosen).to(device)
