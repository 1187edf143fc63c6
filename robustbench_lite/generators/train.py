"""`train_generator`: from a description and a dataset to a trained generator, kept by content."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustbench_lite import __version__, training
from robustbench_lite import data as datasets
from robustbench_lite.cache import Card, load_or_train, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.devices import find_device
from robustbench_lite.generators.base import Generator, Network, Play, Trained, resolve_generator
from robustbench_lite.generators.checkpoints import KIND
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_plugin, hash_tensors
from robustbench_lite.randomness import Draws
from robustbench_lite.zoo.checkpoints import checkpoint_place, save_checkpoint

#: how many images show how a training goes, and how many epochs of it are kept
_SHOWN, _KEPT = 10, 12
#: prefix of what `carry` holds for each figure
_FIGURE, _IMAGES, _CLOCK = "figure.", "images", "seconds"
#: (epochs whose images are kept, images (as many, shown, c, h, w))
Look = Callable[[list[int], Tensor], None]


def train_generator(
    generator: str | Generator = "vae",
    dataset: str | Dataset = "digits",
    *,
    seed: int = 0,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    ema: float | None = None,
    device: str | torch.device = "auto",
    data_root: str | Path | None = None,
    download: bool = False,
    use_cache: bool = True,
    progress: training.Progress | None = None,
    look: Look | None = None,
) -> Trained:
    """Train a generator on the training split of a dataset; the same content is not trained twice.

    Args:
        generator: a spec such as `vae:latent=8`. dataset: a spec, or a training split.
        out: FILE.safetensors to write, with its card FILE.json beside it.
        epochs, batch_size, learning_rate, ema: instead of the generator's own recipe.
        use_cache: whether a cached training of the same content is good enough.
        progress: called with (steps done, steps in all, one line of text).
        look: called where the images of an epoch are kept, to draw them: how the training goes, seen.

    Returns:
        The generator, in eval mode, frozen, on its device; its card tells data, recipe, seed, figures of every epoch,
        and what the training came to.

    Raises:
        UserError: a name, option or file that is not accepted, a training that diverged, or one that came to nothing.
    """
    chosen, place = resolve_generator(generator), find_device(device)
    target = None if out is None else checkpoint_place(Path(out))
    data = dataset if isinstance(dataset, Dataset) else _training_split(dataset, data_root, download)
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "ema": ema}
    recipe = replace(chosen.recipe(data), **{name: value for name, value in changes.items() if value is not None})
    with training.seeded(training.derive(seed, "generator")):
        network = chosen.build(data.shape, data.num_classes)
    with torch.no_grad():
        chosen.prepare(network, data)

    def train(scratch: Path | None) -> Card:
        watcher = _Watcher(network=network, play=chosen.play(network, recipe), look=look, recipe=recipe)
        fitted = training.fit(
            network, data, watcher.play.loss, recipe=recipe, seed=seed, device=place, progress=progress,
            scratch=scratch, carry=watcher.carry, watch=watcher,
        )  # fmt: skip
        return {
            **_about(chosen, data, seed, place),
            **fitted.notes(figures=watcher.figures()),
            "seconds": round(watcher.seconds(), 1),
            "outcome": {**chosen.verdict(network, data), **_alarms(watcher.figures())},
        }

    key = hash_json(_facts(chosen, network, data, recipe, seed, place))
    card = load_or_train(key, network.to(place), train, fresh=not use_cache)
    assert card is not None
    if target is not None:
        with writing(target.parent):
            save_checkpoint(target, network, card)
    name = f"{chosen.name}:{target}" if target is not None else str(chosen)
    digest = hash_tensors(network.state_dict())
    return Trained(network=network.eval().requires_grad_(False), card=card, name=name, digest=digest)


@dataclass(kw_only=True, eq=False)
class _Watcher:
    """What is kept of every epoch, in tensors, so that a training that goes on has what came before.

    Args:
        carry: the figures of each epoch, what the same latent points look like every few epochs, and seconds.
        told: when the seconds were last told, on the clock of this process.
    """

    network: Network
    play: Play
    recipe: training.Recipe
    look: Look | None
    carry: dict[str, Tensor] = field(default_factory=dict)
    told: float = field(default_factory=lambda: time.monotonic())

    def __call__(self, number: int) -> None:
        """After epoch `number`, from 1."""
        self.carry[_CLOCK], self.told = torch.tensor([self.seconds()], dtype=torch.float64), time.monotonic()
        for name, value in self.play.figures().items():
            key, now = _FIGURE + name, torch.tensor([value], dtype=torch.float64)
            self.carry[key] = torch.cat((self.carry[key].cpu(), now)) if key in self.carry else now
        kept = sorted(_kept(self.recipe.epochs))
        if number in kept:
            now = self.images()[None].cpu()
            self.carry[_IMAGES] = torch.cat((self.carry[_IMAGES].cpu(), now)) if _IMAGES in self.carry else now
            if self.look is not None:
                self.look([epoch for epoch in kept if epoch <= number], self.carry[_IMAGES])

    def seconds(self) -> float:
        """How long the training took so far, with what was spent before it was killed."""
        return float(self.carry.get(_CLOCK, torch.zeros(1))) + time.monotonic() - self.told

    def images(self) -> Tensor:
        """The same latent points each time, (shown, c, h, w); labels one after the other."""
        device = self.network.device
        draws = Draws.numbered(0, range(_SHOWN), device)
        y = torch.arange(_SHOWN, device=device) % max(self.network.num_classes, 1)
        return self.network.decode(self.network.prior(draws), y).clamp(0, 1)

    def figures(self) -> dict[str, list[float]]:
        """Means by name, an epoch each."""
        return {
            name.removeprefix(_FIGURE): values.tolist()
            for name, values in self.carry.items()
            if name.startswith(_FIGURE)
        }


def _kept(epochs: int) -> set[int]:
    """The epochs whose images are kept: evenly spread, the last one among them."""
    if epochs <= _KEPT:
        return set(range(1, epochs + 1))
    return {round((number + 1) * epochs / _KEPT) for number in range(_KEPT)}


def _alarms(figures: dict[str, list[float]]) -> dict[str, Any]:
    """What went wrong without ending the training."""
    won = [number for number, share in enumerate(figures.get("discriminator_won", []), 1) if share > 0.9]
    return {"alarm": f"the discriminator had won in {len(won)} epochs, first in epoch {won[0]}"} if won else {}


def _training_split(text: str, data_root: str | Path | None, download: bool) -> Dataset:
    root = None if data_root is None else Path(data_root)
    return datasets.load(text, "train", root=root, download=download)


def _about(generator: Generator, data: Dataset, seed: int, device: torch.device) -> Card:
    return {
        "kind": KIND,
        "architecture": str(generator),
        "density": generator.density,
        "num_classes": data.num_classes,
        "input_shape": list(data.shape),
        "data": {"name": data.name, "images": len(data), "digest": data.digest()},
        "seed": seed,
        "device": device.type,
        "made_by": f"robustbench-lite {__version__}",
    }


def _facts(
    generator: Generator, network: Network, data: Dataset, recipe: training.Recipe, seed: int, device: torch.device
) -> dict[str, Any]:
    """Everything that decides the trained weights; the initial ones stand for the architecture."""
    return {
        "training": training.VERSION,
        "generator": [str(generator), generator.version, hash_plugin(generator)[0]],
        "weights": hash_tensors(network.state_dict()),
        "data": data.digest(),
        "recipe": asdict(recipe),
        "seed": seed,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": training.threads_for(data, device),
    }
