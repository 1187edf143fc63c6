"""`evaluate` as a library: a module and tensors are enough, and trouble stays where it belongs."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from toys import Climb, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import State
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.results.metrics import COLUMNS
from robustbench_lite.run import parquet
from robustbench_lite.run.output import read_run
from robustbench_lite.run.plan import Plan

QUIET: dict[str, Any] = {"diagnostics": False}


def module_and_images(count: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    system = two_layers()
    x, y, _ = samples(system, count)
    return system.model, x, y


def test_a_module_and_tensors_are_enough() -> None:
    model, x, y = module_and_images()
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    result = rbl.evaluate(model, x, y, attacks=["pgd:steps=5,restarts=1"], threat="Linf:8/255")
    assert result.table["attack"].tolist() == ["pgd:steps=5,restarts=1", "worst-case"]
    assert tuple(result.table.columns[:20]) == COLUMNS[:20]
    assert len(result.records) == len(x)
    assert result.records["index"].tolist() == list(range(len(x)))
    assert model.training  # the caller's model comes back as it was
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_float_dust_outside_the_box_is_cut_off() -> None:
    model, x, y = module_and_images(8)
    x = torch.cat((x[:4] - 3e-8 * (x[:4] < 0.5), x[4:]))
    x[0, 0, 0, 0] = -3e-8
    assert len(rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1", **QUIET).records) == 8


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, x, y = module_and_images(10)
    rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1")
    assert not list(tmp_path.iterdir())


def test_robust_accuracy_is_the_analytic_one_on_an_affine_model() -> None:
    """Boxed Linf: the worst case of every class in turn is known, so the table's number is, too."""
    system = affine(classes=3)
    x, y, _ = samples(system, 120)
    weight, bias = (getattr(system.model, name).detach() for name in ("weight", "bias"))
    for eps in (0.02, 0.05, 0.1):
        margins = []
        for k in range(3):
            slope = weight[k] - weight[y]
            move = (eps * slope.sign()).clamp(-x.double().flatten(1), 1 - x.double().flatten(1))
            margin = ((x.double().flatten(1) + move) * slope).sum(1) + bias[k] - bias[y]
            margins.append(margin.masked_fill(y == k, -torch.inf))
        exact = float((torch.stack(margins).amax(0) < 0).double().mean())
        found = rbl.evaluate(
            system,
            x,
            y,
            attacks=["targeted:target=all,steps=20", "pgd:objective=margin,steps=40"],
            threat=f"Linf:{eps}",
            **QUIET,
        )
        worst = found.table[found.table["attack"] == "worst-case"].iloc[0]
        assert worst["robust_acc"] == pytest.approx(exact)


@dataclass(frozen=True, kw_only=True)
class Faulty(Climb):
    """Climb that breaks down at its third step."""

    name: ClassVar[str] = "faulty"

    def step(self, state: State, oracle: Oracle) -> State:
        if int(state.k.max()) == 2:
            raise ZeroDivisionError("the third step")
        return super().step(state, oracle)


def test_an_attack_that_raises_fails_alone(tmp_path: Path) -> None:
    model, x, y = module_and_images()
    y[:5] = (y[:5] + 1) % 5
    result = rbl.evaluate(
        model, x, y, attacks=[Faulty(), Climb(restarts=1)], threat="Linf:0.02", out=tmp_path, batch_size=32, **QUIET
    )
    assert list(result.failed.values()) == ["ZeroDivisionError: the third step"]
    table = result.table.set_index("attack")
    assert np.isnan(table.loc["faulty", "robust_acc"])
    assert table.loc["faulty", "robust_acc_low"] < table.loc["faulty", "robust_acc_high"]
    assert table.loc["climb:restarts=1", "robust_acc"] > 0
    records, timings, _ = read_run(tmp_path)
    assert len(records) == len(result.records)
    assert (timings["failed"] != "").sum() == 1


@dataclass(frozen=True, kw_only=True)
class Greedy(Climb):
    """Climb that has memory for 32 rows at a time."""

    name: ClassVar[str] = "greedy"

    def step(self, state: State, oracle: Oracle) -> State:
        if len(state) > 32:
            raise torch.OutOfMemoryError("no more than 32")
        return super().step(state, oracle)


def test_out_of_memory_goes_on_with_smaller_batches() -> None:
    model, x, y = module_and_images(100)
    result = rbl.evaluate(model, x, y, attacks=[Greedy(restarts=1)], threat="Linf:0.02", batch_size=128, **QUIET)
    same = rbl.evaluate(model, x, y, attacks=[Climb(restarts=1)], threat="Linf:0.02", **QUIET)
    assert not result.failed
    assert result.timings["batch_size"].tolist() == [32]
    assert result.records["forwards"].tolist() == same.records["forwards"].tolist()


