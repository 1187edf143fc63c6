"""From the names of class folders, or of classes in a table, to labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from robustbench_lite.data import imagenet_names
from robustbench_lite.data.expected import Expected
from robustbench_lite.errors import UserError

#: how many names a sentence shows
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """The label of each name.

    Args:
        classes: how many there are. class_names: of all of them, or None where only their numbers are known.
        how: how names became labels, as a sentence. told: the number of classes is not what the names alone say.
    """

    labels: dict[str, int]
    classes: int
    class_names: tuple[str, ...] | None
    how: str
    told: bool = False


def number(
    names: Sequence[str], *, classes: int | None, expected: Expected, trained: bool, what: str, source: str = "folders"
) -> Numbered:
    """The label of each class name.

    Numbers are labels where that is sure, names of ImageNet's classes are their indices in its head; other names are
    numbered in alphabetical order.

    Args:
        names: sorted. classes: how many there are, if the user says it. expected: what models know of the head.
        trained: models are trained on these classes, so that nothing else numbers them. what: is named in messages.
        source: what the names are of: `folders`, or `labels` of a table.

    Raises:
        UserError: names whose numbers nobody can be sure of.
    """
    names = list(names)
    head = None if classes is not None else expected.head
    count = classes if head is None else head[1]
    numeric = all(name.isascii() and name.isdecimal() for name in names)
    if numeric:
        return _by_number(names, classes, head, trained, what, source)
    if count == len(names) != imagenet_names.USUAL or (count is None and trained):
        return _in_order(names, source)
    placed = imagenet_names.numbers(names, imagenet_names.USUAL if count is None else count)
    if placed is not None:
        return _of_imagenet(placed, imagenet_names.USUAL if count is None else count, source)
    if count in (None, len(names)):
        return _in_order(names, source)
    raise UserError(_unnumbered(names, classes, head, what, source))


def _by_number(
    names: list[str], classes: int | None, head: tuple[str, int] | None, trained: bool, what: str, source: str
) -> Numbered:
    by_number = sorted(names, key=int)
    values = [int(name) for name in by_number]
    if len(set(values)) < len(values):
        twice = next(one for one, other in pairwise(by_number) if int(one) == int(other))
        raise UserError(f"{what}: the {source} name the class {int(twice)} twice")
    plain = values == list(range(len(values)))
    count = classes if head is None else head[1]
    if plain and count is None:
        count = len(names)
    if count is not None and (values[-1] < count):
        labels = dict(zip(by_number, values, strict=True))
        same = count == len(names)
        how = f"the {source} are named by their labels, {values[0]} to {values[-1]} of {count:,} classes"
        return Numbered(
            labels=labels, classes=count, class_names=tuple(by_number) if same else None, how=how, told=not same
        )
    if count == len(names) or (count is None and trained):
        if by_number != sorted(names):
            raise UserError(
                f"{what}: the class {source} {', '.join(by_number[:_SHOWN])} and so on sort in one way as numbers and in"
                f" another as names; name them with leading zeros, such as {values[0]:0{len(by_number[-1])}d}"
            )
        return _in_order(by_number, source)
    if count is not None:
        raise UserError(_unnumbered(names, classes, head, what, source))
    listed = ", ".join(by_number[:_SHOWN]) + (" and so on" if len(names) > _SHOWN else "")
    raise UserError(
        f"{what}: the class {source} {listed} could be labels or names; say ;classes={values[-1] + 1} (or more) if their"
        f" numbers are the labels, or ;classes={len(names)} to number them from 0 in this order"
    )


def _in_order(names: list[str], source: str) -> Numbered:
    shown = [f"{place} {name}" for place, name in enumerate(names)]
    listed = ", ".join(shown) if len(shown) <= _SHOWN + 1 else f"{', '.join(shown[:_SHOWN])}, … {shown[-1]}"
    return Numbered(
        labels={name: place for place, name in enumerate(names)},
        classes=len(names),
        class_names=tuple(names),
        how=f"the {source} are numbered in their order: {listed}",
    )


def _of_imagenet(placed: dict[str, int], count: int, source: str) -> Numbered:
    shown = ", ".join(f"{name} {place}" for name, place in list(placed.items())[:_SHOWN])
    more = ", …" if len(placed) > _SHOWN else ""
    many = len(placed) not in (1, count)
    other = f" (;classes={len(placed)} numbers them 0 to {len(placed) - 1})" if many else ""
    return Numbered(
        labels=placed,
        classes=count,
        class_names=imagenet_names.synsets(count),
        how=f"the {source} are {len(placed):,} of ImageNet's {count:,} classes: {shown}{more}{other}",
        told=True,
    )


def _unnumbered(names: list[str], classes: int | None, head: tuple[str, int] | None, what: str, source: str) -> str:
    count = classes if head is None else head[1]
    assert count is not None
    held = f"{what} has {len(names)} class {source}, {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
    against = f"not classes={count}" if head is None else f"but {head[0]} has {count:,} classes"
    imagenet = ", a WordNet id or name of ImageNet (n02123045, tabby)" if count == imagenet_names.USUAL else ""
    table = ", or by ;labels=FILE.csv" if source == "folders" else ""
    said = "" if head is None else f"; ;classes={len(names)} numbers them in order"
    return (
        f"{held}, {against}; which class each one is must be told by its name, a number below {count}{imagenet}{table}"
        f"{said}"
    )
