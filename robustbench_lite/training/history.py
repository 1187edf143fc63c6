"""What a training tells of itself: where it stands, what each epoch came to, what came of all of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from robustbench_lite.training.recipe import Recipe

#: single-step accuracy above ten-step accuracy, or a fall of the latter from one epoch to the next, that is no accident:
#: the model has learned to defeat the single step alone (Wong et al. 2020, arXiv 2001.03994, sec. 5.4; Andriushchenko and
#: Flammarion 2020, arXiv 2007.02617)
COLLAPSE = 0.20


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Args:
        epoch: from 0. done: the share of all steps that is done, 0 to 1.
        replay: how often the batch at hand was used before. batch: its number, from 0, counted over all epochs.
    """

    epoch: int
    done: float
    replay: int = 0
    batch: int = 0


class Score(NamedTuple):
    """Accuracies as fractions, over all samples that were looked at; what was not measured is None.

    `robust` is under ten steps or so, `one_step` under a single one.
    """

    clean: float
    robust: float | None
    one_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to: its mean loss, and the validation's accuracies (0 to 1) where it had one.

    Args:
        robust: under ten steps or so. one_step: under a single one. collapsed: catastrophic overfitting showed in it.
    """

    loss: float
    clean: float | None = None
    robust: float | None = None
    one_step: float | None = None
    collapsed: bool = False

    def __str__(self) -> str:
        parts = (("clean", self.clean), ("robust", self.robust))
        known = [f"{name} {value:.1%}" for name, value in parts if value is not None]
        return ", ".join([f"loss {self.loss:.3f}", *known, *(["collapsed"] if self.collapsed else [])])

    def collapses_after(self, before: "Epoch | None") -> bool:
        """Whether it shows catastrophic overfitting, on its own or beside the validated epoch before it."""
        if self.robust is None:
            return False
        gap = 0.0 if self.one_step is None else self.one_step - self.robust
        fall = 0.0 if before is None or before.robust is None else before.robust - self.robust
        return max(gap, fall) > COLLAPSE


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a training: every epoch, and the number (from 1) of the one whose weights the model now has."""

    history: tuple[Epoch, ...]
    best: int
    recipe: Recipe

    @property
    def collapse(self) -> int | None:
        """The number of the first epoch that showed catastrophic overfitting, from the best one on.

        What an earlier one showed was the beginning of a training (while a ramp's radius grows, a single step is weak
        beside ten) or has been recovered from.
        """
        after = enumerate(self.history[self.best - 1 :], self.best)
        return next((number for number, epoch in after if epoch.collapsed), None)

    def notes(self, **more: Any) -> dict[str, Any]:
        """For a system's notes and a card: the recipe, the best and the last epoch, all of them, and what more is told."""
        told: dict[str, Any] = {
            "best": {"epoch": self.best, **_told(self.history[self.best - 1])},
            "last": {"epoch": len(self.history), **_told(self.history[-1])},
        }
        if self.collapse is not None:
            told["catastrophic_overfitting"] = f"epoch {self.collapse}"
        history = dict(_columns(self.history))
        return {"recipe": asdict(self.recipe), "training": {**told, **more, "history": history}}


def _told(epoch: Epoch) -> dict[str, Any]:
    """Loss and accuracies, and what else is not as it always is."""
    always = ("loss", "clean", "robust")
    return {name: value for name, value in asdict(epoch).items() if name in always or value}


def _columns(history: tuple[Epoch, ...]) -> Iterator[tuple[str, list[Any]]]:
    for item in fields(Epoch):
        column = [getattr(epoch, item.name) for epoch in history]
        if any(value is not None and value is not False for value in column):
            yield item.name, column
