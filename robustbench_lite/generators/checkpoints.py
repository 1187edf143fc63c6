"""Generators in files: FILE.safetensors with the weights, FILE.json with the card that tells what they are."""

from pathlib import Path

from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Trained, resolve_generator
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.training import seeded
from robustbench_lite.zoo.checkpoints import read_card
from robustbench_lite.zoo.weights import fill, read_weights

#: what the card of a generator says of its kind
KIND = "generator"


def load_generator(path: str | Path) -> Trained:
    """The generator that `rbl generate train` wrote, in eval mode, frozen, on the CPU.

    Args:
        path: of the .safetensors or of the .json.

    Raises:
        UserError: a file that is missing, corrupt, no generator's, or does not belong to its card.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".json"):
        raise UserError(f"{str(path)!r} is no generator; accepted: FILE.safetensors with its card FILE.json beside it")
    file = path.with_suffix(".safetensors")
    if not file.is_file():
        raise UserError(f"there is no file {str(file)!r}; rbl generate train --out {file} makes one")
    card = read_card(path.with_suffix(".json"))
    if card.get("kind") != KIND:
        raise UserError(f"{str(file)!r} holds a classifier, not a generator; rbl generate train makes one")
    weights, _ = read_weights(file)
    digest = hash_tensors(weights)
    if card.get("weights") != digest:
        raise UserError(f"{str(file)!r} does not hold the weights that its card was written for; one was replaced")
    generator = resolve_generator(str(card["architecture"]))
    try:
        channels, height, width = map(int, card["input_shape"])
        classes = int(card["num_classes"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"the card of {str(file)!r} lacks input_shape or num_classes") from None
    with seeded(0):
        network = generator.build((channels, height, width), classes)
    fill(network, weights, file)
    return Trained(
        network=network.eval().requires_grad_(False), card=card, name=f"{generator.name}:{path}", digest=digest
    )
