"""A network that opens files while it answers may keep a memory in them; it is told."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import two_layers

import robustbench_lite as rbl
from robustbench_lite.run.files_opened import files_opened


@pytest.mark.parametrize("opens", [Path.read_bytes, lambda path: os.close(os.open(path, os.O_RDONLY)), torch.load])
def test_files_that_are_opened_are_gathered(opens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "memory.pt"
    torch.save({"a": torch.ones(1)}, file)
    with files_opened() as found:
        opens(file)
        opens(file)
    assert found == [str(file)]
    opens(file)
    assert found == [str(file)]


def test_files_of_python_and_its_packages_are_none(tmp_path: Path) -> None:
    with files_opened() as found:
        Path(torch.__file__).read_bytes()
        Path("/dev/null").read_bytes()
    assert found == []


class MemoryInAFile(nn.Module):
    """Answers as for an image that was seen before, where one is near."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.net, self.file = two_layers().model, file

    def forward(self, x: Tensor) -> Tensor:
        seen = pickle.loads(self.file.read_bytes()) if self.file.exists() else []
        with torch.no_grad():
            rows = []
            for image in x.detach():
                hit = next((answer for old, answer in seen if float((old - image).abs().max()) <= 0.11), None)
                if hit is None:
                    hit = self.net(image[None])[0]
                    seen.append((image.clone(), hit))
                rows.append(hit)
        self.file.write_bytes(pickle.dumps(seen))
        return torch.stack(rows) + 1e-2 * torch.tanh(self.net(x) / 10)


def test_a_memory_in_a_file_is_no_clean_bill(tmp_path: Path) -> None:
    x = torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    y = two_layers()(x).scores.argmax(1)
    found = rbl.evaluate(MemoryInAFile(tmp_path / "seen"), x, y, attacks=["fgsm"], threat="Linf:0.1").diagnostics
    (told,) = found[found["diagnostic"] == "stateful"].to_dict("records")
    assert told["status"] == "unchecked"
    assert "seen" in told["detail"]
