"""SafetyNet: a support vector machine on which late units are on, and how much."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.defenses.activations import listen, together
from robustbench_lite.defenses.detectors import Bench, Fitted, TaughtDetector, squares
from robustbench_lite.system import System, straight_through
from robustbench_lite.threat import Threat

COSTS, FACTORS = (1.0, 10.0, 100.0), (0.1, 1.0, 10.0, 100.0)
#: how many examples the machine and its constants are chosen on at most, of each kind
_CHOSEN_ON, _FOLDS = 400, 5


@dataclass(frozen=True, kw_only=True)
class SafetyNet(TaughtDetector):
    """Reject by the codes of late units: each quantised to a few levels, judged by an SVM that has seen attacks.

    A unit's level counts how many of its thresholds it exceeds: 0, and quantiles of its positive activations on clean
    images; of a map, its mean counts. The machine, with a radial kernel, tells the codes of clean and of noisy images
    from those of successful adversarial examples. It is meant to be hard to attack twice over: quantisation has no
    gradient, and a narrow kernel none far from its support vectors. Neither stops who knows it: the gradient goes through
    sigmoids instead of steps (BPDA), and through the logarithms of the kernel's sums, which do not vanish.

    Args:
        fpr: share of clean held-out images that are rejected; sets the threshold.
        images: training images to look at, at most. apart: share of them that the classifier, trained without them, has
            not learned from, to set the threshold on; 0 takes some that it may have.
        attacks: whose successful examples it learns, joined by `+`. threat: under which they are made; left out, the first
            threat of the evaluation that has a radius.
        layers: how many of the last activations it looks at.
        levels: of a unit's code, 2 and more.
        slope: of the sigmoids that the adaptive adversary differentiates, per mean activation of the unit.
        examples: most examples of each kind that the machine is trained on.
    """

    name: ClassVar[str] = "safetynet"
    source: ClassVar[str] = (
        "Lu, Issaranon and Forsyth 2017, SafetyNet: detecting and rejecting adversarial examples robustly, arXiv 1704.00103"
    )
    layers: int = 1
    levels: int = 5
    slope: float = 20.0
    examples: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("layers", 1), ("levels", 2), ("examples", 2)):
            at_least(self, option, least)
        positive(self, "slope")

    def fit(self, bench: Bench, threat: Threat | None) -> Fitted:
        """Thresholds of the codes, then the machine."""
        assert threat is not None
        quantiser = _thresholds(bench.over(lambda x: potentials(bench.model, x, self.layers)), self.levels)
        passing, fooling = self.lessons(bench, threat)
        coder = Coder(bench.model, quantiser, self.layers, self.slope).to(bench.x.device)
        good, bad = (bench.over(coder, _some(x, self.examples, bench.seed)).cpu().numpy() for x in (passing, fooling))
        return {**quantiser, **_machine(good, bad, bench.seed)}

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """Codes, then the machine's decision function."""
        return Machine(Coder(system.model, fitted, self.layers, self.slope), fitted)


def potentials(model: nn.Module, x: Tensor, layers: int) -> Tensor:
    """The units of the last layers, (n, d) float64, before they are cut at 0 where they are vectors."""
    return together(layer.potential() for layer in listen(model, x, layers)[1])


