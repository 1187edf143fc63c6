"""What a fresh probe finds in a hidden layer: a network's own adversary may only have been beaten."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.nuisances import Nuisance
from robustbench_lite.errors import UserError, unknown
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.training import derive, seeded

#: images that a probe learns from and is tested on, together; the share that it learns from
_MOST, _LEARNED = 4000, 0.7
_STEPS, _RATE, _HIDDEN, _BLOCK = 400, 0.01, 64, 256


@contextmanager
def tapped(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Inside, every forward of the model appends its hidden layer, (n, ...), to the list.

    Args:
        layer: the name of the module whose output it is; None: what goes into the last linear layer.

    Raises:
        UserError: there is no such module.
    """
    parts, seen = dict(model.named_modules()), list[Tensor]()
    if layer is not None:
        if layer not in parts:
            raise unknown("layer", layer, [name for name in parts if name])
        hook = parts[layer].register_forward_hook(lambda module, args, output: seen.append(output))
    else:
        linear = [part for part in parts.values() if isinstance(part, nn.Linear)]
        if not linear:
            raise UserError(f"{type(model).__name__} has no linear layer; name the hidden one: layer=NAME")
        hook = linear[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


@torch.no_grad()
def features(system: System, layer: str | None, x: Tensor, draws: Draws | None = None) -> Tensor:
    """The hidden layer of images (n, c, h, w), (n, width), in eval mode."""
    system.model.eval()
    with tapped(system.model, layer) as seen:
        system(x, draws)
    return seen[-1].flatten(1)


def width_at(system: System, layer: str | None) -> int:
    """How many numbers the hidden layer has."""
    return features(system, layer, torch.zeros((1, *system.input_shape), device=system.device)).shape[1]


def evidence(system: System, layer: str | None, nuisance: Nuisance, workshop: Workshop) -> dict[str, float]:
    """The accuracies of a linear probe and of one with a hidden layer that learn the nuisance from frozen features.

    The probes learn from 70 % of up to 4000 training images, each spoiled once, and are tested on the others.
    """
    count = min(_MOST, len(workshop.train))
    chosen = np.random.default_rng(derive(workshop.seed, "probe")).permutation(len(workshop.train))[:count]
    parts, answers = [], []
    for at in np.array_split(chosen, -(-count // _BLOCK)):
        x, y = workshop.train.batch(at), workshop.train.labels_at(at)
        draws = Draws.for_images(derive(workshop.seed, "probe"), x, y).to(system.device)
        which = draws.integers(nuisance.count, (1,), "nuisance").squeeze(1)
        spoiled = nuisance.spoil(system, x.to(system.device), y.to(system.device), which, draws)
        parts.append(features(system, layer, spoiled, draws))
        answers.append(which)
    h, s = torch.cat(parts), torch.cat(answers)
    return {
        kind: probe(h, s, nuisance.count, hidden, workshop.seed) for kind, hidden in (("linear", 0), ("mlp", _HIDDEN))
    }


def probe(h: Tensor, s: Tensor, count: int, hidden: int, seed: int) -> float:
    """Accuracy on the last 30 % of a fresh probe that has learned s (n,) int64 from the first 70 % of h (n, width).

    Args:
        hidden: units of its hidden layer; 0 for a linear probe.
    """
    first = round(_LEARNED * len(h))
    h = (h - h[:first].mean(0)) / h[:first].std(0).clamp_min(1e-6)
    with seeded(derive(seed, "probe", hidden)):
        sizes = [nn.Linear(h.shape[1], hidden or count)] + ([nn.ReLU(), nn.Linear(hidden, count)] if hidden else [])
    network = nn.Sequential(*sizes).to(h.device)
    optimizer = torch.optim.Adam(network.parameters(), _RATE, weight_decay=1e-4)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(network(h[:first]), s[:first]).backward()
        optimizer.step()
    with torch.no_grad():
        right = network(h[first:]).argmax(1) == s[first:]
    return float(right.double().mean())
