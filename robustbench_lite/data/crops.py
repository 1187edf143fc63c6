"""How images get one size: as the user says it, or as the models of a plan want it."""

from dataclasses import dataclass

from robustbench_lite.data.decoding import Interpolation
from robustbench_lite.data.expected import Expected
from robustbench_lite.data.files import Scanned
from robustbench_lite.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How images get one size: the shorter side is resized, and the centre cropped.

    Args:
        source: the model whose preprocessing it is; empty where the user says it.
    """

    size: int
    resize: int
    interpolation: Interpolation
    source: str = ""

    def __str__(self) -> str:
        return crop_words(self.resize, self.size, self.interpolation)

    def options(self) -> dict[str, str]:
        """As a user writes it."""
        found = {"size": str(self.size)}
        found |= {"resize": str(self.resize)} if self.resize != self.size else {}
        return found | ({"interpolation": self.interpolation} if self.interpolation != "bilinear" else {})


def model_crop(scanned: Scanned, expected: Expected, asked: Interpolation | None, what: str) -> Crop | None:
    """The preprocessing of the models, where they have one and the images need it.

    Images that have the model's size already were prepared for it. Smaller ones of one size may be what a network of the
    user's own weights was trained on; only the hub's own weights are sure to want theirs.

    Raises:
        UserError: the models want different ones, or one that is not made here, such as a squeezed image.
    """
    _check_others(scanned, expected, what)
    wanted: dict[tuple[int, int, str], str] = {}
    for model, recipe in expected.recipes.items():
        wanted.setdefault((int(str(recipe.resize)), recipe.crop[0], recipe.interpolation), model)
    if not wanted or _prepared(scanned, expected):
        if asked is not None:
            raise UserError(f"{what}: interpolation={asked} needs a size")
        return None
    if len(wanted) > 1:
        told = [f"{model} {crop_words(*key)}" for key, model in wanted.items()]
        raise UserError(
            f"{what}: {' and '.join(told[:2])}; evaluate them one by one, or say one size for all, such as"
            f" ;size={next(iter(wanted))[1]}"
        )
    ((resize, size, way), model) = next(iter(wanted.items()))
    return Crop(size=size, resize=resize, interpolation=_way(asked or way, model), source=model)


def _check_others(scanned: Scanned, expected: Expected, what: str) -> None:
    for model, recipe in expected.others.items():
        smaller = scanned.size is not None and max(scanned.size) < min(recipe.crop)
        if scanned.size == recipe.crop or (smaller and model not in expected.own):
            continue
        h, w = recipe.crop
        high, wide = (recipe.resize, recipe.resize) if isinstance(recipe.resize, int) else recipe.resize
        how = {"squash": "squeezed", "border": "shrunk and framed"}.get(recipe.crop_mode, "resized")
        cut = "" if (high, wide) == (h, w) else f" and the centre of {w} x {h} cut out"
        raise UserError(
            f"{what}: {model} wants the images {how} to {wide} x {high} ({recipe.interpolation}){cut}, which is not done here;"
            f" prepare them so, or say ;size={min(h, w)} to crop the centre instead"
        )


def _way(name: str, model: str) -> Interpolation:
    known: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}
    if name not in known:
        wanted = "accepted: bilinear, bicubic; say ;size= and ;interpolation="
        raise UserError(f"{model} wants {name} interpolation; {wanted}")
    return known[name]


def _prepared(scanned: Scanned, expected: Expected) -> bool:
    """Whether the images are as they should be: of one size, and that of the model, or smaller and not for the hub."""
    if scanned.size is None:
        return False
    h, w = scanned.size
    fits = all(h == w == recipe.crop[0] for recipe in expected.recipes.values())
    small = all(min(h, w) < recipe.crop[0] for recipe in expected.recipes.values())
    return fits or (small and not expected.own)


def crop_words(resize: int, size: int, interpolation: str) -> str:
    """What a preprocessing is, after the name of its model."""
    return f"wants the shorter side resized to {resize} ({interpolation}) and the centre of {size} x {size}"
