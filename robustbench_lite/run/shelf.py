"""The networks that attacks name, for the system at hand: loaded by the zoo's rules, trained where they have no weights."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from robustbench_lite import training, zoo
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.run.build import defended_system
from robustbench_lite.system import System


@dataclass(kw_only=True)
class Shelf:
    """Keeps what it has loaded, so that one network serves every attack and every system of the same size.

    Args:
        data: what is evaluated, for shape and class names. workshop: made only when something must be trained.
    """

    data: Dataset
    device: torch.device
    allow_pickle: bool
    workshop: Callable[[], Workshop]
    num_classes: int = 0
    allow_code: bool = False
    kept: dict[tuple[str, int], System] = field(default_factory=dict)

    def of(self, num_classes: int) -> "Shelf":
        """For systems with so many classes."""
        return replace(self, num_classes=num_classes)

    def model(self, text: str) -> System:
        """The system that the text means; an architecture without weights is trained first.

        Raises:
            UserError: there is no such model, it does not fit, or there is nothing to train it on.
        """
        address = (text, self.num_classes)
        if address not in self.kept:
            self.kept[address] = self._model(text)
        return self.kept[address]

    def architecture(self, text: str) -> Callable[[], nn.Module]:
        """What builds the architecture.

        Raises:
            UserError: there is none, or it comes with its weights alone.
        """
        fresh = self._loaded(text).fresh
        if fresh is None:
            raise UserError(f"{text} has only the weights that it came with; name an architecture, such as small-cnn")
        return fresh

    def _model(self, text: str) -> System:
        found = self._loaded(text)
        shop = self.workshop if found.trained else self._own_workshop(text)
        # The notes tell of a training, and another story when it came out of the cache; the key must not read them.
        return replace(defended_system(found, (), shop), notes={}).to(self.device)

    def _own_workshop(self, text: str) -> Callable[[], Workshop]:
        """With a seed of its own: a source of the system's architecture must not be the system."""

        def made() -> Workshop:
            try:
                shop = self.workshop()
                _ = shop.train  # a workshop may look for its data as late as here
            except UserError as error:
                raise UserError(
                    f"{text} has no weights, so it must be trained: {error}; or give ;weights=FILE"
                ) from None
            return replace(shop, seed=training.derive(shop.seed, "source"))

        return made

    def _loaded(self, text: str) -> zoo.LoadedModel:
        return zoo.load(
            text,
            num_classes=self.num_classes,
            input_shape=self.data.shape,
            allow_pickle=self.allow_pickle,
            allow_code=self.allow_code,
            class_names=self.data.class_names,
        )
