"""The data of a plan, as its models expect them.

A folder of photos does not tell how large images should be, or which of a thousand classes a name is; the specs of the
models do. What came of it is in the dataset's name, which says the same without any model.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite import data as datasets
from robustbench_lite import specs
from robustbench_lite.data.base import Dataset, Split
from robustbench_lite.data.expected import NOTHING, Expected
from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter

if TYPE_CHECKING:
    from robustbench_lite.zoo.preprocessing import Preprocessing

#: classes of the sets that RobustBench's models were made for
_ROBUSTBENCH = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
_HUBS = ("timm", "torchvision")


def load_data(plan: Plan, split: Split = "test") -> Dataset:
    """A split of the plan's dataset.

    Raises:
        UserError: there is none of that name, it cannot be read, or the models want different images.
    """
    root = None if plan.data_root is None else Path(plan.data_root)
    folder = specs.head(plan.dataset).lower() == "folder"
    expected = expected_of(plan.models) if folder else NOTHING
    return datasets.load(plan.dataset, split, root=root, download=plan.download, expected=expected)


def tell(data: Dataset, reporter: Reporter) -> None:
    """Say what was done to the images, once."""
    for text in data.notes:
        reporter.note(text)


def expected_of(models: Iterable[str]) -> Expected:
    """What the specs of these models tell of the images and classes that they want."""
    from robustbench_lite.zoo.preprocessing import Preprocessing, preprocessing

    classes: dict[str, int] = {}
    recipes: dict[str, Preprocessing] = {}
    others: dict[str, Preprocessing] = {}
    own: set[str] = set()
    for text in models:
        with suppress(UserError):  # a spec that cannot be read is told by whoever loads it
            spec = specs.parse_source(text)
            if (count := _classes(spec)) is not None:
                classes[text] = count
            resizes = "resize" in spec.options  # by itself
            if not resizes and (recipe := preprocessing(text)) is not None:
                (recipes if _applies(recipe) else others)[text] = recipe
                own |= {text} if _fetched(spec) else set()
    return Expected(classes=classes, recipes=recipes, others=others, own=frozenset(own))


def _applies(recipe: "Preprocessing") -> bool:
    """Whether it is a resize of the shorter side and a square cut from the middle."""
    middle = recipe.crop_mode == "center" and recipe.crop[0] == recipe.crop[1]
    return middle and isinstance(recipe.resize, int)


def _classes(spec: specs.Spec) -> int | None:
    """How many classes the head of a model has that is not built for the data; None where the spec does not tell."""
    kind, _, name = spec.name.partition(":")
    kind = kind.lower()
    if kind in _HUBS:
        if (said := spec.options.get("num_classes")) is not None:
            return int(specs.coerce(int, said, "num_classes"))
        return _hub_classes(kind, name) if _fetched(spec) else None
    if kind == "robustbench":
        return _ROBUSTBENCH.get(spec.options.get("dataset", "cifar10"))
    if kind == "checkpoint":
        return _card_classes(Path(name).expanduser())
    return None


def _fetched(spec: specs.Spec) -> bool:
    """Whether the weights are the hub's own."""
    hub = spec.name.partition(":")[0].lower() in _HUBS
    return hub and bool(specs.coerce(bool, spec.options.get("pretrained", "false"), "pretrained"))


def _hub_classes(hub: str, name: str) -> int | None:
    if hub == "timm":
        import timm

        with suppress(Exception):  # an unknown tag; whoever loads the model says so
            known = timm.get_pretrained_cfg(name)
            return None if known is None or not known.num_classes else int(known.num_classes)
        return None
    from torchvision import models

    if name not in models.list_models(models):
        return None
    return len(models.get_model_weights(name).DEFAULT.meta.get("categories", ())) or None


def _card_classes(path: Path) -> int | None:
    from robustbench_lite.zoo.checkpoints import read_card

    told = read_card(path.with_suffix(".json")).get("num_classes")
    return told if isinstance(told, int) and told >= 2 else None
