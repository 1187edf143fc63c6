"""`explain`: from a model and images to maps of both."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.run.explain import Explanation


@pytest.fixture(scope="module")
def found() -> Explanation:
    system = two_layers()
    x, y, _ = samples(system, 12)
    y[3] = (y[3] + 1) % 5  # wrong on its clean image: not attacked
    return rbl.explain(system, x, y, attack="pgd:steps=5,restarts=1", threat="Linf:0.06", samples="first:6")


def test_there_is_a_map_of_every_image_before_and_after(found: Explanation) -> None:
    assert len(found.table) == 6
    assert found.clean.shape == found.adversarial.shape == (6, 1, 8, 8)
    assert found.clean_maps.shape == found.maps.shape == (6, 8, 8)
    assert np.abs(found.adversarial - found.clean).max() <= 0.06 + 1e-6
    wrong = found.table.index[found.table["reason"] == "clean-wrong"]
    assert list(wrong) == [3]
    assert (found.clean[3] == found.adversarial[3]).all()
    assert (found.clean_maps[3] == found.maps[3]).all()
    assert found.table.loc[3, "similarity"] == pytest.approx(1)


def test_the_answer_of_each_image_is_explained_or_the_label(found: Explanation) -> None:
    assert (found.table["clean_class"] == found.table["clean_prediction"]).all()
    assert (found.table["class"] == found.table["prediction"]).all()
    broken = found.table[found.table["broken"] & (found.table["reason"] == "")]
    assert len(broken)
    assert (broken["class"] != broken["label"]).all()
    system = two_layers()
    x, y, _ = samples(system, 3)
    other = rbl.explain(system, x, y, attack="fgsm", threat="Linf:0.06", samples="all", of="label", method="occlusion")
    assert (other.table[["clean_class", "class"]].to_numpy() == y[:, None].numpy()).all()
    assert 0 <= other.maps.min() <= other.maps.max() <= 1


def test_the_maps_are_those_of_the_images(found: Explanation) -> None:
    system = two_layers()
    x = torch.tensor(found.adversarial).requires_grad_(True)
    scores = system(x).scores.gather(1, torch.tensor(found.table["class"].to_numpy())[:, None])
    (slope,) = torch.autograd.grad(scores.sum(), x)
    assert np.allclose(found.maps, slope.abs().amax(1).numpy(), atol=1e-5)


def test_files(found: Explanation, tmp_path: Path) -> None:
    found.write(tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["explain.csv", "explain.npz", "explain.png"]
    assert len(pd.read_csv(tmp_path / "maps/explain.csv")) == 6
    with np.load(tmp_path / "maps/explain.npz") as held:
        assert np.array_equal(held["maps"], found.maps)
        assert held["index"].tolist() == found.table["index"].tolist()
    assert (tmp_path / "maps/explain.png").read_bytes().startswith(b"\x89PNG")


def test_an_attack_that_fails_is_told() -> None:
    system = two_layers()
    x, y, _ = samples(system, 4)
    with pytest.raises(rbl.UserError, match="of=target; accepted: answer, label"):
        rbl.explain(system, x, y, threat="Linf:0.1", of="target")
    with pytest.raises(rbl.UserError, match="does not support L0"):
        rbl.explain(system, x, y, attack="pgd", threat="L0:3", samples="all")


def test_a_patch_that_covers_the_image_is_refused_before_any_work() -> None:
    system = two_layers()
    x, y, _ = samples(system, 4)
    message = "occlusion: size=100 covers an image of 8x8; accepted: 1 to 7"
    for images in ((system, x, y), ("no-such-model",)):
        with pytest.raises(rbl.UserError, match=message):
            rbl.explain(*images, threat="Linf:0.1", method="occlusion:size=100")  # type: ignore[arg-type]
    given = {"attack": "fgsm", "threat": "Linf:0.1", "samples": "all"}
    assert len(rbl.explain(system, x, y, method="occlusion:size=7", **given).maps) == 4
