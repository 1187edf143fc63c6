"""Two runs side by side on one machine: neither may stop the other by waiting."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import as_ratios

from robustbench_lite import zoo

RBL = Path(sys.executable).parent / "rbl"
MODEL = Path(__file__).parents[2] / "leaderboards" / "models" / "mnist-small-cnn-pgd-at.safetensors"
#: images that are attacked; how much longer one of two runs may take than one alone on one thread
IMAGES, MOST = 50, 1.6


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Blurred noise of the size of MNIST, with the network's own answers as labels: all of it has to be attacked."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 1, 7, 7, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=28, mode="bilinear").clamp(0, 1)
    with torch.no_grad():
        y = zoo.load_checkpoint(MODEL).module(x).argmax(1)
    np.savez(tmp_path / "images.npz", x=x[:, 0].numpy(), y=y.numpy())
    return tmp_path / "images.npz"


def started(images: Path, out: str, **environment: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [
        *(
            RBL,
            "evaluate",
            "--dataset",
            f"npz:{images};classes=10",
            "--model",
            f"checkpoint:{MODEL}",
            "--defense",
            "none",
        ),
        *(
            "--attack",
            "autoattack",
            "--threat",
            "Linf:0.2",
            "--no-diagnostics",
            "--quiet",
            "--out",
            images.parent / out,
        ),
    ]
    return subprocess.Popen(list(map(str, command)), env={**kept, **environment})


def seconds(*runs: subprocess.Popen[bytes]) -> float:
    """Until all of them have ended."""
    begun = time.perf_counter()
    assert [one.wait() for one in runs] == [0] * len(runs)
    return time.perf_counter() - begun


def test_two_runs_side_by_side(benchmark: Any, images: Path) -> None:
    """AutoAttack on a small CNN: two at once with the threads that they choose, in units of one alone with one thread."""
    benchmark.pedantic(lambda: None, rounds=1)
    alone = seconds(started(images, "alone", OMP_NUM_THREADS="1"))
    free = seconds(started(images, "free"))
    both = seconds(started(images, "one"), started(images, "other"))
    benchmark.extra_info.update(alone_one_thread=round(alone, 1), alone=round(free, 1), side_by_side=round(both, 1))
    as_ratios(benchmark, both / alone, [both / alone])
    assert both <= MOST * alone
