"""What the models of a plan expect of their data, as far as their specs tell before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robustbench_lite.errors import UserError

if TYPE_CHECKING:
    from robustbench_lite.zoo.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What models bring with them that a folder of images cannot tell.

    Args:
        classes: how many classes the head of each model has, by the model's spec; models that are built for the data, or
            do not say it, are left out. recipes: how each model's images are resized and cropped, by its spec.
        others: recipes that are not a resize of the shorter side and a square cut from the middle.
        own: the specs whose weights are those of the hub, so that its recipe holds for images of any size.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    recipes: Mapping[str, "Preprocessing"] = field(default_factory=dict)
    others: Mapping[str, "Preprocessing"] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def head(self) -> tuple[str, int] | None:
        """The model that tells the number of classes, and that number; None where none does.

        Raises:
            UserError: two models tell different numbers.
        """
        by_count = {count: model for model, count in self.classes.items()}
        if len(by_count) > 1:
            (one, first), (other, second) = list(by_count.items())[:2]
            raise UserError(
                f"{first} has {one:,} classes and {second} has {other:,}; evaluate them one by one, or say which numbers"
                f" the labels have with ;classes={one} or ;classes={other}"
            )
        return next(((model, count) for count, model in by_count.items()), None)


#: nothing is known
NOTHING = Expected()