def test_a_full_disk_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model, x, y = module_and_images(20)
    monkeypatch.setattr(parquet.pq, "write_table", full)
    with pytest.raises(UserError, match="No space left"):
        rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1", out=tmp_path, **QUIET)
    monkeypatch.undo()
    assert len(rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1", out=tmp_path, **QUIET).records) == 20


def test_first_50_reuses_what_first_100_computed(tmp_path: Path) -> None:
    model, x, y = module_and_images(100)
    options: dict[str, Any] = {"attacks": [Climb()], "threat": "Linf:0.02", "out": tmp_path, **QUIET}
    part = rbl.evaluate(model, x, y, samples="first:50", **options)
    whole = rbl.evaluate(model, x, y, **options)
    again = rbl.evaluate(model, x, y, samples="first:50", **options)
    pd.testing.assert_frame_equal(part.records, again.records)
    pd.testing.assert_frame_equal(part.records, whole.records[whole.records["index"] < 50].reset_index(drop=True))
    alone = rbl.evaluate(model, x, y, attacks=[Climb()], threat="Linf:0.02", **QUIET)
    pd.testing.assert_frame_equal(alone.records, whole.records)


def test_another_batch_size_moves_at_most_one_sample_in_a_hundred() -> None:
    model, x, y = module_and_images(200)
    fates = [
        rbl.evaluate(model, x, y, attacks=[Climb(restarts=1)], threat="Linf:0.02", batch_size=size, **QUIET).records[
            "broken"
        ]
        for size in (64, 7)
    ]
    assert int((fates[0] != fates[1]).sum()) <= 2


@pytest.mark.parametrize("defense", ["bit-depth:bits=2", "random-resize-pad", "jpeg+median"])
def test_a_defense_that_learns_nothing_needs_no_training_data(defense: str, tmp_path: Path) -> None:
    model, x, y = module_and_images(20)
    np.savez(tmp_path / "some.npz", x=x.numpy(), y=y.numpy())
    options = {"attacks": ["fgsm"], "threat": "Linf:0.1", "defense": defense, "diagnostics": False}
    given = rbl.evaluate(model, x, y, **options).table
    named = rbl.evaluate(model, dataset=f"npz:{tmp_path / 'some.npz'}", samples="all", **options).table
    assert set(given["defense"]) == {defense}
    assert given["robust_acc"].tolist() == named["robust_acc"].tolist()


@pytest.mark.parametrize("defense", ["kde", "bit-depth+softmax-threshold", "adversarial-training"])
def test_a_defense_that_learns_is_told_what_it_lacks(defense: str, tmp_path: Path) -> None:
    model, x, y = module_and_images(20)
    np.savez(tmp_path / "some.npz", x=x.numpy(), y=y.numpy())
    options = {"attacks": ["fgsm"], "threat": "Linf:0.1", "defense": defense}
    with pytest.raises(UserError, match=r"learns from training data.*images alone; name a dataset"):
        rbl.evaluate(model, x, y, **options)
    with pytest.raises(UserError, match=r"is test data; name what is trained on with ;train=FILE"):
        rbl.evaluate(model, dataset=f"npz:{tmp_path / 'some.npz'}", samples="all", **options)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.rand(4, 1, 8, 8) * 255}, "255"),
        ({"x": torch.full((4, 1, 8, 8), torch.nan)}, "NaN"),
        ({"x": torch.rand(4, 64)}, "shape"),
        ({"x": torch.rand(4, 3, 8, 8)}, "3"),
        ({"y": torch.tensor([0, 1, 2, 9])}, "labels reach 9"),
        ({"y": torch.tensor([0, 1])}, "y|labels|4"),
        ({"y": None}, "without y"),
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
        ({"attacks": ["pgd:n_steps=3"]}, "pgd has no option 'n_steps'"),
        ({"threat": "Linf:8"}, "Linf:8/255"),
        ({"threat": "L0:3", "attacks": ["pgd"]}, "pgd does not support L0"),
        ({"threat": "Linf", "attacks": ["fgsm"]}, "needs Linf:EPS"),
        ({"smaples": 3}, "smaples"),
        ({"samples": 5000}, "5000"),
        ({"device": "gpu"}, "device=gpu"),
        ({"attacks": ["targeted:target=column"]}, "targets"),
        ({"attacks": ["targeted:target=77"]}, "77"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(change: dict[str, Any], message: str) -> None:
    model, x, y = module_and_images(4)
    given: dict[str, Any] = {"x": x, "y": y, "attacks": ["fgsm"], "threat": "Linf:0.1", **change}
    with pytest.raises(UserError, match=message) as caught:
        rbl.evaluate(model, given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value)


class Answers(nn.Module):
    """A network with answers of another kind."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


@pytest.mark.parametrize(
    "answer",
    [lambda x: x, lambda x: x.mean((1, 2, 3)), lambda x: [1, 2], lambda x: x.flatten(1) @ torch.rand(3, 3)],
    ids=["image", "one number", "list", "raises"],
)
def test_a_model_that_is_no_classifier_is_refused(answer: Any) -> None:
    with pytest.raises(UserError, match="Answers"):
        rbl.evaluate(
            Answers(answer), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), attacks="fgsm", threat="Linf:0.1"
        )


def test_probabilities_are_flagged() -> None:
    model, x, y = module_and_images()
    result = rbl.evaluate(nn.Sequential(model, nn.Softmax(1)), x, y, attacks="fgsm", threat="Linf:0.1")
    assert "outputs-are-probabilities" in result.table.iloc[0]["flags"].split(";")


def test_a_quantised_model_is_flagged_for_its_zero_gradients() -> None:
    model, x, y = module_and_images()

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.model((image * 8).round() / 8)
            return answer

    quantised = Quantised()
    y = quantised(x).argmax(1)
    result = rbl.evaluate(quantised, x, y, attacks="pgd:steps=5,restarts=1,random_start=false", threat="Linf:0.1")
    flags = result.table.iloc[0]["flags"].split(";")
    assert "zero-gradients" in flags


def test_samples_whose_label_is_the_target_are_left_out_and_counted() -> None:
    model, x, y = module_and_images(100)
    result = rbl.evaluate(model, x, y, attacks="targeted:target=1,steps=3", threat="Linf:0.02", **QUIET)
    row = result.table.iloc[0]
    assert row["left_out"] == int((y == 1).sum())
    assert row["n"] == len(y) - row["left_out"]
    assert (result.records.loc[result.records["reason"] == "target-is-label", "label"] == 1).all()


def test_a_column_of_targets_is_climbed_to() -> None:
    model, x, y = module_and_images(60)
    targets = (y + 2) % 5
    result = rbl.evaluate(
        model, x, y, attacks="targeted:target=column,steps=30", threat="Linf:0.3", targets=targets, **QUIET
    )
    attacked = result.records[result.records["reason"] == ""]
    assert (attacked["target"].to_numpy() == targets.numpy()[attacked["index"]]).all()
    assert attacked["target_hit"].mean() > 0.5


def test_every_example_can_be_kept(tmp_path: Path) -> None:
    model, x, y = module_and_images(30)
    result = rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1", examples="all", out=tmp_path, **QUIET)
    (kept,) = result.examples.values()
    attacked = result.records[result.records["reason"] == ""]
    assert sorted(kept) == attacked["index"].tolist()
    for row in attacked.to_dict("records"):
        adv = torch.from_numpy(kept[row["index"]])[None]
        assert int(model(adv).argmax()) == row["prediction"]
        assert float((adv - x[row["index"]]).abs().max()) <= 0.1 + 1e-7


def test_bfloat16_finds_are_confirmed_in_float32() -> None:
    model, x, y = module_and_images(80)
    fast = rbl.evaluate(
        model, x, y, attacks=[Climb(restarts=1)], threat="Linf:0.02", precision="bfloat16", examples="all", **QUIET
    )
    full = rbl.evaluate(model, x, y, attacks=[Climb(restarts=1)], threat="Linf:0.02", **QUIET)
    assert fast.table.iloc[0]["robust_acc"] <= full.table.iloc[0]["robust_acc"]
    (kept,) = fast.examples.values()
    broken = fast.records[fast.records["broken"] & (fast.records["reason"] == "")]
    for row in broken.to_dict("records"):
        assert int(model(torch.from_numpy(kept[row["index"]])[None]).argmax()) != row["label"]


def test_the_written_plan_gives_the_same_run(tmp_path: Path) -> None:
    model, x, y = module_and_images(10)
    result = rbl.evaluate(model, x, y, attacks="fgsm", threat="Linf:0.1", out=tmp_path, **QUIET)
    assert Plan.load(tmp_path / "plan.toml") == result.plan
