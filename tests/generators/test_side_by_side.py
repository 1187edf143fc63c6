"""The trainings whose weights are stacked are those of the training loop, up to the order of sums."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generators import side_by_side

from robustbench_lite import data as datasets
from robustbench_lite.generators import train_generator
from robustbench_lite.generators.base import resolve_generator
from robustbench_lite.generators.gan import GAN


@pytest.mark.parametrize("packing,batch", [(1, 100), (2, 200)])
def test_stacked_seeds_are_trained_as_each_by_itself(packing: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GAN, "verdict", lambda *_: {})  # after twenty steps there is nothing to be said
    spec, data = f"gan:width=20,discriminator_width=10,packing={packing}", datasets.load("grid:points=1000", "train")
    chosen = resolve_generator(spec)
    assert isinstance(chosen, GAN)
    recipe = replace(chosen.recipe(data), epochs=2, batch_size=batch)
    ((_, cards),) = side_by_side.train(chosen, data, recipe, [0, 3])
    for card in cards:
        alone = train_generator(spec, data, seed=card["seed"], epochs=2, batch_size=batch, use_cache=False)
        stacked = card["network"].state_dict()
        for name, value in alone.network.state_dict().items():
            torch.testing.assert_close(stacked[name], value, rtol=1e-4, atol=1e-6)
        losses = {name: alone.card["training"]["figures"][name] for name in ("discriminator_loss", "generator_loss")}
        assert card["training"]["figures"] == {name: pytest.approx(value, rel=1e-4) for name, value in losses.items()}


def test_checkpoints_are_written_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GAN, "verdict", lambda *_: {})
    asked = ["--generator", "gan:width=8,discriminator_width=4", "--dataset", "grid:points=400", "--epochs", "3"]
    side_by_side.main([*asked, "--batch-size", "100", "--every", "2", "--seeds", "0", "1", "--out", str(tmp_path)])
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        f"gan-width=8,discriminator_width=4-100x{epochs}-{seed}.safetensors" for epochs in (2, 3) for seed in (0, 1)
    ]
