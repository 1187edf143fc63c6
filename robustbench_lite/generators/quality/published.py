"""Figures that papers tell of GANs and of mode collapse, as data, to stand beside our own.

The same method has other figures in another paper (a plain GAN finds 1.0 or 6.3 of the ring's modes): training decides,
so a published row compares with ours no better than with another published one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from robustbench_lite.results.generators import HEAD, base

#: the paper that the figures are read from, whoever's the method is
VEEGAN = "Srivastava et al. 2017, arXiv 1705.07761"
PACGAN = "Lin et al. 2018, arXiv 1712.04086"
UNROLLED = "Metz et al. 2017, arXiv 1611.02163"
_FIGURES = (
    "modes",
    "modes_strict",
    "high_quality",
    "reverse_kl",
    "kl",
    "ivom",
    "frechet",
    "kid",
    "precision",
    "recall",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one generator came to on one dataset.

    Args:
        generator: its name. data: the dataset's. figures: by name; `NAME_sd` is the spread of NAME.
        kind: who has measured it. source: the paper, or nothing. setting: what else one must know to compare.
    """

    generator: str
    data: str
    figures: Mapping[str, float]
    kind: Literal["measured", "published"] = "measured"
    source: str = ""
    setting: str = ""


@dataclass(frozen=True, kw_only=True)
class _Paper:
    """Rows of one table of a paper."""

    source: str
    data: str
    names: tuple[str, ...]
    setting: str = ""
    rows: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    def read(self) -> list[Row]:
        """The rows, without the figures that the paper does not tell."""
        return [
            Row(
                generator=name,
                data=self.data,
                figures={key: value for key, value in zip(self.names, values, strict=True) if value is not None},
                kind="published",
                source=self.source,
                setting=self.setting,
            )
            for name, values in self.rows.items()
        ]


_POINTS = ("modes", "high_quality")
_POINTS_SPREAD = ("modes", "modes_sd", "high_quality", "high_quality_sd", "reverse_kl", "reverse_kl_sd")
_STACKS = ("modes", "modes_sd", "kl")

