"""How long the first word takes, and how much memory the last one."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from measuring import ROUNDS, SHARED

RBL = Path(sys.executable).parent / "rbl"


def seconds(command: list[str], times: int) -> list[float]:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return found


def test_help(benchmark: Any) -> None:
    benchmark.pedantic(
        lambda: subprocess.run([str(RBL), "--help"], check=True, capture_output=True), rounds=5, warmup_rounds=1
    )
    assert min(benchmark.stats.stats.data) < 0.4


def test_import_over_torch(benchmark: Any) -> None:
    """The evaluation's import, less torch's own."""
    python = sys.executable
    benchmark.pedantic(lambda: None, rounds=1)
    torch = seconds([python, "-c", "import torch"], ROUNDS + 1)[1:]
    ours = seconds([python, "-c", "import torch, robustbench_lite; robustbench_lite.evaluate"], ROUNDS + 1)[1:]
    over = statistics.median(ours) - statistics.median(torch)
    benchmark.extra_info.update(seconds_over_torch=round(over, 3), torch_seconds=round(statistics.median(torch), 3))
    assert over <= 0.3


_PEAK = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from unpack import images, names_and_labels
import robustbench_lite as rbl
from robustbench_lite import zoo
count = int(sys.argv[2])
x = images("test_batch")[:count].transpose(0, 3, 1, 2)
import numpy as np
x, y = np.ascontiguousarray(x), torch.tensor(names_and_labels("test_batch")[1][:count])
model = zoo.load(f"resnet20;weights={sys.argv[3]}", num_classes=10, input_shape=(3, 32, 32)).module
rbl.evaluate  # the imports belong to the start
model(torch.zeros(1, 3, 32, 32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = dict(batch_size=128, diagnostics=False, early_exit=False)
rbl.evaluate(model, x, y, attacks=["pgd:steps=3,restarts=1"], threat="Linf:8/255", **options)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("count", [1000, 10000])
def test_peak_memory(benchmark: Any, count: int) -> None:
    """MiB over the model's own at batch 128; flat in the number of samples."""
    weights = SHARED / "data" / "models" / "resnet20.safetensors"
    if not weights.is_file():
        pytest.skip("needs the CIFAR-10 images and weights in RBL_SHARED")
    command = [sys.executable, "-c", _PEAK, str(SHARED / "data" / "cifar10"), str(count), str(weights)]
    done = benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1)
    peak = float(done.stdout.splitlines()[-1])
    benchmark.extra_info["peak_mib"] = round(peak, 1)
    assert peak <= 400
