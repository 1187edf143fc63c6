"""The folder of a run as `results.run_data.RunData`: for the page and the plots."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd

from robustbench_lite.results.run_data import RunData
from robustbench_lite.run import output
from robustbench_lite.run.evaluate import expected_of

#: pictures that cannot be drawn from the records: they show images
PICTURES = ("examples.png", "reconstruction.png")


def reread(folder: Path) -> RunData:
    """What a finished or broken-off run has left; nothing is computed again or changed.

    Raises:
        UserError: the folder holds no run, or one without results.
    """
    records, timings, diagnostics = output.read_run(folder)
    return RunData(
        records=records,
        timings=timings,
        diagnostics=diagnostics,
        expected=expected_of(timings),
        environment=output.read_environment(folder),
        plan=_text(folder / "plan.toml"),
        examples=_examples(folder, timings["key"].astype(str).tolist()),
        pictures={name: data for name in PICTURES if (data := _bytes(folder / name))},
        physical=output.read_physical(folder),
        sweep=_table(folder / "sweep.csv"),
        reconstruction=output.read_reconstruction(folder),
    )


def _examples(folder: Path, keys: list[str]) -> dict[str, dict[int, np.ndarray]]:
    """The kept adversarial images of every cell that has some."""
    found = {key: output._read_examples(folder / "examples" / f"{key}.npz") for key in dict.fromkeys(keys)}
    return {key: images for key, images in found.items() if images}


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes:
    """The content of a file; nothing where it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _table(path: Path) -> pd.DataFrame:
    with contextlib.suppress(OSError, ValueError):
        return pd.read_csv(path, keep_default_na=False, na_values={"rate": [""], "low": [""], "high": [""]})
    return pd.DataFrame()