_PAPERS = (
    _Paper(
        source=VEEGAN, data="ring", names=_POINTS, setting="of 8 modes",
        rows={"gan": (1.0, 0.9930), "ali": (2.8, 0.0013), "unrolled-gan": (7.6, 0.3560), "veegan": (8.0, 0.5290)},
    ),
    _Paper(
        source=VEEGAN, data="grid", names=_POINTS, setting="of 25 modes",
        rows={"gan": (3.3, 0.005), "ali": (15.8, 0.016), "unrolled-gan": (23.6, 0.160), "veegan": (24.6, 0.400)},
    ),
    _Paper(
        source=VEEGAN, data="points-1200", names=_POINTS, setting="of 10 modes in 1200 dimensions",
        rows={"gan": (1.6, 0.0200), "ali": (3.0, 0.0540), "unrolled-gan": (0.0, 0.0), "veegan": (5.5, 0.2829)},
    ),
    _Paper(
        source=PACGAN, data="ring", names=_POINTS_SPREAD, setting="of 8 modes",
        rows={
            "gan": (6.3, 0.5, 0.982, 0.002, 0.45, 0.09),
            "ali": (6.6, 0.3, 0.976, 0.004, 0.36, 0.04),
            "pacgan2": (7.9, 0.1, 0.956, None, 0.07, None),
            "pacgan3": (7.8, 0.1, 0.977, None, 0.10, None),
            "pacgan4": (7.8, 0.1, 0.959, None, 0.07, None),
        },
    ),
    _Paper(
        source=PACGAN, data="grid", names=_POINTS_SPREAD, setting="of 25 modes",
        rows={
            "gan": (17.3, 0.8, 0.948, 0.007, 0.70, 0.07),
            "ali": (24.1, 0.4, 0.957, 0.006, 0.14, 0.03),
            "pacgan2": (23.8, 0.7, 0.913, None, 0.13, None),
            "pacgan3": (24.6, 0.4, 0.942, None, 0.06, None),
            "pacgan4": (24.8, 0.2, 0.936, None, 0.04, None),
        },
    ),
    _Paper(
        source=VEEGAN, data="stacked-mnist", names=("modes", "kl"), setting="of 1000 modes",
        rows={"dcgan": (99.0, 3.40), "ali": (16.0, 5.40), "unrolled-gan": (48.7, 4.32), "veegan": (150.0, 2.95)},
    ),
    _Paper(
        source=PACGAN, data="stacked-mnist", names=_STACKS, setting="of 1000 modes",
        rows={
            "dcgan": (78.9, 6.5, 4.50),
            "pacdcgan2": (1000.0, 0.0, 0.06),
            "pacdcgan3": (1000.0, 0.0, 0.06),
            "pacdcgan4": (1000.0, 0.0, 0.07),
        },
    ),
    _Paper(
        source=UNROLLED, data="stacked-mnist", names=("modes", "kl"), setting="of 1000 modes; D a quarter of G's size",
        rows={
            "dcgan": (30.6, 5.99),
            "unrolled-gan-1": (65.4, None),
            "unrolled-gan-5": (236.4, None),
            "unrolled-gan-10": (327.2, 4.66),
        },
    ),
    _Paper(
        source=UNROLLED, data="stacked-mnist", names=("modes", "kl"), setting="of 1000 modes; D half of G's size",
        rows={
            "dcgan": (628.0, 2.58),
            "unrolled-gan-1": (523.6, None),
            "unrolled-gan-5": (732.0, None),
            "unrolled-gan-10": (817.4, 1.43),
        },
    ),
    _Paper(
        source=PACGAN, data="stacked-mnist", names=("modes", "kl"), setting="of 1000 modes; D a quarter of G's size",
        rows={
            "dcgan": (78.5, None),
            "pacdcgan2": (484.5, 2.61),
            "pacdcgan3": (601.3, 2.00),
            "pacdcgan4": (667.4, 1.81),
        },
    ),
    _Paper(
        source=PACGAN, data="stacked-mnist", names=("modes", "kl"), setting="of 1000 modes; D half of G's size",
        rows={
            "dcgan": (487.7, None),
            "pacdcgan2": (840.7, 1.00),
            "pacdcgan3": (866.6, 0.90),
            "pacdcgan4": (820.2, 1.15),
        },
    ),
    _Paper(
        source=VEEGAN, data="cifar10", names=("ivom", "ivom_se"), setting="range of the pixels and kind of the spread not told",
        rows={
            "dcgan": (0.00844, 0.002),
            "ali": (0.0067, 0.004),
            "unrolled-gan": (0.013, 0.0009),
            "veegan": (0.0068, 0.0001),
        },
    ),
)  # fmt: skip

#: every published row
PUBLISHED: tuple[Row, ...] = tuple(row for paper in _PAPERS for row in paper.read())


def table(measured: Iterable[Row], *, published: Iterable[Row] = PUBLISHED) -> pd.DataFrame:
    """Rows of ours and of papers side by side, sorted by data, ours first; an empty cell is a figure that nobody tells.

    Args:
        measured: our rows. published: the papers' rows; only those on data that we have measured are shown.
    """
    ours = list(measured)
    bases = {base(row.data) for row in ours}
    rows = [*ours, *(row for row in published if row.data in bases)]
    rows.sort(key=lambda row: (base(row.data), row.kind != "measured"))
    names = {name for row in rows for name in row.figures}
    first = [name for stem in _FIGURES for name in (stem, f"{stem}_sd", f"{stem}_se") if name in names]
    columns = [*HEAD, *first, *sorted(names - set(first)), "source"]
    cells = [{**{name: getattr(row, name) for name in (*HEAD, "source")}, **row.figures} for row in rows]
    return pd.DataFrame(cells, columns=columns)
