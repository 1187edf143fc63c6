"""`rbl generate latent`, by itself."""

import pandas as pd
import torch
import typer
from generating import judge, untrained
from typer.testing import CliRunner

from robustbench_lite import cli  # noqa: F401  # its parts import each other in this order
from robustbench_lite.cli.latent import latent


def test_the_command_searches_writes_and_says_whose_word_it_is(tmp_path):
    generator = untrained(tmp_path / "painter.safetensors", classes=10)
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(1))
    readers = [judge(tmp_path / f"{sign}.safetensors", sign * weight, torch.zeros(10)) for sign in (1, -1)]
    app = typer.Typer(rich_markup_mode=None)
    app.command("latent")(latent)
    given = [
        "--judge",
        f"checkpoint:{readers[0]}",
        "--model",
        f"checkpoint:{readers[1]}",
        "--attempts",
        "2",
        "--steps",
        "3",
    ]
    said = CliRunner().invoke(app, [str(generator), *given, "--device", "cpu", "--out", str(tmp_path / "run")])
    assert said.exit_code == 0, said.output
    assert "in the place of people" in said.output
    table = pd.read_csv(tmp_path / "run/latent.csv")
    assert len(table) == 20
    assert (table["success"] == (table["fooled"] & table["proxy_legitimate"])).all()
