"""A run's folder may have any name that a folder can have."""

from pathlib import Path

import pytest
import torch
from toys import two_layers

import robustbench_lite as rbl
from robustbench_lite.run.run_folder import read_run


@pytest.mark.parametrize("name", ["at Linf:0.1", "s3:out", "50%", "#1", "a?b=c"])
def test_a_folder_named_with_a_colon_is_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    y = two_layers()(x).scores.argmax(1)
    first, second = (
        rbl.evaluate(two_layers().model, x, y, attacks=["fgsm"], threat="Linf:0.1", diagnostics=False, out=name).table
        for _ in range(2)
    )
    assert first["robust_acc"].tolist() == second["robust_acc"].tolist()
    assert list((tmp_path / name / "records").rglob("rows.parquet"))
    assert len(read_run(Path(name))[0])
