"""From a model and a chain of defenses to the system that is evaluated, with trainings kept by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite import training
from robustbench_lite.cache import Card, load_or_train
from robustbench_lite.data.parts import part
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_plugin
from robustbench_lite.run.subject import fits
from robustbench_lite.system import System
from robustbench_lite.zoo import LoadedModel, Normalized

UNDEFENDED = "none"
#: what `loading` tells of a file of weights
WEIGHTS_NOTES = ("weights", "part", "stripped", "left_out")


def defended_system(
    source: LoadedModel | System,
    chain: Sequence[Defense],
    workshop: Callable[[], Workshop],
    *,
    changes: Mapping[str, Any] | None = None,
    use_cache: bool = True,
) -> System:
    """The system that the chain makes of the model.

    A defense that makes new weights starts from the fresh architecture. Without one, an untrained architecture is
    trained on clean images, and weights that are given are used as they are. The other defenses are put around it, left
    to right.

    Args:
        source: what `zoo.load` found, or a system whose weights are used as they are.
        workshop: called only where something must be trained or built: the training data may not be there.
        changes: to the standard recipe (`epochs`, `batch_size`, `learning_rate`).
        use_cache: whether a cached training is good enough; what is trained is kept in any case.

    Returns:
        The system; `notes["training"]` tells of its training, if there was one.

    Raises:
        UserError: the model does not fit the training data, or the chain does not fit together.
    """
    trainer, wrappers = _roles(chain)
    trained = not isinstance(source, LoadedModel) or source.trained
    given = trainer is None and trained
    share = max((defense.kept_apart() for defense in wrappers), default=0.0)
    if share:
        asking = next(defense for defense in wrappers if defense.kept_apart() == share)
        if given:
            raise UserError(
                f"{asking} keeps training images apart, and the weights are given: nobody knows what they have learned "
                "from; leave apart out, or name an architecture to train"
            )
        workshop = _always(_parted(workshop(), share))
    system = _as_given(source) if given else _trained(source, trainer, workshop(), changes or {}, use_cache)
    for defense in wrappers:
        system = defense.defend(system, workshop())
    return system


def _parted(workshop: Workshop, share: float) -> Workshop:
    """The workshop with a stratified share of its training images kept apart."""
    data = workshop.train
    learned, apart = training.split(data.labels, share, training.derive(workshop.seed, "apart"))
    return Workshop(
        train=part(data, learned), apart=part(data, apart), threats=workshop.threats, seed=workshop.seed,
        device=workshop.device, progress=workshop.progress, scratch=workshop.scratch,
    )  # fmt: skip


def _always(workshop: Workshop) -> Callable[[], Workshop]:
    return lambda: workshop


def _roles(chain: Sequence[Defense]) -> tuple[Defense | None, list[Defense]]:
    """The defense that makes the weights, and those that are put around them."""
    parts = [defense for defense in chain if defense.name != UNDEFENDED]
    late = [defense for defense in parts[1:] if defense.trains]
    if late:
        given, other = "+".join(map(str, parts)), next(part for part in parts if part is not late[0])
        hint = f"write {late[0]}+{other}" if not other.trains else "choose one of them"
        raise UserError(f"{given}: {late[0].name} makes new weights, so nothing can come before it; {hint}")
    return (parts[0], parts[1:]) if parts and parts[0].trains else (None, parts)


def _as_given(source: LoadedModel | System) -> System:
    if isinstance(source, System):
        return source
    card = source.card or {}
    told = {name: card[name] for name in ("architecture", "defense") if name in card}
    return System(
        model=source.module, num_classes=source.num_classes, input_shape=source.input_shape, name=source.name,
        notes={**({"checkpoint": told} if told else {}), **source.notes},
    )  # fmt: skip


def _trained(
    source: LoadedModel | System, trainer: Defense | None, workshop: Workshop, changes: Mapping[str, Any], cached: bool
) -> System:
    """The fresh architecture, trained or read from the cache."""
    system = _fresh(source, workshop.seed)
    fits(system, workshop.train)
    recipe = training.standard_recipe(system, workshop, **changes)
    made: list[System] = []

    def train(scratch: Path | None) -> Card | None:
        shop = replace(workshop, scratch=scratch)
        made.append(
            training.standard_training(system, shop, recipe) if trainer is None else trainer.defend(system, shop)
        )
        told = {**about(source, system), "defense": _text(trainer), "seed": workshop.seed, **made[0].notes}
        return told if _only_weights_changed(system, made[0]) else None

    key = hash_json(_facts(system, trainer, workshop, recipe))
    card = load_or_train(key, system.model, train, fresh=not cached)
    if made or card is None:
        ready = made[0]
    else:
        told = {name: card[name] for name in ("recipe", "training")}
        ready = system.with_notes(told)
    return ready if trainer is None else trainer.dress(ready)


def _fresh(source: LoadedModel | System, seed: int) -> System:
    """The architecture with initial weights that follow from the seed alone."""
    system = untrained_notes(_as_given(source))
    if system.detector is not None:
        raise UserError(
            f"{system.name} rejects images by what its weights were; train the classifier without its detector"
        )
    if isinstance(source, LoadedModel) and source.fresh is not None:
        with training.seeded(seed):
            return system.with_model(source.fresh())
    return system.with_model(training.fresh_copy(system.model, seed))


def untrained_notes(system: System) -> System:
    """The system without what its notes tell of weights that are given up."""
    kept = {key: value for key, value in system.notes.get("loading", {}).items() if key not in WEIGHTS_NOTES}
    notes = {key: value for key, value in system.notes.items() if key not in ("loading", "told", "random")}
    return replace(system, notes={**notes, **({"loading": kept} if kept else {})})


def about(source: LoadedModel | System, system: System) -> dict[str, Any]:
    """What a card tells of the architecture, so that `checkpoint:FILE` can build it again."""
    card = (source.card if isinstance(source, LoadedModel) else None) or {}
    return {
        "architecture": card.get("architecture", source.name),
        "num_classes": system.num_classes,
        "input_shape": list(system.input_shape),
        "normalisation": _normalisation(system.model),
    }


def _facts(system: System, trainer: Defense | None, workshop: Workshop, recipe: training.Recipe) -> dict[str, Any]:
    """Everything that decides the trained weights; the initial ones stand for architecture, code and seed."""
    device = workshop.device
    return {
        "training": training.VERSION,
        "weights": system.digest,
        "data": workshop.train.digest(),
        "recipe": asdict(recipe),
        "defense": None if trainer is None else [hash_plugin(trainer)[0], trainer.recipe(workshop)],
        "seed": workshop.seed,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": training.threads_for(workshop.train, device),
    }


def _text(trainer: Defense | None) -> str:
    return UNDEFENDED if trainer is None else str(trainer)


def _only_weights_changed(before: System, after: System) -> bool:
    """Whether the weights alone bring the system back; a trained one with new parts is made again each time."""
    same = (after.purifiers, after.detector, after.differentiable_as, after.model_is_random)
    return after.model is before.model and same == (
        before.purifiers, before.detector, before.differentiable_as, before.model_is_random
    )  # fmt: skip


def _normalisation(model: nn.Module) -> dict[str, list[float]] | None:
    """The (x - mean) / std that the model does first, or None: it takes [0, 1] as it is."""
    if not isinstance(model, Normalized):
        return None
    return {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
