"""Real data and weights beside the repository, where they are."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest


def shared_data() -> Path:
    """The folder of shared data: $RBL_SHARED/data, or ../shared/data; skips the test without it."""
    named = os.environ.get("RBL_SHARED")
    top = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (top / "data").is_dir():
        pytest.skip(f"needs the shared data, which are not in {top} (set RBL_SHARED)")
    return top / "data"


def cifar_test(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first CIFAR-10 test images, (count, 32, 32, 3) uint8, and their labels."""
    script = shared_data() / "cifar10" / "unpack.py"
    spec = importlib.util.spec_from_file_location("unpack_cifar10", script)
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    labels = unpack.names_and_labels("test_batch")[1]
    return unpack.images("test_batch")[:count].copy(), np.array(labels[:count])


def mnist_test(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first MNIST test images, (count, 28, 28, 1) uint8, and their labels."""
    raw = shared_data() / "MNIST" / "raw"
    pixels = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return pixels.reshape(-1, 28, 28, 1)[:count].copy(), labels[:count].astype(np.int64)
