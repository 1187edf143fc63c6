"""`rubbish` on systems whose answer to noise is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import two_layers

import robustbench_lite as rbl
from robustbench_lite.run.rubbish import Rubbish, Settings, measure
from robustbench_lite.system import Detector, System


class Slope(nn.Module):
    """Two classes, z = (0, w . x - b): class 1 has more than half where w . x is above b."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = w, b

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w - self.b
        return torch.stack((torch.zeros_like(z), z), 1)


def slope(b: float, w: Tensor | None = None) -> System:
    w = torch.linspace(-1, 2, 16) if w is None else w
    return System(model=Slope(w, b), num_classes=2, input_shape=(1, 4, 4))


def rate(found: Rubbish, start: str, target: str, step: int, measured: str = "fooled") -> float:
    rows = found.table.query("start == @start and target == @target and step == @step and measure == @measured")
    assert len(rows) == 1
    return float(rows["rate"].iloc[0])


def test_plain_noise_fools_as_often_as_the_normal_distribution_says() -> None:
    w, b = torch.linspace(-1, 2, 16), 3.0
    found = measure(slope(b), Settings(starts=("gaussian-unclipped",), count=3000, steps=1))
    chance = float(stats.norm.sf(b / w.norm().item()))  # of w . n > b
    low, high = stats.binom.interval(0.999, 3000, chance)
    assert low <= 3000 * rate(found, "gaussian-unclipped", "1", 0) <= high
    assert rate(found, "gaussian-unclipped", "any", 0, "noise") == 1  # of two classes one has more than half


@pytest.mark.parametrize("direction, gain", [("sign", "l1"), ("unit", "l2")])
def test_a_step_adds_the_length_of_the_slope(direction: str, gain: str) -> None:
    """Where the box does not bind, after t steps w . x has grown by t * step_size * |w|_1 (sign) or |w|_2 (unit)."""
    w, b, size = torch.linspace(-1, 2, 16), 6.0, 0.1
    far = size * float(w.abs().sum() if gain == "l1" else w.norm())
    settings = Settings(starts=("gaussian-unclipped",), count=3000, steps=4, step_size=size, direction=direction)
    found = measure(slope(b), settings)
    for step in range(5):
        low, high = stats.binom.interval(0.999, 3000, float(stats.norm.sf((b - step * far) / w.norm().item())))
        assert low <= 3000 * rate(found, "gaussian-unclipped", "1", step) <= high


def test_a_raw_step_is_the_gradient_of_the_probability() -> None:
    system, w = slope(2.0), torch.linspace(-1, 2, 16)
    settings = Settings(starts=("gaussian-unclipped",), count=400, steps=1, step_size=3.0, direction="raw")
    found = measure(system, settings)
    from robustbench_lite.randomness import Draws

    draws = Draws.of(0, [number.to_bytes(8, "little") for number in range(400)])
    noise = draws.normal((1, 4, 4), "rubbish")
    p = system(noise).scores.softmax(1)[:, 1]
    moved = noise + 3.0 * (p * (1 - p))[:, None, None, None] * w.view(1, 1, 4, 4)
    ever = (p > 0.5) | (system(moved).scores.softmax(1)[:, 1] > 0.5)
    assert rate(found, "gaussian-unclipped", "1", 1) == pytest.approx(float(ever.double().mean()))


def test_images_stay_in_the_box_where_the_noise_does_and_rates_only_grow() -> None:
    found = measure(two_layers(), Settings(count=60, steps=6, step_size=0.3, threshold=0.25))
    for (start, k), shown in found.images.items():
        assert shown is not None, (start, k)
        image, sure, _ = shown
        assert sure > 0.25
        if start != "gaussian-unclipped":
            assert 0 <= image.min() <= image.max() <= 1
        answer = two_layers()(torch.tensor(image)[None]).scores.softmax(1)[0]
        assert float(answer[k]) == pytest.approx(sure, abs=1e-5)
    fooled = found.table[found.table["measure"] == "fooled"].sort_values("step", kind="stable")
    for _, own in fooled.groupby(["start", "target"]):
        assert own["rate"].is_monotonic_increasing
        assert (own["low"] <= own["rate"]).all()
        assert (own["rate"] <= own["high"]).all()


def test_what_a_detector_rejects_fools_nobody() -> None:
    system = two_layers().with_detector(Detector(score=lambda x: torch.ones(len(x)), threshold=0.5))
    found = measure(system, Settings(count=20, steps=2, step_size=0.5, starts=("uniform",)))
    assert found.table["hits"].eq(0).all()
    assert all(shown is None for shown in found.images.values())


def test_the_seed_decides_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(count=40, steps=2, starts=("uniform", "gaussian"))
    first = measure(two_layers(), settings, seed=3).table
    assert not first.equals(measure(two_layers(), settings, seed=4).table)
    monkeypatch.setattr("robustbench_lite.run.rubbish._BLOCK", 7)
    again = measure(two_layers(), settings, seed=3).table
    pd.testing.assert_frame_equal(first.drop(columns="confidence"), again.drop(columns="confidence"))
    assert np.allclose(first["confidence"], again["confidence"], equal_nan=True, atol=1e-5)


def test_queries_are_counted() -> None:
    found = measure(slope(100.0, torch.ones(16)), Settings(count=10, steps=3, step_size=0.01, starts=("uniform",)))
    # noise once; class 0 has it at once; class 1 never, in 3 steps and 4 looks
    assert found.forwards == 10 + 10 + 40
    assert found.backwards == 10 + 40


def test_files_and_the_summary(tmp_path: Path) -> None:
    found = rbl.rubbish(two_layers(), dataset="digits", count=12, steps=2, out=tmp_path / "noise")
    assert sorted(path.name for path in (tmp_path / "noise").iterdir()) == ["rubbish.csv", "rubbish.png"]
    assert len(pd.read_csv(tmp_path / "noise/rubbish.csv")) == len(found.table)
    assert list(found.summary["start"]) == ["uniform", "gaussian", "gaussian-unclipped"]
    assert found.model == "two-layers"


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"count": 0}, "count=0"),
        ({"step_size": 0.0}, "step_size=0"),
        ({"threshold": 1.0}, "threshold=1"),
        ({"direction": "sing"}, "did you mean sign"),
        ({"starts": ("grey",)}, "start=grey; accepted: uniform"),
    ],
)
def test_mistakes_are_told(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(rbl.UserError, match=said):
        Settings(**wrong)  # type: ignore[arg-type]
