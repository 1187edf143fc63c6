"""Affine models in closed form, worked out without the package's geometry; and what an attack asks on its way."""

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attack import Attack, Goal, craft
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


def worst_move(slope: np.ndarray, x: np.ndarray, norm: str, eps: float) -> np.ndarray:
    """The perturbation of one image (d,) in ball and box with the largest product with the slope (d,)."""
    room = np.where(slope > 0, 1 - x, x)
    if norm == "Linf":
        return np.sign(slope) * np.minimum(eps, room)
    if norm == "L2":
        low, high = 0.0, 1e6
        for _ in range(200):
            level = (low + high) / 2
            inside = np.linalg.norm(np.minimum(level * abs(slope), room)) <= eps
            low, high = (level, high) if inside else (low, level)
        return np.sign(slope) * np.minimum(low * abs(slope), room)
    move, left = np.zeros_like(x), eps
    for i in np.argsort(-abs(slope * (room if norm == "L0" else 1))):
        spent = room[i] if norm == "L0" else min(room[i], left)
        move[i] = np.sign(slope[i]) * spent
        left -= 1 if norm == "L0" else spent
        if left <= 0:
            break
    return move


def weights(system: System) -> tuple[np.ndarray, np.ndarray]:
    """W (k, d) and b (k,) of an affine system."""
    return system.model.weight.detach().numpy(), system.model.bias.detach().numpy()


def worst_margins(system: System, x: Tensor, y: Tensor, threat: Threat) -> np.ndarray:
    """(n, k): the largest z_k - z_y in ball and box; -inf for k = y."""
    w, b = weights(system)
    found = np.full((len(x), len(w)), -np.inf)
    for i, (image, label) in enumerate(zip(x.double().flatten(1).numpy(), y.tolist(), strict=True)):
        for k in set(range(len(w))) - {label}:
            slope = w[k] - w[label]
            far = image + worst_move(slope, image, threat.norm, threat.eps)
            found[i, k] = slope @ far + b[k] - b[label]
    return found


def margins_to(system: System, adv: Tensor, y: Tensor, target: Tensor) -> np.ndarray:
    """z_target - z_y at adv, (n,), in double precision."""
    w, b = weights(system)
    z = adv.double().flatten(1).numpy() @ w.T + b
    rows = np.arange(len(z))
    return z[rows, target] - z[rows, y]


class Recorder(nn.Module):
    """A model that remembers every image that it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.model(x)


def points(attack: Attack, system: System, x: Tensor, goal: Goal, threat: Threat, draws: object) -> Tensor:
    """Every point that one lane queries, and its last: (steps + 1, n, c, h, w)."""
    recorder = Recorder(system.model)
    last = craft(attack, system.with_model(recorder), x, goal, threat, draws)
    return torch.stack([*recorder.seen, last])


def scaled(system: System, factor: float) -> System:
    """The same affine system with its logits multiplied."""
    w, b = (torch.from_numpy(part) for part in weights(system))
    return system.with_model(type(system.model)(factor * w, factor * b))
