"""What attacks cost through `rbl.evaluate`, in units of the bare loop; the bars are the project's own promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from measuring import Ratio, unit
from torch import Tensor, nn

import robustbench_lite as rbl

#: enough that preparing a run does not show
IMAGES = 200


def run(model: nn.Module, images: tuple[Tensor, Tensor], attack: str, threat: str) -> Callable[[], Any]:
    x, y = images
    return lambda: rbl.evaluate(model, x, y, attacks=[attack], threat=threat, diagnostics=False, examples="0")


def forwards(model: nn.Module, x: Tensor, count: int) -> None:
    """So many forwards of the plain model, in batches of 32."""
    with torch.no_grad():
        for number in range(0, count, 32):
            model(x[torch.arange(number, min(number + 32, count)) % len(x)])


@pytest.mark.parametrize(
    "attack, bar",
    [("deepfool", 22), ("ddn:steps=100", 105), ("cw:searches=5,steps=50,c=0.1", 215), ("fmn:steps=100", 115)],
)
def test_the_nearest_example(
    ratio: Ratio, undefended: nn.Module, images: tuple[Tensor, Tensor], attack: str, bar: float
) -> None:
    some = tuple(part[:IMAGES] for part in images)
    found = ratio(run(undefended, some, attack, "L2"), lambda: unit(undefended, *some), 1)
    records = ratio.result.records
    right = records[records["clean_prediction"] == records["label"]]
    ratio.benchmark.extra_info["median_norm"] = float(right["l2"].where(right["broken"], torch.inf).median())
    assert found <= bar


@pytest.mark.parametrize("attack, count", [("hopskipjump:queries=2500", 10), ("square:queries=1000", 40)])
def test_queries_over_their_forwards(
    ratio: Ratio,
    undefended: nn.Module,
    robust: nn.Module,
    images: tuple[Tensor, Tensor],
    attack: str,
    count: int,
) -> None:
    """Attacks that ask for scores or labels are compared with the forwards that they paid."""
    few = tuple(part[:count] for part in images)
    model, threat = (undefended, "L2") if attack.startswith("hop") else (robust, "Linf:8/255")
    timed = run(model, few, attack, threat)
    asked = int(timed().records["forwards"].sum())
    assert ratio(timed, lambda: forwards(model, few[0], asked), 1) <= 1.2
