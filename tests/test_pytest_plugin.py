"""`pytest --rbl-baseline`: a suite of another project, run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

SUITE = '''
import torch

class Net(torch.nn.Module):
    """Right by a margin of 0.1: an attack within less breaks nothing, within more everything."""
    def forward(self, x):
        z = x.mean((1, 2, 3))
        return torch.stack((0.5 - z, z - 0.5), 1)

def test_it_stays_robust(rbl_evaluate):
    y = torch.arange(40) % 2
    x = (0.4 + 0.2 * y.float()).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    result = rbl_evaluate(Net(), x, y, attacks=["fgsm"], threat="Linf:0.11" if WORSE else "Linf:0.05", diagnostics=False)
    assert len(result.records) == 40
'''


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    world = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "robustbench_lite.pytest_plugin", *options]
    return subprocess.run(command, cwd=folder, env=world, capture_output=True, text=True, timeout=300, check=False)


def test_a_baseline_is_written_and_guards(tmp_path: Path) -> None:
    suite = tmp_path / "test_net.py"
    suite.write_text("WORSE = False\n" + SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    absent = run(tmp_path, "--rbl-baseline", "board.csv")
    assert absent.returncode == 1
    assert "there is no baseline board.csv; run pytest --rbl-update once" in absent.stdout
    asked = run(tmp_path, "--rbl-baseline", "board.csv", "--rbl-update")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "Net" in (tmp_path / "board.csv").read_text()
    assert run(tmp_path, "--rbl-baseline", "board.csv").returncode == 0
    # Under the name of the row that the baseline has, a system that breaks: what a careless change does.
    suite.write_text("WORSE = False\n" + SUITE.replace("0.5 - z, z - 0.5", "z - 0.5, 0.5 - z"))
    failed = run(tmp_path, "--rbl-baseline", "board.csv")
    assert failed.returncode == 1
    assert "less accurate: Net, none · tensors · Linf:0.05: clean 100.0 % -> 0.0 %" in failed.stdout
    suite.write_text("WORSE = True\n" + SUITE)
    unknown = run(tmp_path, "--rbl-baseline", "board.csv")
    assert unknown.returncode == 1
    assert "run pytest --rbl-update once" in unknown.stdout
