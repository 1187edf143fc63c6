"""Entries of RobustBench, read and written: `model_info/<dataset>/<threat>/<Model>.json` (Croce et al. 2021, arXiv 2010.09670).

The files hold percentages as texts ("84.92", or nothing) and eps as "8/255", "0.031" or null. Here a percentage is a share from
0 to 1, as everywhere in this package, and eps stays the text that it was: 0.031 is not 8/255. Which norm eps is in, only the
folder tells.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_lite import specs
from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.errors import UserError, unread
from robustbench_lite.leaderboard import model_info_values as values

#: the folders that name a data set, and below them a threat model
DATASETS = ("cifar10", "cifar100", "imagenet")
NORMS = ("Linf", "L2", "L1", "L0")
THREATS = (*NORMS, "corruptions", "corruptions_3d")
#: headings of RobustBench's leaderboards
HEADINGS = (
    *("Rank", "Method", "Standard accuracy", "AutoAttack robust accuracy", "Best known robust accuracy"),
    *("AA eval. potentially unreliable", "Extra data", "Architecture", "Venue"),
)
_TEXTS = ("link", "name", "authors", "dataset", "venue", "architecture")
#: what a file calls our shares; the last is no key of RobustBench's own, which says `external`
_SHARES = {"clean_acc": "clean", "reported": "reported", "autoattack_acc": "autoattack", "external": "best_known"}
_ALSO = {"best_known": "best_known"}
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_ARCHITECTURES = {"preactresnet18": "PreActResNet-18", "small-cnn": "SmallCNN"}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One entry.

    Args:
        id: the file's name, by which RobustBench loads the model. norm: the threat model, from the folder; "" if unknown.
        name: the paper's title. link, authors, venue: of the paper. eps: as it is written; None where there is none.
        clean, reported, autoattack, best_known: accuracies from 0 to 1; `best_known` is the file's `external`: the lowest
            that anybody else found, where that is lower than AutoAttack's.
        unreliable: whether AutoAttack's figure is doubted; None: nobody has looked.
        more: every other key, as it was.
    """

    id: str = ""
    norm: str = ""
    name: str = ""
    link: str = ""
    authors: str = ""
    venue: str = ""
    dataset: str = ""
    architecture: str = ""
    eps: str | None = None
    additional_data: bool | None = None
    number_forward_passes: int | None = None
    clean: float | None = None
    reported: float | None = None
    autoattack: float | None = None
    best_known: float | None = None
    unreliable: bool | None = None
    footnote: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def radius(self) -> float | None:
        """eps as a number."""
        return None if self.eps is None else specs.number(self.eps, "eps")

    @property
    def threat(self) -> str:
        """As our leaderboards write it: `Linf:8/255`; of corruptions the name alone, whatever eps the file holds."""
        return self.norm if self.eps is None or self.norm not in NORMS else f"{self.norm}:{self.eps}"

    @property
    def year(self) -> int | None:
        """The last year in the venue, such as 2019 of `ICML 2019`."""
        found = _YEAR.findall(self.venue)
        return int(found[-1]) if found else None

    @property
    def lowest(self) -> float | None:
        """The best known robust accuracy: that of others, else AutoAttack's."""
        return self.autoattack if self.best_known is None else self.best_known

    @property
    def place(self) -> Path:
        """Where RobustBench keeps it, below its folder `model_info`."""
        return Path(self.dataset) / self.norm.removesuffix("_3d") / f"{self.id}.json"

    def row(self) -> dict[str, Any]:
        """The entry in the columns of our leaderboards, where they have one, and in its own words."""
        return {
            "model": self.id,
            "architecture": self.architecture,
            "dataset": self.dataset,
            "threat": self.threat,
            "clean": self.clean,
            "claimed": self.reported,
            "autoattack": self.autoattack,
            "best_known": self.lowest,
            "best_known_source": "" if self.lowest is None else "RobustBench",
            "unreliable": self.unreliable,
            "norm": self.norm,
            "eps": self.eps,
            "paper": self.name,
            "link": self.link,
            "venue": self.venue,
            "year": self.year,
            "additional_data": self.additional_data,
        }


