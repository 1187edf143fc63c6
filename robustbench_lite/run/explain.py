"""`explain`: what a system looks at, on clean images and on the adversarial ones made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from robustbench_lite.attack import Attack
from robustbench_lite.cache import atomic_savez, atomic_write, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.results.maps import Method, method
from robustbench_lite.results.overlays import plot_maps
from robustbench_lite.run.evaluate import Result, evaluate
from robustbench_lite.run.one import data_of, one_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.systems import GivenModel
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: what of the harness's answers a row repeats
_COLUMNS = ("index", "label", "clean_prediction", "prediction", "broken", "reason", "linf", "l2")
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Images, their adversarial versions, and a map of each.

    Args:
        method: how the maps were made.
        table: a row an image: index, label, answers, whether it broke, the classes that are explained (`clean_class`,
            `class`) and how alike its two maps are (`similarity`, Spearman's rank correlation).
        clean, adversarial: (m, c, h, w). clean_maps, maps: (m, h, w).
        class_names: a name for each class number, or None.
        result: the evaluation that made the adversarial images.
    """

    method: Method
    table: pd.DataFrame
    clean: np.ndarray
    adversarial: np.ndarray
    clean_maps: np.ndarray
    maps: np.ndarray
    class_names: tuple[str, ...] | None
    result: Result

    def write(self, folder: Path) -> Path:
        """explain.png, explain.csv and explain.npz in the folder.

        Raises:
            UserError: it cannot be written to, or the images are neither grey nor in colour.
        """
        if self.clean.shape[1] not in (1, 3):
            raise UserError(f"images of {self.clean.shape[1]} channels cannot be drawn; accepted: 1 or 3")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "explain.csv", self.table.to_csv(index=False).encode())
            atomic_savez(
                folder / "explain.npz",
                index=self.table["index"].to_numpy(),
                clean=self.clean,
                adversarial=self.adversarial,
                clean_maps=self.clean_maps,
                maps=self.maps,
            )
            atomic_write(folder / "explain.png", partial(plot_maps, self))
        return folder


def explain(
    model: GivenModel | None = None,
    x: Tensor | np.ndarray | None = None,
    y: Tensor | np.ndarray | None = None,
    *,
    attack: str | Attack = "pgd",
    threat: str | Threat | None = None,
    method: str | Method = "saliency",
    of: str = "answer",
    samples: str = "first:8",
    reporter: Reporter | None = None,
    **options: Any,
) -> Explanation:
    """Attack some images, and make a map of every image before and after.

    An image that the attack did not break keeps its strongest point; one that is wrong to begin with is not attacked, and
    its two maps are the same.

    Args:
        model, x, y, attack, threat: as for `evaluate`. options: the others of `evaluate`: dataset, defense, seed, device, …
        method: `saliency:smooth=50` or `occlusion:size=4,cover=mean`; see `results.maps`.
        of: the class that is explained: `answer`, the system's own on each image, or `label`, the true one on both.
        samples: which images.

    Raises:
        UserError: as `evaluate`, or no such method.
    """
    how, reporter = _method(method), reporter or Silent()
    if of not in ("answer", "label"):
        raise UserError(f"of={of}; accepted: answer, label")
    data = _data(model, x, y, options)
    how.check(*data.shape[1:])
    chosen = {**options, "examples": "all", "diagnostics": False, "samples": samples, "adaptive": "yes"}
    result = evaluate(model, x, y, attacks=attack, threat=threat, reporter=reporter, **chosen)
    if result.failed:
        raise UserError(f"the attack failed, so there is nothing to explain: {next(iter(result.failed.values()))}")
    plan = result.plan
    own = None if isinstance(model, str) else model
    table, clean, adversarial = _images(result, data)
    with one_system(plan, data, own, reporter.training) as system:
        reporter.begin(f"{how.name} maps", 0)
        tables = [_maps(system, how, images, table, of, plan.seed) for images in (clean, adversarial)]
    (clean_class, clean_maps), (classes, maps) = tables
    similarity = [_alike(one, other) for one, other in zip(clean_maps, maps, strict=True)]
    own_columns = {"clean_class": clean_class, "class": classes, "similarity": similarity}
    return Explanation(
        method=how,
        table=pd.concat([table, pd.DataFrame(own_columns)], axis=1),
        clean=clean.numpy(),
        adversarial=adversarial.numpy(),
        clean_maps=clean_maps,
        maps=maps,
        class_names=data.class_names,
        result=result,
    )


def _data(
    model: Any, x: Tensor | np.ndarray | None, y: Tensor | np.ndarray | None, options: Mapping[str, Any]
) -> Dataset:
    if x is not None and y is not None:
        return from_tensors(x, y)
    where: dict[str, Any] = {name: options[name] for name in ("dataset", "data_root", "download") if name in options}
    if isinstance(model, str):  # it decides how a folder's images are cropped
        where["models"] = (model,)
    return data_of(Plan(**where))


def _method(given: str | Method) -> Method:
    return method(given)


def _images(result: Result, data: Dataset) -> tuple[pd.DataFrame, Tensor, Tensor]:
    """The rows of the first cell, its images, and the adversarial ones (the image itself where there is none)."""
    names = ("model", "defense", "threat", "attack")
    first = result.records.iloc[0]
    rows = result.records
    for name in names:
        rows = rows[rows[name] == first[name]]
    kept = result.examples[first["model"], first["defense"], first["threat"], first["attack"]]
    table = rows[list(_COLUMNS)].reset_index(drop=True)
    clean = data.batch(table["index"].to_numpy(dtype=np.int64))
    pairs = zip(table["index"], clean, strict=True)
    adversarial = torch.stack([torch.tensor(kept[i]) if i in kept else image for i, image in pairs])
    return table, clean, adversarial


def _maps(
    system: System, how: Method, images: Tensor, table: pd.DataFrame, of: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class that is explained, and the map, of every image."""
    label = torch.tensor(table["label"].to_numpy(dtype=np.int64))
    x, y = images.to(system.device), label.to(system.device)
    draws = Draws.for_images(seed, x, y)
    with torch.no_grad():
        answers = [
            system(x[at : at + _BATCH], draws[at : at + _BATCH], 0).prediction() for at in range(0, len(x), _BATCH)
        ]
    k = y if of == "label" else torch.cat(answers)
    return k.cpu().numpy(), how.maps(system, x, k, draws).cpu().numpy()


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps; NaN where one is flat."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one.ravel(), other.ravel()).statistic)
