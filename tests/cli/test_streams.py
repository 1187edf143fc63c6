"""Results are on stdout whatever a user's code prints, closes or replaces; an output that is full is told in a sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Here = Callable[..., int]
MODEL = """
import sys, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        {act}
        return self.layer(x.flatten(1))
def model():
    torch.manual_seed(0)
    return Net().eval()
"""
RUN = "evaluate --model net.py:model --samples first:8 --defense none --attack fgsm --no-diagnostics --format csv --out run"


@pytest.mark.parametrize(
    "act", ["print('hello')", "sys.stdout.close()", "sys.stdout = None", "sys.stdout = open('x.txt', 'w')"]
)
def test_what_a_model_does_to_stdout_leaves_the_table_alone(
    here: Here, capsys: pytest.CaptureFixture[str], act: str
) -> None:
    Path("net.py").write_text(MODEL.format(act=act))
    assert here(*RUN.split()) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("dataset,model,defense")
    assert len(out) == 3
    assert not any("hello" in line for line in out)


def _rbl(shell: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -P -m robustbench_lite {shell}"
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_is_full_is_told_in_one_sentence() -> None:
    done = _rbl("--version > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "rbl: cannot write to stdout: No space left on device\n"


def test_where_nothing_can_be_told_the_exit_code_tells() -> None:
    assert _rbl("evaluate --seed one 2>&-").returncode == 2
    assert _rbl("--version >&-").returncode == 0
