"""Physical transformations in numbers: survival of each example, destruction rates, and the sweep. Rows of images in.

Shares of draws are averaged over images, and intervals are over images: the draws of one image are no independent images.
"""

import math

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.results.grid import percent
from robustbench_lite.results.statistics import clopper_pearson, share_at_least, share_at_most

CLEAN = "clean"
#: the sweep's places: distances in units of where the picture fills the frame, degrees from the side
DISTANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
YAWS = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
WHO = ("dataset", "model", "defense", "threat", "attack", "adaptive")
COLUMNS = (
    *(*WHO, "n", "draws", "right_without_camera", "accuracy", "accuracy_sd", "adversariality", "adversariality_sd"),
    *("destruction", "destruction_low", "destruction_high", "destroyable", "lab", "key"),
)
SWEEP = (*WHO, "distance", "yaw", "n", "right", "rate", "low", "high")
SURVIVAL = (*WHO, "index", "broken_draws", "draws", "survival", "low", "high")


def place(distance: float, yaw: float) -> str:
    """The column of one place of the sweep."""
    return f"d{distance:g} a{yaw:g}"


def figures(measured: pd.DataFrame, *, targeted: bool) -> dict[str, object]:
    """The success table's row of one attack (Athalye et al. 2018), with the destruction rate (Kurakin et al. 2017).

    `accuracy` is the share of draws that show the right class, `adversariality` that of the target (untargeted: of any
    other class), each the mean over images with the standard deviation between them. `destruction`: of the examples that
    the system gets wrong without a camera, the share that a camera makes right again; NaN where there is none.
    """
    n, draws = len(measured), int(measured["draws"].iloc[0]) if len(measured) else 0
    if not n:
        return {**dict.fromkeys(COLUMNS[8:16], math.nan), "n": 0, "draws": 0, "destroyable": 0}
    right = measured["right"] / draws
    hit = measured["hit"] / draws if targeted else 1 - right
    rate, low, high, count = destruction(~measured["bare"].astype(bool).to_numpy(), right.to_numpy(dtype=float))
    return {
        "n": n,
        "draws": draws,
        "right_without_camera": float(measured["bare"].mean()),
        "accuracy": float(right.mean()),
        "accuracy_sd": float(right.std(ddof=0)),
        "adversariality": float(hit.mean()),
        "adversariality_sd": float(hit.std(ddof=0)),
        "destruction": rate,
        "destruction_low": low,
        "destruction_high": high,
        "destroyable": count,
        "lab": float(measured["lab"].mean()),
    }


def destruction(fooled: np.ndarray, right_again: np.ndarray) -> tuple[float, float, float, int]:
    """Kurakin's rate over the images that were right when clean, its interval, and how many examples it is of.

    Args:
        fooled: (n,) bool, whether the example is wrong without a camera.
        right_again: (n,) in [0, 1], the share of its draws that are right.

    Returns:
        rate, low, high (all NaN without a fooling example), count. The interval is Clopper-Pearson's over examples;
        shares vary less than ones and zeros, so with a sum that is not whole it is wider than it need be.
    """
    count = int(fooled.sum())
    if not count:
        return math.nan, math.nan, math.nan, 0
    total = float(right_again[fooled].sum())
    least, most = math.floor(total + 1e-9), math.ceil(total - 1e-9)
    return total / count, share_at_least(least, count, 0.975), share_at_most(most, count, 0.975), count


def swept(measured: pd.DataFrame) -> pd.DataFrame:
    """The sweep of one attack: a row a place, with an exact interval over images."""
    rows = []
    for distance in DISTANCES:
        for yaw in YAWS:
            n, right = len(measured), int(measured[place(distance, yaw)].sum()) if len(measured) else 0
            low, high = clopper_pearson(right, n)
            rows.append((distance, yaw, n, right, right / n if n else math.nan, low, high))
    return pd.DataFrame(rows, columns=list(SWEEP[len(WHO) :]))


def survival(records: pd.DataFrame) -> pd.DataFrame:
    """How often each example breaks a system that is random: a row an image and attack; settled images are left out.

    From the records alone: the draws of the last verdict, which chose nothing.
    """
    own = records[(records["draws"] > 1) & records["reason"].isin(["", "nan-scores"])]
    broken = (own["break_rate"] * own["draws"]).round().astype("int64")
    ends = [clopper_pearson(k, n) for k, n in zip(broken, own["draws"].astype(int), strict=True)]
    found = own[[*WHO, "index"]].assign(broken_draws=broken, draws=own["draws"], survival=own["break_rate"])
    low, high = [low for low, _ in ends], [high for _, high in ends]
    return found.assign(low=low, high=high)[list(SURVIVAL)].reset_index(drop=True)


def tables(physical: pd.DataFrame) -> Group:
    """The success table for a terminal, one for each dataset and threat."""
    parts: list[RenderableType] = []
    for (dataset, threat), part in physical.groupby(["dataset", "threat"], sort=False):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in ("", "n", "right, no camera", "right", "sd", "adversarial", "sd", "destroyed"):
            table.add_column(name, justify="right" if name else "left", overflow="fold")
        for (model, defense), own in part.groupby(["model", "defense"], sort=False):
            table.add_row(Text(f"{model}\n{defense}", style="bold"))
            for _, row in own.iterrows():
                table.add_row(*_cells(row))
        draws = int(part["draws"].max())
        parts += [Text(f"{dataset} · {threat} · seen through the camera, {draws} fresh draws", style="bold"), table]
    notes = (
        "Of the images that are right without a camera, in %: examples that are right without it; draws that show the"
        " right class, and the target or (untargeted) any other, mean and sd over images.",
        "destroyed: of the examples that are wrong without a camera, the share of draws that are right again,"
        " 95% Clopper-Pearson over images.",
    )
    return Group(*parts, *(Padding(Text(note), (0, 0, 0, 1)) for note in notes), Text())


def _cells(row: pd.Series) -> list[Text]:
    texts = [percent(row[name]) for name in ("right_without_camera", "accuracy", "accuracy_sd")]
    texts += ["", ""] if row["attack"] == CLEAN else [percent(row[f"adversariality{end}"]) for end in ("", "_sd")]
    between = f"[{percent(row['destruction_low'])}, {percent(row['destruction_high'])}]"
    destroyed = f"{percent(row['destruction'])} {between} of {row['destroyable']}" if row["destroyable"] else "-"
    return [Text(f"  {row['attack']}"), Text(f"{row['n']}"), *map(Text, texts), Text(destroyed)]
