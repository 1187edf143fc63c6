"""How long the first word takes, and how much memory the last one."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from measuring import ROUNDS, SHARED, as_ratios

RBL = Path(sys.executable).parent / "rbl"


def seconds(command: list[str], times: int) -> list[float]:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return found


def test_help(benchmark: Any) -> None:
    """`rbl --help`, in units of a Python that does nothing."""
    benchmark.pedantic(lambda: None, rounds=1)
    nothing, ours = (seconds(command, 6)[1:] for command in ([sys.executable, "-c", "pass"], [str(RBL), "--help"]))
    benchmark.extra_info["seconds"] = round(min(ours), 3)
    bare = statistics.median(nothing)
    as_ratios(benchmark, statistics.median(ours) / bare, [one / bare for one in ours])
    assert min(ours) < 0.4


def test_import_over_torch(benchmark: Any) -> None:
    """`import robustbench_lite` after torch, and then what its first use takes (pandas, above all)."""
    python = sys.executable
    benchmark.pedantic(lambda: None, rounds=1)
    torch, ours, used = (
        statistics.median(seconds([python, "-c", f"import torch{more}"], ROUNDS + 1)[1:])
        for more in ("", ", robustbench_lite", ", robustbench_lite; robustbench_lite.evaluate")
    )
    benchmark.extra_info.update(
        seconds_over_torch=round(ours - torch, 3), first_use=round(used - ours, 3), torch_seconds=round(torch, 3)
    )
    as_ratios(benchmark, used / torch, [used / torch])
    assert ours - torch <= 0.3


_PEAK = """
import sys, torch
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from unpack import images, names_and_labels
import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.results import metrics

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

count = int(sys.argv[2])
x = np.ascontiguousarray(images("test_batch")[:count].transpose(0, 3, 1, 2))
y = torch.tensor(names_and_labels("test_batch")[1][:count])
model = zoo.load(f"resnet20;weights={sys.argv[3]}", num_classes=10, input_shape=(3, 32, 32)).module
rbl.evaluate  # the imports belong to the start
model(torch.zeros(1, 3, 32, 32))
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
options = dict(batch_size=128, diagnostics=False, early_exit=False)
rbl.evaluate(model, x, y, attacks=["pgd:steps=3,restarts=1"], threat="Linf:8/255", **options)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("count", [1000, 10000])
def test_peak_memory(benchmark: Any, count: int) -> None:
    """MiB over the model's own at batch 128; flat in the number of samples."""
    weights = SHARED / "data" / "models" / "resnet20.safetensors"
    if not weights.is_file():
        pytest.skip("needs the CIFAR-10 images and weights in RBL_SHARED")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which tells the peak memory of a stretch of time")
    command = [sys.executable, "-c", _PEAK, str(SHARED / "data" / "cifar10"), str(count), str(weights)]
    done = benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1)
    peak = float(done.stdout.splitlines()[-1])
    benchmark.extra_info["peak_mib"] = round(peak, 1)
    assert peak <= 400
