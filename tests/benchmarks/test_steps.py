"""What a query of each attack, AutoAttack, and the records cost, in units of the plain model; on digits, without any download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from measuring import Ratio, unit
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.run.records import Records

IMAGES = 256
LINF, L2, NEAREST = "Linf:0.1", "L2:1", "L2"
ATTACKS = [
    *(("fgsm", LINF), ("bim:steps=10", LINF), ("mifgsm:steps=10", LINF), ("pgd:steps=10,restarts=1", LINF)),
    *(("apgd:steps=10,restarts=1", LINF), ("apgd-t:steps=10", LINF), ("fab:steps=10", LINF), ("fab-t:steps=10", LINF)),
    *(("square:queries=50", LINF), ("nes:queries=100", LINF), ("noise:draws=20", LINF), ("simba:queries=50", L2)),
    *(("cw:searches=2,steps=10", NEAREST), ("ddn:steps=10", NEAREST), ("fmn:steps=10", NEAREST), ("deepfool", NEAREST)),
    *(("hopskipjump:queries=200", NEAREST), ("boundary:queries=100", NEAREST)),
]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small CNN with fresh weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(2048, 10)).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def few(net: nn.Module, digits: Any) -> tuple[Tensor, Tensor]:
    """Images, and as labels what the network says: all are right before."""
    x = digits.batch(range(IMAGES))
    return x, net(x).argmax(1)


def evaluated(
    net: nn.Module, few: tuple[Tensor, Tensor], attack: str, threat: str, **options: Any
) -> Callable[[], Any]:
    told = {"diagnostics": False, "examples": "0", **options}
    return lambda: rbl.evaluate(net, *few, attacks=[attack], threat=threat, **told)


def bare(net: nn.Module, few: tuple[Tensor, Tensor], records: pd.DataFrame) -> Callable[[], None]:
    """As many forwards and gradients of the plain model as the records tell, in batches of 128."""
    backwards = int(records["backwards"].sum())
    forwards = int(records["forwards"].sum()) - backwards
    x, y = few

    def work() -> None:
        for number in range(0, backwards, IMAGES):
            unit(net, x[: backwards - number], y[: backwards - number])
        with torch.no_grad():
            for number in range(0, forwards, 128):
                net(x[: min(128, forwards - number)])

    return work


@pytest.mark.parametrize("attack, threat", ATTACKS, ids=[attack for attack, _ in ATTACKS])
def test_a_step_over_its_queries(
    ratio: Ratio, net: nn.Module, few: tuple[Tensor, Tensor], attack: str, threat: str
) -> None:
    """The evaluation, verdict included, over the same number of bare forwards and gradients; no bar, a figure to watch."""
    timed = evaluated(net, few, attack, threat, early_exit=False)
    ratio(timed, bare(net, few, timed().records), 1)


def test_autoattack_over_its_queries(ratio: Ratio, net: nn.Module, few: tuple[Tensor, Tensor]) -> None:
    some = few[0][:32], few[1][:32]
    timed = evaluated(net, some, "autoattack", "Linf:0.01")
    ratio(timed, bare(net, few, timed().records), 1)


@pytest.mark.parametrize("what", ["written", "read"])
def test_records(ratio: Ratio, net: nn.Module, few: tuple[Tensor, Tensor], tmp_path: Path, what: str) -> None:
    """10,000 rows of a cell in parts of 1,000, beside one forward and gradient of the images."""
    found = evaluated(net, few, "fgsm", LINF)().records
    rows = pd.concat([found] * 40, ignore_index=True)[:10000]
    rows["index"] = range(len(rows))
    count = iter(range(1000))

    def write() -> str:
        key = f"{next(count):032x}"
        records = Records(tmp_path)
        for begin in range(0, len(rows), 1000):
            records.append(key, rows[begin : begin + 1000])
        records.finish(key)
        return key

    key = write()
    ratio(write if what == "written" else lambda: Records(tmp_path).rows(key), lambda: unit(net, *few), 1)
