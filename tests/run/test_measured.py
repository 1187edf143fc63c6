"""What was measured of examples is looked up under its own name alone."""

import shutil
from pathlib import Path

import pandas as pd

from robustbench_lite.run.output import Output
from robustbench_lite.run.plan import Plan


def test_a_measurement_that_was_copied_from_another_is_made_again(tmp_path: Path) -> None:
    output, folder = Output(tmp_path, Plan()), tmp_path / "physical"
    for value, name in ((1, "one"), (2, "two")):
        output.measured(name, lambda value=value: pd.DataFrame({"right": [value]}))  # type: ignore[misc]
    shutil.copy(folder / "one.parquet", folder / "two.parquet")
    assert output.measured("one", lambda: pd.DataFrame({"right": [9]}))["right"].tolist() == [1]
    assert output.measured("two", lambda: pd.DataFrame({"right": [9]}))["right"].tolist() == [9]
