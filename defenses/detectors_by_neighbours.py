"""Detectors that weigh how strange each of the last layers is: by Mahalanobis distances, or by local dimension."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacks.options import at_least
from robustbench_lite.defenses.activations import listen
from robustbench_lite.defenses.detectors import Bench, Fitted, TaughtDetector, spread, squares
from robustbench_lite.errors import UserError
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: added to the diagonal of a covariance, as a share of its mean: there may be more units than images
_RIDGE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class _Layered(TaughtDetector):
    """A figure for each of the last layers, weighed by a logistic regression on adversarial examples."""

    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "layers", 1)

    def figures(self, model: nn.Module, fitted: Fitted) -> "Figures":
        """Images to a figure a layer."""
        raise NotImplementedError

    def facts(self, bench: Bench) -> Fitted:
        """What the figures need."""
        raise NotImplementedError

    def fit(self, bench: Bench, threat: Threat | None) -> Fitted:
        """The layers' facts, then their weights."""
        assert threat is not None
        cut = len(bench.x) // 2
        rows = torch.arange(len(bench.x), device=bench.x.device)
        facts = self.facts(bench[rows[:cut]])  # the other half is nobody's neighbour, as a new image is not
        passing, fooling = self.lessons(bench[rows[cut:]], threat)
        figures = self.figures(bench.model, facts).to(bench.x.device)
        return {**facts, **_weights(bench.over(figures, passing), bench.over(figures, fooling))}

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """The weighted sum."""
        return Weighed(self.figures(system.model, fitted), fitted)


class Figures(nn.Module):
    """Images to (n, layers) float64, larger = stranger."""

    def __init__(self, model: nn.Module, layers: int, fitted: Fitted) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        for name, value in fitted.items():
            if name.rpartition("_")[2].isdigit():
                self.register_buffer(name, value.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, layers)."""
        return torch.stack([self.figure(units, place) for place, units in enumerate(self.units(x))], 1)

    def units(self, x: Tensor) -> list[Tensor]:
        """(n, c, h, w) -> a matrix (n, d) float64 a layer."""
        return [layer.pooled().double() for layer in listen(self.model, x, self.layers)[1]]

    def figure(self, units: Tensor, place: int) -> Tensor:
        """The figure of one layer's units (n, d), (n,)."""
        raise NotImplementedError


class Weighed(nn.Module):
    """A linear function of standardised figures, (n,)."""

    weights: Tensor
    shift: Tensor

    def __init__(self, figures: nn.Module, fitted: Fitted) -> None:
        super().__init__()
        self.figures = figures
        self.register_buffer("weights", fitted["weights"].clone())
        self.register_buffer("shift", fitted["shift"].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n,)."""
        return self.figures(x) @ self.weights + self.shift


def _weights(good: Tensor, bad: Tensor) -> Fitted:
    """Logistic regression of figures (n, layers) of what must pass and what must not."""
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat((good, bad)).double().cpu()
    centre, scale = rows.mean(0), spread(rows)
    wanted = np.repeat((0, 1), (len(good), len(bad)))
    found = LogisticRegression(class_weight="balanced").fit(((rows - centre) / scale).numpy(), wanted)
    weights = torch.from_numpy(found.coef_[0].copy()) / scale
    return {"weights": weights, "shift": torch.tensor(float(found.intercept_[0])).double() - weights @ centre}


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(_Layered):
    """Reject what lies far from every class mean, measured by the covariance within classes.

    For each of the last layers (of maps their means over places) the smallest Mahalanobis distance to a class mean, with
    one covariance for all classes; a logistic regression weighs the layers. With a `magnitude` the image is first moved
    towards the nearest mean, anew for each layer: by so much along the sign of the distance's gradient, which clean images
    are said to follow further. The score is smooth but for these signs, which are constant almost everywhere, so the
    adaptive adversary follows it.

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
        attacks: whose successful examples it learns, joined by `+`. threat: under which they are made; left out, the first
            threat of the evaluation that has a radius.
        layers: how many of the last activations it looks at.
        magnitude: m, in the unit of an image in [0, 1]; the paper chooses among 0 and 0.0005 to 0.01. A layer then costs a
            forward and a backward more.
    """

    name: ClassVar[str] = "mahalanobis"
    source: ClassVar[str] = (
        "Lee, Lee, Lee and Shin 2018, A simple unified framework for detecting out-of-distribution samples and "
        "adversarial attacks, arXiv 1807.03888"
    )
    magnitude: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.magnitude <= 1:
            raise UserError(f"{self.name}: magnitude={self.magnitude:g}; accepted: 0 to 1, such as 0.005")

    def facts(self, bench: Bench) -> Fitted:
        """Class means and a whitening matrix for each layer."""
        found: Fitted = {}
        labels = bench.y.unique()
        for place, units in enumerate(units_of(bench, self.layers)):
            means = torch.stack([units[bench.y == label].mean(0) for label in labels])
            inside = units - means[torch.searchsorted(labels, bench.y)]
            covariance = inside.T @ inside / len(units)
            ridge = _RIDGE * covariance.diagonal().mean().clamp(min=_TINY)
            eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            factor = torch.linalg.cholesky(torch.linalg.inv(covariance + ridge * eye))
            found |= {f"means_{place}": means, f"factor_{place}": factor}
        return found

    def figures(self, model: nn.Module, fitted: Fitted) -> Figures:
        """A distance a layer."""
        return Distances(model, self.layers, fitted, self.magnitude)


class Distances(Figures):
    """Of each layer the squared Mahalanobis distance to the nearest class mean."""

    def __init__(self, model: nn.Module, layers: int, fitted: Fitted, magnitude: float = 0.0) -> None:
        super().__init__(model, layers, fitted)
        self.magnitude = magnitude

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, layers)."""
        if not self.magnitude:
            return super().forward(x)
        places = [place for place in range(self.layers) if hasattr(self, f"means_{place}")]
        return torch.stack([self._at(self._moved(x, place), place) for place in places], 1)

    def _moved(self, x: Tensor, place: int) -> Tensor:
        """x, moved down the layer's distance; a sign has no slope, so that of the image is all there is."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._at(leaf, place).sum(), leaf)
        return x - self.magnitude * slope.sign()

    def _at(self, x: Tensor, place: int) -> Tensor:
        return self.figure(self.units(x)[place], place)

    def figure(self, units: Tensor, place: int) -> Tensor:
        """min_c (h - m_c)' S^-1 (h - m_c)."""
        factor = self.get_buffer(f"factor_{place}")
        return squares(units @ factor, self.get_buffer(f"means_{place}") @ factor).amin(1)


