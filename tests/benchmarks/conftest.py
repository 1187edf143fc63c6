"""What the benchmarks share: the victims and the images."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from measuring import SAMPLES, SHARED, Ratio
from torch import Tensor, nn

from robustbench_lite import data, zoo


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


@pytest.fixture
def ratio(benchmark: Any) -> Ratio:
    return Ratio(benchmark)


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.load("digits")
