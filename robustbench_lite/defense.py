"""The defense contract: from a labelled training set and a system to a defended system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite import plugins, specs
from robustbench_lite.cache import load_or_make
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_plugin
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

__all__ = ["Adaptivity", "Defense", "Workshop", "resolve_defense"]

#: how the plain oracle relates to the adversary who knows the defense:
#:   "plain-is-adaptive"  nothing is hidden from a white-box attack; `why_plain` says so
#:   "adaptive"           the system carries what the adaptive oracle needs (surrogates, scores, undistilled logits)
#:   "unaudited"          nobody has said; shown as such and not ranked
Adaptivity = Literal["plain-is-adaptive", "adaptive", "unaudited"]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What a defense may use while it builds.

    Args:
        train: labelled training data. threats: what the evaluation will run, so that a training attack without a threat
            of its own trains against the first of them.
        seed: of the training. device: where to train. progress: a callable (done, total, text) or None.
        scratch: where a training may keep what it needs to go on after a kill; None keeps nothing.
        apart: training images that the weights have not learned from, of the share that a defense keeps apart; None where
            it keeps none apart.
    """

    train: Dataset
    threats: tuple[Threat, ...] = ()
    seed: int = 0
    device: torch.device = torch.device("cpu")
    progress: Any = None
    scratch: Path | None = None
    apart: Dataset | None = None

    def part(self, defense: "Defense", system: System, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What a defense fits besides a network's weights (support vectors, class means), kept by content.

        Args:
            system: what the defense is put around. make: fits, and returns tensors by name; called only where they are
                not known yet. They must follow from defense, system, training data, seed and threads alone.

        Returns:
            The tensors, on the CPU.
        """
        facts = {
            "part": [hash_plugin(defense)[0], defense.recipe(self)],
            "system": system.digest,
            "data": self.train.digest(),
            "seed": self.seed,
            "torch": torch.__version__,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
        }
        if self.apart is not None:
            facts["apart"] = self.apart.digest()
        return load_or_make(hash_json(facts), make)


@dataclass(frozen=True, kw_only=True)
class Defense:
    """Options of a defense, and what it does to a system.

    Class attributes: `name`; `trains` (it makes new weights, starting from the model's fresh architecture) or wraps what it
    is given; `adaptivity` and, for a plain one, `why_plain`; `source`, the paper; `version`.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = False
    adaptivity: ClassVar[Adaptivity] = "unaudited"
    why_plain: ClassVar[str] = ""
    source: ClassVar[str] = ""
    version: ClassVar[int] = 1
    #: prose, which is in no key
    __not_hashed__: ClassVar[frozenset[str]] = frozenset({"source", "why_plain"})

    def defend(self, system: System, workshop: Workshop) -> System:
        """The defended system. One that trains changes the weights of `system.model`, which is a copy of its own."""
        raise NotImplementedError

    def dress(self, system: System) -> System:
        """What belongs around the weights that this defense has trained, as its options alone decide it.

        Called after `defend`, and where the weights come from the cache. `defend` itself of a defense that trains changes
        weights alone.
        """
        return system

    def kept_apart(self) -> float:
        """The share of the training images that the weights must not learn from, because this defense is set on them."""
        return 0.0

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """Everything besides data, architecture and seed that decides the trained weights, for cache key and card."""
        return {"defense": str(self), "version": self.version}

    def __str__(self) -> str:
        return str(specs.Spec(self.name, specs.options_of(self)))


def resolve_defense(defense: "str | Defense") -> tuple[Defense, ...]:
    """Defenses from a chain such as `adversarial-training+bit-depth:bits=3`, applied left to right.

    Raises:
        UserError: an unknown name, an unknown option or a value that does not fit.
    """
    if isinstance(defense, Defense):
        return (defense,)
    return tuple(_one(spec) for spec in specs.parse_chain(defense))


def _one(spec: specs.Spec) -> Defense:
    found: Defense = specs.build(plugins.load("defense", spec.name), spec.options, resolve=_inner)
    return found


def _inner(kind: type, text: str) -> object:
    from robustbench_lite.attack import Attack, resolve_attack

    if isinstance(kind, type) and issubclass(kind, Attack):
        return resolve_attack(text)
    if isinstance(kind, type) and issubclass(kind, Threat):
        return Threat.parse(text)
    raise UserError(f"{text!r} cannot be given as text")