@dataclass(frozen=True, kw_only=True)
class LID(_Layered):
    """Reject where the local intrinsic dimension of the activations is high.

    For each of the last layers the dimension is estimated from the distances d_1 < … < d_k to the k nearest of a fixed
    batch of training images, -1 / mean(ln(d_i / d_k)); a logistic regression weighs the layers. Plain attacks with high
    confidence already leave little of it (Athalye et al. 2018, arXiv 1802.00420, sec. 5.2).

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
        attacks: whose successful examples it learns, joined by `+`. threat: under which they are made; left out, the first
            threat of the evaluation that has a radius.
        layers: how many of the last activations it looks at.
        neighbours: k. batch: of how many images.
    """

    name: ClassVar[str] = "lid"
    source: ClassVar[str] = (
        "Ma et al. 2018, Characterizing adversarial subspaces using local intrinsic dimensionality, arXiv 1801.02613, alg. 1"
    )
    neighbours: int = 20
    batch: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 2 or self.batch < self.neighbours:
            raise UserError(
                f"lid: neighbours={self.neighbours}, batch={self.batch}; accepted: neighbours from 2, and no smaller batch"
            )

    def facts(self, bench: Bench) -> Fitted:
        """The batch's units in each layer."""
        return {f"batch_{place}": units[: self.batch] for place, units in enumerate(units_of(bench, self.layers))}

    def figures(self, model: nn.Module, fitted: Fitted) -> Figures:
        """A dimension a layer."""
        return Dimensions(model, self.layers, fitted, self.neighbours)


class Dimensions(Figures):
    """Of each layer the local intrinsic dimension."""

    def __init__(self, model: nn.Module, layers: int, fitted: Fitted, neighbours: int) -> None:
        super().__init__(model, layers, fitted)
        self.neighbours = neighbours

    def figure(self, units: Tensor, place: int) -> Tensor:
        """-1 / mean(ln(d_i / d_k)) over the k nearest."""
        batch = self.get_buffer(f"batch_{place}")
        count = min(self.neighbours, len(batch))
        logs = (squares(units, batch).topk(count, largest=False).values + _TINY).log() / 2
        return 1 / ((logs[:, -1:] - logs).mean(1) + 1e-3)


def units_of(bench: Bench, layers: int) -> list[Tensor]:
    """The pooled activations of the bench's images, a matrix (n, d) float64 a layer."""
    widths: list[int] = []

    def look(x: Tensor) -> Tensor:
        parts = [layer.pooled().double() for layer in listen(bench.model, x, layers)[1]]
        widths[:] = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    return list(bench.over(look).split(widths, 1)) if len(bench.x) else []
