"""Which stages of a cascade have ended: kept while it runs, believed only if it is what was written for this cell."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from toys import Cascade, Climb, run, samples, two_layers

from robustbench_lite.run import run_cell
from robustbench_lite.run.engine import _Engine
from robustbench_lite.run.evaluate import evaluate
from robustbench_lite.run.finished_stages import FinishedStages
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.threat import Threat

INDICES = np.array([7, 3, 9, 4, 12, 1])
ANSWERS = torch.tensor([1, 0, 2, 2, 1, 0])


def outcome(positions: list[int], broken: list[bool]) -> Outcome:
    system = two_layers()
    x, y, _ = samples(system, len(positions))
    found = run(Climb(steps=1, restarts=1), system, x, y, Threat(norm="Linf", eps=0.01))
    verdict = replace(found.verdict, broken=torch.tensor(broken))
    return replace(found, sample=torch.tensor(positions), verdict=verdict)


def written(path: Path) -> FinishedStages:
    """Two stages have ended for positions 1 and 4, one for 2; of 4 and 2 there is a break in doubt."""
    one = FinishedStages(path, "key", INDICES, ANSWERS)
    one.open(3, torch.device("cpu"))
    no = torch.zeros(4, dtype=torch.bool)
    first = outcome([1, 4, 2, 5], [False, True, True, True])
    one.add(first, no | torch.tensor([False, False, False, True]), 0)
    one.end_search()
    second = outcome([4, 1], [True, False])
    one.bill[torch.tensor([1, 4, 2]), 0] = torch.tensor([[10, 5, 0], [20, 6, 1], [30, 7, 2]])
    one.add(second, no[:2], 1)
    one.seconds["0 climb"] = 2.5
    one.write()  # in the middle of the second search: position 2 has not passed it
    return one


def read(path: Path, key: str = "key", indices: np.ndarray = INDICES, answers: Tensor = ANSWERS) -> FinishedStages:
    found = FinishedStages(path, key, indices, answers)
    found.open(3, torch.device("cpu"))
    return found


def test_what_was_written_is_read_back_by_sample(tmp_path: Path) -> None:
    before = written(tmp_path / "s")
    after = read(tmp_path / "s")
    assert after.next.tolist() == before.next.tolist() == [0, 2, 1, 0, 2, 0]
    assert torch.equal(after.bill, before.bill)
    assert (after.seconds, after.seconds_before) == ({"0 climb": 2.5}, 2.5)
    assert after.doubts is not None
    assert after.doubts.sample.tolist() == [2, 4]
    now = before._doubts_now()
    assert now is not None
    assert torch.equal(after.doubts.adv, now.adv)
    assert torch.equal(after.doubts.verdict.norms, now.verdict.norms)


def test_another_slice_finds_its_own_samples(tmp_path: Path) -> None:
    written(tmp_path / "s")
    after = read(tmp_path / "s", indices=INDICES[[4, 0]], answers=ANSWERS[[4, 0]])
    assert after.next.tolist() == [2, 0]
    assert after.bill[0, 0].tolist() == [20, 6, 1]
    assert after.doubts is not None
    assert after.doubts.sample.tolist() == [0]


def nothing_is_known(found: FinishedStages) -> bool:
    return not found.next.any() and found.doubts is None and not found.seconds and bool((found.bill == -1).all())


def test_a_file_of_another_cell_or_system_is_not_believed(tmp_path: Path) -> None:
    written(tmp_path / "s")
    assert nothing_is_known(read(tmp_path / "s", key="other"))
    assert nothing_is_known(read(tmp_path / "s", answers=ANSWERS + 1))
    assert nothing_is_known(read(tmp_path / "there is none"))
    fewer = FinishedStages(tmp_path / "s", "key", INDICES, ANSWERS)
    fewer.open(2, torch.device("cpu"))
    assert not fewer.next.any()


def test_a_damaged_or_edited_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    written(path)
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        told = file.metadata()
    for damaged in (b"", whole[:-3], whole[:100], b"\xff" * 300, whole[:-5] + b"12345"):
        path.write_bytes(damaged)
        assert nothing_is_known(read(path)), damaged[:20]
    save_file({**tensors, "next": tensors["next"] + 1}, path, metadata=told)
    assert nothing_is_known(read(path))
    for facts in ({}, {"stages": "[]"}, {"stages": "[" * 100000}, {"stages": json.dumps({"digest": "x"})}):
        save_file(tensors, path, metadata=facts)
        assert nothing_is_known(read(path))
    save_file(tensors, path, metadata=told)
    assert read(path).next.any()


def test_the_seconds_of_a_cell_that_failed_are_told_elsewhere(tmp_path: Path) -> None:
    written(tmp_path / "s").write(clocked=True)
    again = read(tmp_path / "s")
    assert again.next.any()
    assert again.seconds_before == 0.0


def test_the_same_run_goes_on_at_the_next_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the last stage: what the first two have done is not done again, and the rows are the same."""
    system = two_layers()
    x, y, _ = samples(system, 64)
    started: list[tuple[int, int]] = []
    begin = _Engine._start

    def noted(self: _Engine, taken: list[int]) -> object:
        attack = self.job.attack
        started.append((attack.length(), len(taken)))
        if stop and attack.length() == 12:
            raise KeyboardInterrupt
        return begin(self, taken)

    monkeypatch.setattr(_Engine, "_start", noted)
    monkeypatch.setattr(run_cell, "_FLUSH_SECONDS", 0.0)

    def evaluated(folder: str) -> pd.DataFrame:
        more = {"threat": "Linf:0.03", "diagnostics": False, "out": tmp_path / folder, "examples": 0}
        return evaluate(system, x, y, attacks=Cascade(), **more).records  # type: ignore[arg-type]

    stop = False
    whole = evaluated("whole")
    straight, started[:] = list(started), []
    stop = True
    with pytest.raises(KeyboardInterrupt):
        evaluated("stopped")
    (kept,) = (tmp_path / "stopped").rglob("stages.safetensors")
    stop, started[:] = False, []
    pd.testing.assert_frame_equal(evaluated("stopped"), whole)
    assert {steps for steps, _ in started} == {12}
    assert started == [one for one in straight if one[0] == 12]
    assert not kept.exists()


def test_the_examples_of_a_run_that_is_stopped_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = two_layers()
    x, y, _ = samples(system, 96)
    monkeypatch.setattr(run_cell, "_FLUSH_SECONDS", 0.0)
    begun = _Engine._start

    def stop(self: _Engine, taken: list[int]) -> object:
        if 64 in taken:
            raise KeyboardInterrupt
        return begun(self, taken)

    def evaluated() -> pd.DataFrame:
        more = {"threat": "Linf:0.03", "diagnostics": False, "out": tmp_path, "examples": "all", "batch_size": 32}
        return evaluate(system, x, y, attacks=Climb(restarts=1), **more).records  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(_Engine, "_start", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluated()
    (file,) = (tmp_path / "examples").iterdir()
    kept = np.load(file)["index"]
    assert len(kept) >= 32
    again: list[int] = []

    def noted(self: _Engine, taken: list[int]) -> object:
        again.extend(taken)
        return begun(self, taken)

    monkeypatch.setattr(_Engine, "_start", noted)
    assert len(evaluated()) == 96
    assert not set(again) & set(kept.tolist())  # neither their rows nor their examples are made again
