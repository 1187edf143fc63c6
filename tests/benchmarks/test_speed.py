"""How fast the harness is, in units of the bare loop; the bars are the project's own promises."""

from typing import Any

import pandas as pd
import pytest
import torch
from measuring import Ratio, unit
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.run.engine import _Engine

LINF = "Linf:8/255"
PGD = "pgd:steps=40,restarts=1,step_size=1/4"


def evaluate(model: nn.Module, images: tuple[Tensor, Tensor], attack: str, **options: Any) -> Any:
    x, y = images
    return rbl.evaluate(model, x, y, attacks=[attack], threat=LINF, examples="0", **options)


def robust_accuracy(result: Any) -> float:
    return float(result.table.iloc[0]["robust_acc"])


def test_full_pgd_40(ratio: Ratio, undefended: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """Every step of every sample: what folding and layout are worth."""
    few = tuple(part[: max(128, len(part) // 4)] for part in images)
    found = ratio(
        lambda: evaluate(undefended, few, PGD, early_exit=False, diagnostics=False),
        lambda: unit(undefended, *few),
        40,
    )
    assert found <= 0.85


@pytest.mark.parametrize("diagnostics", [False, True], ids=["alone", "with-checks"])
def test_pgd_40_on_an_undefended_model(
    ratio: Ratio, undefended: nn.Module, images: tuple[Tensor, Tensor], diagnostics: bool
) -> None:
    found = ratio(
        lambda: evaluate(undefended, images, PGD, diagnostics=diagnostics), lambda: unit(undefended, *images), 40
    )
    ratio.benchmark.extra_info["robust_accuracy"] = robust_accuracy(ratio.result)
    assert found <= (0.12 if diagnostics else 0.07)  # the bar is for the attack alone; checks cost what they cost


def test_pgd_40_on_an_adversarially_trained_model(
    ratio: Ratio, robust: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    found = ratio(lambda: evaluate(robust, images, PGD, diagnostics=False), lambda: unit(robust, *images), 40)
    accuracy = robust_accuracy(ratio.result)
    ratio.benchmark.extra_info["robust_accuracy"] = accuracy
    assert found <= accuracy + 0.08


def test_fgsm_with_its_verdict(ratio: Ratio, undefended: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    found = ratio(lambda: evaluate(undefended, images, "fgsm", diagnostics=False), lambda: unit(undefended, *images), 1)
    ratio.benchmark.extra_info["robust_accuracy"] = robust_accuracy(ratio.result)
    assert found <= 1.6


def test_engine_overhead_on_digits(ratio: Ratio, digits: Any) -> None:
    """A network so small that bookkeeping shows; no bar, a figure to watch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)).requires_grad_(
        False
    )
    x, y = digits.batch(range(len(digits))), digits.labels_at(range(len(digits)))
    ratio(lambda: evaluate(net, (x, y), PGD, early_exit=False, diagnostics=False), lambda: unit(net, x, y), 40)


@pytest.mark.parametrize("count", [1, 10])
def test_a_random_search_on_few_images_looks_ahead(ratio: Ratio, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Several steps side by side, where most stay where they are, beside one after the other: the same numbers."""
    told: dict[str, Any] = {"dataset": "digits", "samples": str(count), "defense": "none", "diagnostics": False}

    def search(step: Any) -> pd.DataFrame:
        monkeypatch.setattr(_Engine, "_step", step)
        return rbl.evaluate("small-cnn", attacks=["square:queries=2000"], threat="Linf:0.02", **told).records

    ahead = _Engine._step
    pd.testing.assert_frame_equal(search(ahead), search(_Engine._stepped))
    assert ratio(lambda: search(ahead), lambda: search(_Engine._stepped), 1) < (0.15 if count == 1 else 0.7)
