"""Generated images in the place of a share of every batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import blobs, clean_loss, lively, same, stop_after, weights

from robustbench_lite import training
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.training import Batch, Mixture, Recipe, resume

REAL, MADE = blobs(96), blobs(40, seed=7)
FEW = Recipe(epochs=4, batch_size=20, learning_rate=0.01, crop=1)


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)


def mixture(share=0.3, made=MADE):
    return Mixture(data=made, share=share)


def cuts(*sizes):
    return np.split(np.random.default_rng(0).permutation(sum(sizes)), np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("sizes", [(64, 64, 63), (3, 3, 3, 2), (20,)])
def test_each_batch_keeps_its_size_and_gets_its_share(share, sizes):
    given = cuts(*sizes)
    mixed = mixture(share).into(given, 1000, 5)
    counts = [int((batch >= 1000).sum()) for batch in mixed]
    assert [len(batch) for batch in mixed] == list(sizes)
    assert sum(counts) == round(share * sum(sizes))
    assert all(abs(count - share * size) <= 1 for count, size in zip(counts, sizes, strict=True))
    for batch, before in zip(mixed, given, strict=True):
        assert ((batch == before) | (batch >= 1000)).all()


def test_no_generated_image_comes_twice_before_all_have_come_once():
    chosen = np.concatenate(mixture(0.5).into(cuts(60, 60), 1000, 5))
    chosen = chosen[chosen >= 1000] - 1000
    assert len(chosen) == 60
    assert set(np.bincount(chosen, minlength=len(MADE)).tolist()) == {1, 2}


def test_an_epochs_mixture_follows_from_its_seed_alone():
    first, again, other = (mixture().into(cuts(60, 60), 1000, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[0] >= 1000, other[0] >= 1000)


def test_behind_the_real_images_lie_the_generated_ones_whatever_their_type():
    made = from_tensors((MADE.batch(range(40)) * 255).round().to(torch.uint8), MADE.labels, num_classes=4)
    both = mixture(made=made).behind(REAL)
    assert len(both) == 136
    torch.testing.assert_close(both.batch([3, 96, 97, 5]), torch.cat((
        REAL.batch([3]), made.batch([0, 1]), REAL.batch([5])
    )), rtol=0, atol=0)  # fmt: skip
    assert both.labels_at([3, 97]).tolist() == [int(REAL.labels[3]), int(made.labels[1])]
    assert both.digest() not in (REAL.digest(), mixture().behind(REAL).digest())


def fitted(tmp=None, mix=None, **options):
    model, seen, checked = lively(), [], []

    def loss(model, batch: Batch, moment):
        seen.append(batch)
        return clean_loss(model, batch, moment)

    def validate(model, data, rows):
        checked.append((data, rows))
        return training.Score(0.5, 0.5)

    options = {"recipe": FEW, "seed": 3, "scratch": tmp, "validate": validate, **options}
    training.fit(model, REAL, loss, mix=mix, **options)
    return weights(model), seen, checked


def test_a_training_takes_as_many_steps_and_validates_on_real_images_alone():
    _, plain, _ = fitted()
    _, seen, checked = fitted(mix=mixture(0.5))
    assert [len(batch) for batch in seen] == [len(batch) for batch in plain]
    made = torch.cat([batch.indices for batch in seen]) >= len(REAL)
    assert abs(float(made.float().mean()) - 0.5) < 0.02
    pool, held = checked[0]
    assert held.max() < len(REAL)
    torch.testing.assert_close(pool.batch(held), REAL.batch(held), rtol=0, atol=0)
    used = torch.cat([batch.indices for batch in seen])
    assert not set(used.tolist()) & set(held.tolist())


def test_a_batch_holds_the_images_and_labels_that_its_positions_name():
    _, seen, _ = fitted(mix=mixture(0.5), recipe=replace(FEW, epochs=1, crop=0))
    pool = mixture().behind(REAL)
    for batch in seen:
        torch.testing.assert_close(batch.x, pool.batch(batch.indices.numpy()), rtol=0, atol=0)
        assert torch.equal(batch.y, pool.labels_at(batch.indices.numpy()))
        assert len(set(batch.draws.key[:, 0].tolist())) == len(batch)


def test_a_share_of_nothing_is_no_mixture():
    assert same(fitted()[0], fitted(mix=mixture(0.0))[0])
    assert not same(fitted()[0], fitted(mix=mixture(0.1))[0])


def test_a_mixed_training_that_was_killed_ends_with_the_same_bits(tmp_path):
    mix = mixture(0.4)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, mix, progress=stop_after(2))
    _, after, _ = resumed = fitted(tmp_path, mix)
    whole, before, _ = fitted(mix=mix)
    assert len(after) == len(before) // 2
    assert same(resumed[0], whole)


@pytest.mark.parametrize("other", [mixture(0.5), mixture(0.4, blobs(40, seed=8)), None])
def test_a_killed_training_does_not_go_on_with_another_mixture(tmp_path, other):
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, mixture(0.4), progress=stop_after(2))
    assert same(fitted(tmp_path, other)[0], fitted(mix=other)[0])


def test_images_that_do_not_fit_are_refused():
    wide = from_tensors(torch.rand(4, 1, 8, 9), torch.arange(4))
    with pytest.raises(UserError, match=r"has images \(1, 8, 9\), which cannot be mixed with blobs"):
        fitted(mix=mixture(made=wide))
    with pytest.raises(UserError, match="labels up to 4; blobs has 4 classes"):
        fitted(mix=mixture(made=from_tensors(torch.rand(5, 1, 8, 8), torch.arange(5))))