class Coder(nn.Module):
    """Images to codes (n, d) in [0, 1]: of each unit the share of its thresholds that it exceeds."""

    thresholds: Tensor
    unit: Tensor

    def __init__(self, model: nn.Module, fitted: Fitted, layers: int, slope: float) -> None:
        super().__init__()
        self.model, self.layers, self.slope = model, layers, slope
        self.register_buffer("thresholds", fitted["thresholds"].clone())
        self.register_buffer("unit", fitted["unit"].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, d) float64: steps in value, sigmoids in gradient."""
        above = potentials(self.model, x, self.layers)[:, :, None] - self.thresholds
        hard = (above > 0).double().mean(2)
        return straight_through(hard, torch.sigmoid(self.slope * above / self.unit[:, None]).mean(2))


class Machine(nn.Module):
    """The decision function of a support vector machine with a radial kernel, in float64."""

    vectors: Tensor
    weights: Tensor
    shift: Tensor
    gamma: Tensor

    def __init__(self, coder: nn.Module, fitted: Fitted) -> None:
        super().__init__()
        self.coder = coder
        for name in ("vectors", "weights", "shift", "gamma"):
            self.register_buffer(name, fitted[name].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n,) float64."""
        return self.decide(self.coder(x))

    def decide(self, codes: Tensor) -> Tensor:
        """sum_i a_i exp(-gamma |c - v_i|^2) + b of codes (n, d).

        The gradient is that of ln P - ln N, where P and N are the sums of the positive and of the negative terms: it leads
        to the same side, and does not vanish however narrow the kernel is.
        """
        powers = -self.gamma * squares(codes, self.vectors)
        value = powers.exp() @ self.weights + self.shift
        return straight_through(value.detach(), self._side(powers, 1.0) - self._side(powers, -1.0))

    def _side(self, powers: Tensor, sign: float) -> Tensor:
        logs = torch.log((sign * self.weights).clamp(min=0))
        return torch.logsumexp(powers + logs, 1)


def _thresholds(units: Tensor, levels: int) -> Fitted:
    """0 and quantiles of each unit's positive values, (d, levels - 1), and their mean, (d,); of units (n, d)."""
    positive = torch.where(units > 0, units, torch.nan)
    shares = torch.arange(1, levels - 1, dtype=units.dtype, device=units.device) / (levels - 1)
    quantiles = torch.nanquantile(positive, shares, dim=0).T if levels > 2 else units.new_zeros((units.shape[1], 0))
    quantiles = quantiles.nan_to_num(nan=0.0)
    mean = positive.nanmean(0).nan_to_num(nan=1.0)
    return {"thresholds": torch.cat((torch.zeros_like(mean)[:, None], quantiles), 1), "unit": mean}


def _some(x: Tensor, most: int, seed: int) -> Tensor:
    """At most so many of the images, drawn by the seed."""
    chosen = np.random.default_rng([seed, 0x5AFE]).permutation(len(x))[:most]
    return x[torch.from_numpy(np.sort(chosen)).to(x.device)]


def _machine(good: np.ndarray, bad: np.ndarray, seed: int) -> Fitted:
    """Train on codes (n, d) of what must pass and what must not; C and gamma by cross-validated AUC."""
    from sklearn.svm import SVC

    codes = np.concatenate((good, bad))
    wanted = np.repeat((0, 1), (len(good), len(bad)))
    cost, gamma = _chosen(good, bad, seed)
    machine = SVC(kernel="rbf", C=cost, gamma=gamma, class_weight="balanced").fit(codes, wanted)
    return {
        "vectors": torch.from_numpy(machine.support_vectors_.copy()),
        "weights": torch.from_numpy(machine.dual_coef_[0].copy()),
        "shift": torch.tensor(float(machine.intercept_[0]), dtype=torch.float64),
        "gamma": torch.tensor(float(gamma), dtype=torch.float64),
        "cost": torch.tensor(cost, dtype=torch.float64),
    }


def _chosen(good: np.ndarray, bad: np.ndarray, seed: int) -> tuple[float, float]:
    """C and gamma with the largest cross-validated AUC; of equals the first."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import SVC

    random = np.random.default_rng([seed, 0xC4])
    good, bad = (rows[random.permutation(len(rows))[:_CHOSEN_ON]] for rows in (good, bad))
    codes, wanted = np.concatenate((good, bad)), np.repeat((0, 1), (len(good), len(bad)))
    scale = 1.0 / max(codes.shape[1] * float(codes.var()), 1e-12)
    folds = min(_FOLDS, len(good), len(bad))
    if folds < 2:
        return 10.0, scale
    split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    best = (-1.0, COSTS[0], scale)
    for cost in COSTS:
        for factor in FACTORS:
            machine = SVC(kernel="rbf", C=cost, gamma=factor * scale, class_weight="balanced")
            found = float(cross_val_score(machine, codes, wanted, cv=split, scoring="roc_auc").mean())
            if found > best[0]:
                best = (found, cost, factor * scale)
    return best[1], best[2]
