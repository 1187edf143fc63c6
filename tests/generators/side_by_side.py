"""Several seeds of a GAN of points trained at once, their weights stacked: the published 400,000 steps in reach of a CPU.

A step of networks this small is bookkeeping, which stacking shares among the seeds. Weights, order and noise start as
`rbl generate train` has them; sums are taken in another order, so that the weights part in their last bits. What comes out
is the same kind of file, for `rbl generate measure`, and its card says how it was made.

    PYTHONPATH=tests python -P -m generators.side_by_side --generator gan:width=100,discriminator_width=50 \
        --epochs 400 --batch-size 100 --seeds 0 1 2 --out DIR
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import data as datasets
from robustbench_lite import training
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.points import REACH
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import resolve_generator
from robustbench_lite.generators.gan import GAN, AdversarialNetwork
from robustbench_lite.generators.networks import Maxout
from robustbench_lite.generators.train import _about, _alarms
from robustbench_lite.randomness import Draws
from robustbench_lite.training import Recipe
from robustbench_lite.zoo.checkpoints import save_checkpoint

_CPU = torch.device("cpu")


class Stack:
    """The networks of several seeds as tensors with a leading dimension, one of the same place in each network.

    Args:
        networks: of one kind, for points; their weights are read here, and written by `unstack`.
    """

    def __init__(self, networks: Sequence[AdversarialNetwork]) -> None:
        self.networks, self.packing, self.latent = networks, networks[0].packing, networks[0].latent
        self.count = len(networks)
        self.norms = [part for part in networks[0].painter.body if isinstance(part, nn.BatchNorm1d)]
        self.painter = [self._stacked(parts) for parts in self._layers("painter")]
        self.reader = [self._stacked(parts) for parts in self._layers("reader")]

    def _layers(self, side: str) -> Iterator[tuple[nn.Module, ...]]:
        bodies = [getattr(network, side).body for network in self.networks]
        return (parts for parts in zip(*bodies, strict=True) if not isinstance(parts[0], nn.ReLU))

    @staticmethod
    def _stacked(parts: tuple[nn.Module, ...]) -> dict[str, Tensor]:
        """Parameters and running figures of one layer of all networks; maxout's pieces come first, which is faster."""
        if isinstance(parts[0], Maxout):
            pieces = parts[0].pieces
            weight = torch.stack([_pieces_first(part.linear.weight, pieces) for part in parts])
            bias = torch.stack([_pieces_first(part.linear.bias, pieces) for part in parts])
            return {
                "weight": _leaf(weight.transpose(1, 2)),
                "bias": _leaf(bias[:, None]),
                "pieces": torch.tensor(pieces),
            }
        if isinstance(parts[0], nn.BatchNorm1d):
            found = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias")}
            kept = {
                name: torch.cat([getattr(part, name) for part in parts]) for name in ("running_mean", "running_var")
            }
            return {name: _leaf(value) for name, value in found.items()} | kept
        layer = {"weight": _leaf(torch.stack([part.weight for part in parts]).transpose(1, 2))}
        if parts[0].bias is not None:
            layer["bias"] = _leaf(torch.stack([part.bias for part in parts])[:, None])
        return layer

    def parameters(self, side: str) -> list[Tensor]:
        """What is trained on that side."""
        return [layer[name] for layer in getattr(self, side) for name in ("weight", "bias") if name in layer]

    def paint(self, z: Tensor) -> Tensor:
        """z (seeds, n, latent) -> points (seeds, n, 2), as a reader sees them."""
        for layer in self.painter:
            if "running_mean" in layer:
                rows = z.transpose(0, 1).reshape(z.shape[1], -1)
                figures = layer["running_mean"], layer["running_var"], layer["weight"], layer["bias"]
                rows = F.batch_norm(
                    rows, *figures, training=True, momentum=self.norms[0].momentum, eps=self.norms[0].eps
                )
                z = F.relu(rows).view(z.shape[1], self.count, -1).transpose(0, 1)
            else:
                z = torch.bmm(z, layer["weight"])
                z = z + layer["bias"] if "bias" in layer else z
        return z

    def read(self, x: Tensor) -> Tensor:
        """Points (seeds, n, 2) -> logits that they are real, (seeds, n // packing)."""
        x = x.reshape(self.count, -1, self.packing * x.shape[2])
        for layer in self.reader:
            x = torch.baddbmm(layer["bias"], x, layer["weight"])
            if "pieces" in layer:
                x = x.view(self.count, x.shape[1], int(layer["pieces"]), -1).max(2).values
        return x.squeeze(2)

    @torch.no_grad()
    def unstack(self, steps: int) -> None:
        """Give every network the weights that it has here."""
        for side in ("painter", "reader"):
            for layer, parts in zip(getattr(self, side), self._layers(side), strict=True):
                for number, part in enumerate(parts):
                    _put(part, layer, number, steps)


def _put(part: nn.Module, layer: dict[str, Tensor], number: int, steps: int) -> None:
    if isinstance(part, nn.BatchNorm1d):
        width = part.num_features
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(part, name).copy_(layer[name][number * width : (number + 1) * width])
        part.num_batches_tracked.fill_(steps)
        return
    weight = layer["weight"][number].T
    bias = layer["bias"][number, 0] if "bias" in layer else None
    linear = part.linear if isinstance(part, Maxout) else part
    if isinstance(part, Maxout):
        after = len(weight) // part.pieces
        weight, bias = (_pieces_first(value, after) for value in (weight, bias))
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)


