"""What the benchmarks share: the victims, the images, and the unit that every time is divided by.

The unit is one forward and one input gradient of the plain model, as everybody writes it (frozen parameters, cross-entropy,
batches of 128), over the same images, measured in the same run: a ratio holds on another machine, seconds do not. Clocks are
CPU seconds of the process on one thread, which other jobs on the machine disturb least.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import data, zoo

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RBL_SHARED", ROOT.parent / "shared"))
SAMPLES = int(os.environ.get("RBL_BENCH_SAMPLES", "1000"))
ROUNDS = int(os.environ.get("RBL_BENCH_ROUNDS", "3"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images() -> tuple[Tensor, Tensor]:
    """The first CIFAR-10 test images, float32 in [0, 1]."""
    unpack = SHARED / "data" / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("needs the CIFAR-10 images in RBL_SHARED")
    spec = importlib.util.spec_from_file_location("unpack", unpack)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    count = max(SAMPLES, 1000)
    x = torch.from_numpy(module.images("test_batch")[:count]).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.tensor(module.names_and_labels("test_batch")[1][:count])
    return x[:SAMPLES], y[:SAMPLES]


@pytest.fixture(scope="session")
def undefended() -> nn.Module:
    """ResNet-20 as it was published: no robustness."""
    weights = SHARED / "data" / "models" / "resnet20.safetensors"
    if not weights.is_file():
        pytest.skip("needs the ResNet-20 weights in RBL_SHARED")
    return zoo.load(f"resnet20;weights={weights}", num_classes=10, input_shape=(3, 32, 32)).module


@pytest.fixture(scope="session")
def robust() -> nn.Module:
    """An adversarially trained ResNet-20, where one was made (see docs/benchmarks.md)."""
    path = os.environ.get("RBL_BENCH_ROBUST", "")
    if not path:
        pytest.skip(
            "name an adversarially trained ResNet-20 in RBL_BENCH_ROBUST (docs/benchmarks.md says how to make one)"
        )
    return zoo.load_checkpoint(Path(path)).module


def unit(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and one input gradient for every image."""
    for begin in range(0, len(x), 128):
        leaf = x[begin : begin + 128].detach().requires_grad_(True)
        loss = F.cross_entropy(model(leaf), y[begin : begin + 128], reduction="sum")
        torch.autograd.grad(loss, leaf)


@dataclass
class Ratio:
    """Times something in turn with the unit."""

    benchmark: Any

    def __call__(self, run: Callable[[], Any], plain: Callable[[], Any], steps: int) -> float:
        """The median time of `run` over `steps` medians of `plain`; kept with the benchmark."""
        plain()
        bare, own = [], []

        def once() -> Any:
            started = time.process_time()
            plain()
            bare.append(time.process_time() - started)
            started = time.process_time()
            result = run()
            own.append(time.process_time() - started)
            return result

        self.result = self.benchmark.pedantic(once, rounds=ROUNDS, iterations=1, warmup_rounds=0)
        ratio = statistics.median(own) / (steps * statistics.median(bare))
        spread = [mine / (steps * theirs) for mine, theirs in zip(own, bare, strict=True)]
        self.benchmark.extra_info.update(
            ratio=round(ratio, 4),
            low=round(min(spread), 4),
            high=round(max(spread), 4),
            unit_seconds=statistics.median(bare),
        )
        return ratio


@pytest.fixture
def ratio(benchmark: Any) -> Ratio:
    return Ratio(benchmark)


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.load("digits")
