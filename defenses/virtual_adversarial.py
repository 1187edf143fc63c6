"""Virtual adversarial training. Miyato et al. 2018, arXiv 1704.03976 (2015: arXiv 1507.00677)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attacks.options import at_least
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.fitting import Regularised
from robustbench_lite.errors import UserError
from robustbench_lite.rows import along
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Loss, Moment, derive, seeded


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(softmax(before) || softmax(after)) of logits (n, k), (n,) float64; no gradient flows into `before`."""
    p, q = before.detach().double().log_softmax(1), after.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def direction(scores: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, rounds: int, probe: float) -> Tensor:
    """Where the answer changes most: unit vectors (n, c, h, w) along the Hessian's top eigenvector (sec. 3.3).

    The divergence is zero and flat at x, so its gradient at x + probe * d is the Hessian times probe * d: a round of
    the power method. A row whose gradient vanishes keeps what it has.

    Args:
        scores: images -> logits. start: random vectors. rounds: of the power method. probe: the finite difference, xi.
    """
    with torch.no_grad():
        before = scores(x)
    d = _unit(start)
    for _ in range(rounds):
        leaf = (x + probe * d).detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(divergence(before, scores(leaf)).sum(), leaf)
        length = grad.flatten(1).norm(dim=1)
        d = torch.where(along(length > 0, d), _unit(grad), d)
    return d


@dataclass(frozen=True, kw_only=True)
class VirtualAdversarial(Regularised):
    """Let the answer change little along the direction in which it changes most; no label is needed for that.

    L = J(labelled) + alpha KL(p(x) || p(x + r)) over labelled and unlabelled images, r = eps d (eq. 8): p(x) is held fixed,
    the passes share their dropout, and only the first one moves batch statistics. It smooths the model around the data; it
    is a regulariser from semi-supervised learning, not a worst-case defense.

    Args:
        eps: length of r in L2; x + r may leave [0, 1], as published. alpha: weight of the divergence.
        probe: xi, the finite difference; below 1e-3 float32 leaves little of it. rounds: of the power method.
        entropy: weight of the mean entropy of p, which is minimised too (VAT+EntMin); 0 leaves it out.
        unlabelled: this share of the training labels is treated as unknown, the same share of every class.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: keep the most robust epoch on held-out images instead of the last; it looks at their labels.
    """

    name: ClassVar[str] = "virtual-adversarial"
    source: ClassVar[str] = "Miyato et al. 2018, arXiv 1704.03976; 2015, arXiv 1507.00677"
    eps: float = 1.0
    alpha: float = 1.0
    probe: float = 1e-3
    rounds: int = 1
    entropy: float = 0.0
    unlabelled: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("eps", 0), ("alpha", 0), ("entropy", 0), ("rounds", 1)):
            at_least(self, option, least)
        if not 0 < self.probe < float("inf"):
            raise UserError(f"virtual-adversarial: probe={self.probe:g}; accepted: a number above 0, such as 1e-3")
        if not 0 <= self.unlabelled <= 1:
            raise UserError(f"virtual-adversarial: unlabelled={self.unlabelled:g}; accepted: a share from 0 to 1")

    def loss(self, system: System, workshop: Workshop) -> Loss:
        """Cross-entropy where there is a label, and the divergence everywhere."""
        known = torch.from_numpy(labelled(workshop.train.labels, self.unlabelled, workshop.seed))

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            dropout = derive(workshop.seed, "dropout", moment.done)
            scores = _answers(system, batch, dropout)(batch.x)
            with _still_statistics(model):
                total = self.alpha * self.roughness(_answers(system, batch, dropout), scores, batch)
            if self.entropy:
                total = total - self.entropy * (scores.softmax(1) * scores.log_softmax(1)).sum(1).mean()
            return total + supervised(scores, batch.y, known[batch.indices.cpu()].to(batch.y.device))

        return loss

    def roughness(self, answers: Callable[[Tensor], Tensor], scores: Tensor, batch: Batch) -> Tensor:
        """KL(p(x) || p(x + r)), the mean over the batch; `scores` are the logits at x."""
        start = batch.draws.normal(batch.x.shape[1:], "direction")
        r = self.eps * direction(answers, batch.x, start, self.rounds, self.probe)
        return divergence(scores, answers(batch.x + r)).mean().float()


def supervised(scores: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """The mean cross-entropy of the samples whose label is known (n,) bool; 0 where there are none."""
    losses = F.cross_entropy(scores, y, reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def labelled(labels: np.ndarray, unlabelled: float, seed: int) -> np.ndarray:
    """Which labels (n,) stay known, (n,) bool: of every class the same share, rounded up, chosen by the seed."""
    order = np.random.default_rng(derive(seed, "unlabelled")).permutation(len(labels))
    known = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        known[own[: int(np.ceil(round((1 - unlabelled) * len(own), 6)))]] = True
    return known


def _answers(system: System, batch: Batch, dropout: int) -> Callable[[Tensor], Tensor]:
    """The system's logits, with the same dropout each time."""

    def answers(x: Tensor) -> Tensor:
        with seeded(dropout, x.device):
            return system(x, batch.draws, adaptive=True).scores

    return answers


@contextmanager
def _still_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in training mode uses the batch's statistics and does not move its own."""
    live = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [part for part in live if part.training and part.track_running_stats]
    for part in tracked:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracked:
            part.track_running_stats = True


def _unit(vectors: Tensor) -> Tensor:
    """Each row divided by its L2 length; 0 stays 0. By its largest value first: squares of small numbers vanish."""
    largest = vectors.flatten(1).abs().amax(1)
    scaled = vectors / along(largest.clamp_min(torch.finfo(vectors.dtype).tiny), vectors)
    return scaled / along(scaled.flatten(1).norm(dim=1).clamp_min(1e-12), vectors)