def _pieces_first(rows: Tensor, pieces: int) -> Tensor:
    """Rows (after x pieces, ...) in the order pieces x after; with `after` for `pieces` it is undone."""
    return rows.view(-1, pieces, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().contiguous().requires_grad_(True)


def descend(stack: Stack, real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Put the gradients of one simultaneous step into the weights; the losses of both players, (seeds,) each.

    What the reader says of the made points serves both losses: it is computed once.
    """
    made = stack.paint(z)
    shown = made.detach().requires_grad_(True)
    fake = stack.read(shown)
    reader = stack.parameters("reader")
    lost = F.softplus(-stack.read(real)).mean(1) + F.softplus(fake).mean(1)
    for parameter, slope in zip(reader, torch.autograd.grad(lost.sum(), reader, retain_graph=True), strict=True):
        parameter.grad = slope
    missed = F.softplus(-fake).mean(1)
    (wanted,) = torch.autograd.grad(missed.sum(), shown)
    painter = stack.parameters("painter")
    for parameter, slope in zip(painter, torch.autograd.grad(made, painter, wanted), strict=True):
        parameter.grad = slope
    return lost.detach(), missed.detach()


def train(
    chosen: GAN, data: Dataset, recipe: Recipe, seeds: Sequence[int], every: int | None = None
) -> Iterator[tuple[int, list[dict]]]:
    """Train; every so many epochs, their number and a card a seed, with the network under `network`."""
    networks = []
    for seed in seeds:
        with training.seeded(training.derive(seed, "generator")):
            networks.append(chosen.build(data.shape, data.num_classes))
    stack, started = Stack(networks), time.monotonic()
    weights = [*stack.parameters("painter"), *stack.parameters("reader")]
    adam = torch.optim.Adam(weights, recipe.learning_rate, (recipe.beta1, 0.999), fused=True)
    streams = [Draws.numbered(training.derive(seed, "streams"), range(len(data))) for seed in seeds]
    points = ((2 * data.batch(np.arange(len(data))) - 1) * REACH).flatten(1)
    figures: list[dict[str, list[float]]] = [{"discriminator_loss": [], "generator_loss": []} for _ in seeds]
    cuts = -(-len(data) // recipe.batch_size)
    for epoch in range(recipe.epochs):
        orders = [order_of(seed, epoch, len(data)) for seed in seeds]
        noise = [stream.fold(epoch).normal((stack.latent,), "latent") for stream in streams]
        x = torch.stack([points[order] for order in orders])
        z = torch.stack([row[order] for row, order in zip(noise, orders, strict=True)])
        sums = torch.zeros(2, len(seeds))
        for real, latent in zip(x.tensor_split(cuts, 1), z.tensor_split(cuts, 1), strict=True):
            sums += torch.stack(descend(stack, real, latent))
            adam.step()
        for number, figure in enumerate(figures):
            figure["discriminator_loss"].append(float(sums[0, number] / cuts))
            figure["generator_loss"].append(float(sums[1, number] / cuts))
        number = epoch + 1
        if number == recipe.epochs or (every and number % every == 0):
            stack.unstack(number * cuts)
            so_far, seconds = replace(recipe, epochs=number), round(time.monotonic() - started, 1)
            yield (
                number,
                [
                    {
                        **_about(chosen, data, seed, _CPU),
                        **training.Fitted(history=_history(figure), best=number, recipe=so_far).notes(figures=figure),
                        "seconds": seconds,
                        "together_with": [other for other in seeds if other != seed],
                        "outcome": {**_verdict(chosen, network.eval(), data), **_alarms(figure)},
                        "network": network,
                    }
                    for seed, network, figure in zip(seeds, networks, figures, strict=True)
                ],
            )


def _verdict(chosen: GAN, network: AdversarialNetwork, data: Dataset) -> dict[str, object]:
    """What the training came to; a collapse is a finding here, and no mistake."""
    try:
        return chosen.verdict(network, data)
    except UserError as error:
        return {"collapsed": str(error)}


def _history(figure: dict[str, list[float]]) -> tuple[training.Epoch, ...]:
    return tuple(training.Epoch(loss=sum(losses)) for losses in zip(*figure.values(), strict=True))


def order_of(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the rows in an epoch, as the training loop has it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(training.derive(seed, "shuffle", epoch)))


def main(words: Sequence[str] | None = None) -> None:
    """Train what the command line says, and write a checkpoint a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True)
    parser.add_argument("--dataset", default="grid")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=50, help="write checkpoints after so many epochs")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    chosen, data = resolve_generator(asked.generator), datasets.load(asked.dataset, "train")
    assert isinstance(chosen, GAN)
    recipe = replace(chosen.recipe(data), epochs=asked.epochs, batch_size=asked.batch_size)
    asked.out.mkdir(parents=True, exist_ok=True)
    name = asked.generator.replace(":", "-")
    for epochs, cards in train(chosen, data, recipe, asked.seeds, asked.every):
        for card in cards:
            file = asked.out / f"{name}-{asked.batch_size}x{epochs}-{card['seed']}.safetensors"
            save_checkpoint(file, card.pop("network"), card)
            print(json.dumps({"file": file.name, "seconds": card["seconds"], **card["outcome"]}), flush=True)


if __name__ == "__main__":
    main()
