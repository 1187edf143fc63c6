"""The folder of a run as `results.run_data.RunData`: for the page and the plots."""

import contextlib
from pathlib import Path

import numpy as np

from robustbench_lite.results.run_data import RunData
from robustbench_lite.run import run_folder
from robustbench_lite.run.evaluate import expected_of

#: pictures that cannot be drawn from the records: they show images
PICTURES = ("examples.png", "reconstruction.png")


def reread(folder: Path) -> RunData:
    """What a finished or broken-off run has left; nothing is computed again or changed.

    Raises:
        UserError: the folder holds no run, or one without results.
    """
    records, timings, diagnostics = run_folder.read_run(folder)
    return RunData(
        records=records,
        timings=timings,
        diagnostics=diagnostics,
        expected=expected_of(timings),
        environment=run_folder.read_environment(folder),
        plan=_text(folder / "plan.toml"),
        examples=_examples(folder, timings["key"].astype(str).tolist()),
        pictures={name: data for name in PICTURES if (data := _bytes(folder / name))},
        physical=run_folder.read_physical(folder),
        sweep=run_folder.read_sweep(folder),
        reconstruction=run_folder.read_reconstruction(folder),
        unfinished=run_folder.unfinished(folder, records, timings),
    )


def _examples(folder: Path, keys: list[str]) -> dict[str, dict[int, np.ndarray]]:
    """The kept adversarial images of every cell that has some."""
    found = {key: run_folder.read_examples(folder / "examples" / f"{key}.npz") for key in dict.fromkeys(keys)}
    return {key: images for key, images in found.items() if images}


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes:
    """The content of a file; nothing where it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
