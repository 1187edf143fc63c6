"""A made-up run for the page and the plots: two systems, two threats, a detector, names that bite."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from robustbench_lite.results.run_data import RunData
from robustbench_lite.results.thresholds import THRESHOLDS

EVIL = "<script>alert(1)</script>"
CELL = ["dataset", "model", "defense", "threat", "attack"]


def run_of(make_records: Callable[..., pd.DataFrame], **changes: Any) -> RunData:
    """`none` hides nothing; `guard` claims 3 of 4 under pgd and keeps 1 at eps 0.1, and its detector scores examples high.

    Worst cases at 0.1 and 0.2: none 2/4 and 1/4, guard 1/4 and 0.
    """
    scored = {"clean_score": [0.1, 0.2, 0.3, 0.4], "score": [0.9, 0.8, 0.25, 0.7]}
    frames = []
    for threat, none, plain, adaptive in (("Linf:0.1", "RRBW", "RRRB", "RBBB"), ("Linf:0.2", "RBBW", "RRBB", "BBBB")):
        frames.append(make_records({"fgsm": "RRRW", "pgd": none}, model=EVIL, threat=threat))
        for text, knows in ((plain, False), (adaptive, True)):
            kwargs = {"model": EVIL, "defense": "guard", "threat": threat, "adaptive": knows}
            frames.append(make_records({"fgsm": "RRRB", "pgd": text}, columns={"pgd": scored}, **kwargs))
    records = pd.concat(frames, ignore_index=True)
    parts: dict[str, Any] = {
        "records": records,
        "timings": timings_of(records),
        "diagnostics": diagnostics_of(records),
        "expected": dict.fromkeys(records[CELL].drop_duplicates().itertuples(index=False, name=None), 4),
        "environment": {"started": "2020-01-01T00:00:00", "packages": {"torch": EVIL}},
        "plan": f'dataset = "{EVIL}"\n',
        "examples": {records["key"].iloc[0]: {0: np.full((1, 8, 8), 0.5)}},
    }
    return RunData(**(parts | changes))


def timings_of(records: pd.DataFrame, seconds: float = 2.0) -> pd.DataFrame:
    """A clock for every cell of the records."""
    cells = records[[*CELL, "key"]].drop_duplicates()
    told = {"needs": "gradients", "expected": 4, "seconds": seconds, "setup_seconds": 0.0, "setup_queries": 0.0}
    return cells.assign(**told, batch_size=1, floor=1, failed="", stages="")


def diagnostics_of(records: pd.DataFrame) -> pd.DataFrame:
    """Every diagnostic of every system: on `guard` the first one has fired, the last one is unchecked everywhere."""
    rows = []
    systems = records[CELL[:4]].drop_duplicates().to_dict("records")
    for system in systems:
        for place, name in enumerate(THRESHOLDS):
            fired = place == 0 and system["defense"] == "guard"
            status = "fired" if fired else "unchecked" if place == len(THRESHOLDS) - 1 else "clear"
            value = float("nan") if status == "unchecked" else 3.0 * fired
            rows.append({**system, "diagnostic": name, "status": status, "value": value, "detail": EVIL, "n": 4})
    return pd.DataFrame(rows)