def read_model_info(path: Path, norm: str | None = None) -> ModelInfo:
    """Read an entry.

    In RobustBench's own folders the folder says which data set and which threat model it is.

    Args:
        norm: the threat model; if left out, what the folder is called, where that is one.

    Raises:
        UserError: the file cannot be read, is no such entry, or holds a value that means nothing.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unread("file", path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is no JSON: {error}") from None
    if not isinstance(told, dict) or "clean_acc" not in told:
        raise UserError(
            f"{str(path)!r} is no model_info of RobustBench; accepted: an object with clean_acc, eps and so on"
        )
    *_, dataset, folder = ("", "", *path.resolve().parent.parts)
    if folder in THREATS and dataset in DATASETS:
        told["dataset"] = dataset  # what a leaderboard is made of; a few files say another one
    return from_json(told, id=path.stem, norm=norm or (folder if folder in THREATS else ""), where=str(path))


def from_json(told: Mapping[str, Any], *, id: str = "", norm: str = "", where: str = "model_info") -> ModelInfo:
    """The entry that a file's object means.

    Args:
        where: what messages call it.

    Raises:
        UserError: a value that means nothing.
    """
    left = dict(told)
    texts: dict[str, Any] = {key: values.text(left.pop(key, None), f"{where}: {key}") for key in _TEXTS}
    shares: dict[str, Any] = {}
    for key, name in (_SHARES | _ALSO).items():
        value = values.share(left.pop(key, None), f"{where}: {key}")
        shares[name] = value if shares.get(name) is None else shares[name]
    return ModelInfo(
        id=id,
        norm=norm,
        **texts,
        eps=values.eps(left.pop("eps", None), f"{where}: eps"),
        additional_data=values.truth(left.pop("additional_data", None), f"{where}: additional_data"),
        number_forward_passes=values.count(left.pop("number_forward_passes", None), f"{where}: number_forward_passes"),
        **shares,
        unreliable=values.truth(left.pop("unreliable", None), f"{where}: unreliable"),
        footnote=values.text(left.pop("footnote", None), f"{where}: footnote"),
        more=left,
    )


def to_json(info: ModelInfo) -> dict[str, Any]:
    """The entry as RobustBench writes it; what is not known and need not be there is left out."""
    texts = {name: None if value is None else values.percent(value) for name, value in _shares_of(info).items()}
    told: dict[str, Any] = {
        "link": info.link,
        "name": info.name,
        "authors": info.authors,
        "additional_data": info.additional_data,
        "number_forward_passes": info.number_forward_passes,
        "dataset": info.dataset,
        "venue": info.venue,
        "architecture": info.architecture,
        "eps": info.eps,
        "clean_acc": texts["clean_acc"] or "",
        "reported": texts["reported"] or "",
    }
    optional = {
        "autoattack_acc": texts["autoattack_acc"],
        "external": texts["external"],
        "unreliable": info.unreliable,
        "footnote": info.footnote or None,
    }
    return {**told, **{key: value for key, value in optional.items() if value is not None}, **info.more}


def write_model_info(info: ModelInfo, path: Path) -> Path:
    """Write an entry; RobustBench's own place for it is `info.place`.

    Raises:
        UserError: the name does not end in .json, or the folder cannot be written to.
    """
    if path.suffix != ".json":
        raise UserError(f"{str(path)!r}; a model_info is written to a file that ends in .json")
    with writing(path.parent):
        atomic_write(path, (json.dumps(to_json(info), indent=2) + "\n").encode())
    return path


def from_row(row: Mapping[str, Any], *, id: str = "", **paper: Any) -> ModelInfo:
    """The entry of a row of our leaderboards (see `columns`).

    `reported` stays empty unless it is given: it is what a paper says, and a row is what was measured. Only a column called
    `autoattack` is AutoAttack's. The footnote says on how many images.

    Args:
        id: the entry's name; the model's if left out. paper: fields of `ModelInfo` that no row knows: name, link, authors,
            venue, additional_data, reported, footnote.

    Raises:
        UserError: a threat that RobustBench has no folder for, or a row without one.
    """
    threat = str(row.get("threat", ""))
    norm, _, rest = threat.partition(":")
    if norm not in NORMS or "," in rest:
        raise UserError(
            f"threat {threat!r} has no place in RobustBench; accepted: an untargeted norm such as Linf:8/255"
        )
    autoattack, best = _known(row.get("autoattack")), _known(row.get("best_known", row.get("worst_case")))
    lower = best is not None and (autoattack is None or best < autoattack)
    images = _known(row.get("n"))
    notes = [str(paper.pop("footnote", ""))] + (
        [] if images is None else [f"Measured by robustbench-lite on {images:.0f} test images."]
    )
    known = {
        "additional_data": None,
        "number_forward_passes": 1,
        "architecture": _architecture(str(row.get("architecture") or row.get("model", ""))),
    }
    return ModelInfo(
        id=id or str(row.get("model", "")),
        norm=norm,
        dataset=str(row.get("dataset", "")),
        eps=values.eps(rest, f"threat {threat}"),
        clean=_known(row.get("clean")),
        autoattack=autoattack,
        best_known=best if lower else None,
        unreliable=bool(row.get("flags") or row.get("mark")),
        footnote=" ".join(filter(None, notes)),
        **{**known, **paper},
    )


def listing(entries: Iterable[ModelInfo]) -> list[dict[str, str]]:
    """A leaderboard as RobustBench shows it (`HEADINGS`): by the best known robust accuracy, unknown ones last."""
    ordered = sorted(entries, key=lambda one: (one.lowest is None, -(one.lowest or 0), -(one.clean or 0), one.id))
    return [dict(zip(HEADINGS, _cells(place, one), strict=True)) for place, one in enumerate(ordered, 1)]


def _cells(place: int, one: ModelInfo) -> tuple[str, ...]:
    shares = ("" if share is None else f"{values.percent(share)}%" for share in (one.clean, one.autoattack, one.lowest))
    doubt = {None: "Unknown", True: "yes", False: "no"}[one.unreliable]
    return (
        str(place),
        one.name or one.id,
        *shares,
        doubt,
        "yes" if one.additional_data else "no",
        one.architecture,
        one.venue,
    )


def _shares_of(info: ModelInfo) -> dict[str, float | None]:
    return {key: getattr(info, name) for key, name in _SHARES.items()}


def _known(value: Any) -> float | None:
    """A figure of a row; None where it is missing or NaN."""
    if value is None or value == "" or math.isnan(float(value)):
        return None
    return float(value)


def _architecture(text: str) -> str:
    """RobustBench's name of one of our architectures; the text where it has none."""
    spec = specs.parse_source(text) if text else specs.Spec("")
    name = spec.name.partition(":")[0]
    if name.startswith("wrn-"):
        return f"WideResNet-{name.removeprefix('wrn-')}"
    return _ARCHITECTURES.get(name, text)
