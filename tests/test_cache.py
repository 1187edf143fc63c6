"""Files are whole or not there; a trained model is kept by content; a damaged cache costs time, never a number."""

import errno
import json
import threading
from pathlib import Path

import pytest
import torch
from learners import SHAPE, blobs, clean_loss, plain, same, weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from waiting import PATIENCE

from robustbench_lite import cache, training, zoo
from robustbench_lite.cache import atomic_write, cache_dir, load_or_make, load_or_train
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_tensors
from robustbench_lite.training import resume

CARD = {"architecture": "mlp", "num_classes": 4, "input_shape": list(SHAPE), "training": {"best": 1}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class Trainer:
    """Pretends to train: sets all weights to a value, and counts how often it was asked."""

    def __init__(self, value: float = 0.5) -> None:
        self.value, self.calls, self.scratch = value, 0, list[Path | None]()

    def __call__(self, model: nn.Module, key: str = "k", **options: bool) -> dict[str, object] | None:
        def train(scratch: Path | None) -> dict[str, object]:
            self.calls += 1
            self.scratch.append(scratch)
            self.start = weights(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(self.value)
            return dict(CARD)

        return load_or_train(key, model, train, **options)


@pytest.mark.parametrize(
    "set_to, expected",
    [
        ({"RBL_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/robustbench-lite"),
        ({"HOME": "/home/me"}, "/home/me/.cache/robustbench-lite"),
        ({"RBL_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/robustbench-lite"),
        ({"RBL_CACHE": "~/rbl", "HOME": "/home/me"}, "/home/me/rbl"),
    ],
)
def test_where_the_cache_is(monkeypatch, set_to, expected):
    for name in ("RBL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


@pytest.mark.parametrize("content", [b"new", lambda path: path.write_bytes(b"new")], ids=["bytes", "a writer"])
def test_a_file_is_written_and_nothing_else_stays(tmp_path, content):
    path = tmp_path / "made" / "file.txt"
    atomic_write(path, content)
    atomic_write(path, content)
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    atomic_write(path, b"old")

    def half(place: Path) -> None:
        place.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, contents = tmp_path / "file", [bytes([letter]) * 200_000 for letter in b"ab"]
    atomic_write(path, contents[0])
    over = threading.Event()

    def write() -> None:
        for number in range(60):
            atomic_write(path, contents[number % 2])
        over.set()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not over.is_set():
        assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_is_of_the_content_not_of_its_order():
    assert hash_json({"a": 1, "b": [2, "x"]}) == hash_json({"b": [2, "x"], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    assert len(hash_json({})) == 32


def test_a_digest_tells_names_types_shapes_and_bits_apart():
    base = {"w": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"v": base["w"], "b": base["b"]},
        {"w": base["w"].double(), "b": base["b"]},
        {"w": base["w"].view(3, 2), "b": base["b"]},
        {"w": -base["w"], "b": base["b"]},
    ]
    assert hash_tensors(base) == hash_tensors(dict(reversed(base.items())))
    assert len({hash_tensors(one) for one in [base, *others]}) == 5


def test_the_same_is_not_trained_twice():
    trainer, first, second = Trainer(), plain(seed=1), plain(seed=2)
    trainer(first)
    card = trainer(second)
    assert trainer.calls == 1
    assert same(weights(first), weights(second))
    assert card is not None
    assert CARD.items() <= card.items()
    assert not second.training


def test_another_key_is_trained_and_fresh_trains_again():
    trainer = Trainer()
    trainer(plain(), "k")
    trainer(plain(), "other")
    trainer(plain(), "k", fresh=True)
    assert trainer.calls == 3


def test_an_entry_is_a_checkpoint_like_any_other(folder):
    model = zoo.fresh_module("mlp", num_classes=4, input_shape=SHAPE)
    Trainer(0.01)(model)
    loaded = zoo.load(f"checkpoint:{folder / 'k.safetensors'}", num_classes=4, input_shape=SHAPE)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(loaded.module(x), model.eval()(x))


def test_nothing_but_the_entry_stays(folder):
    trainer = Trainer()
    trainer(plain())
    (scratch,) = trainer.scratch
    assert scratch is not None
    assert scratch.parent == folder
    assert sorted(path.name for path in folder.iterdir()) == ["k.json", "k.safetensors"]


def test_a_training_finds_the_scratch_of_one_that_was_killed():
    def killed(scratch: Path | None) -> None:
        assert scratch is not None
        atomic_write(scratch / "epoch", b"three")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_train("k", plain(), killed)
    found = []

    def resumed(scratch: Path | None) -> dict[str, object]:
        assert scratch is not None
        found.append((scratch / "epoch").read_bytes())
        return dict(CARD)

    load_or_train("k", plain(), resumed)
    assert found == [b"three"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def change_the_digest(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "weights": "0" * 32}))


@pytest.mark.parametrize(
    "name, damage",
    [
        ("k.safetensors", truncate),
        ("k.safetensors", flip_a_bit),
        ("k.safetensors", empty),
        ("k.safetensors", Path.unlink),
        ("k.json", truncate),
        ("k.json", empty),
        ("k.json", change_the_digest),
        ("k.json", lambda file: file.write_bytes(b"\xff\xfe")),
        ("k.json", lambda file: file.write_text("[1]")),
    ],
)
def test_a_damaged_entry_is_said_aloud_and_trained_again_from_fresh_weights(folder, name, damage):
    trainer = Trainer()
    trainer(plain(seed=1))
    damage(folder / name)
    with pytest.warns(UserWarning, match="trained again"):
        trainer(model := plain(seed=2))
    assert trainer.calls == 2
    assert same(trainer.start, weights(plain(seed=2)))
    trainer(again := plain(seed=3))
    assert trainer.calls == 2
    assert same(weights(model), weights(again))


def test_an_entry_of_another_architecture_is_not_half_loaded():
    trainer = Trainer()
    trainer(plain(classes=4))
    with pytest.warns(UserWarning, match="does not fit the architecture"):
        trainer(plain(classes=5, seed=2))
    assert same(trainer.start, weights(plain(classes=5, seed=2)))


def test_weights_without_a_card_are_no_entry(folder, recwarn):
    trainer = Trainer()
    trainer(plain())
    (folder / "k.json").unlink()
    trainer(plain())
    assert trainer.calls == 2
    assert not recwarn


def test_a_cache_that_cannot_be_written_is_said_and_does_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "file"))
    trainer = Trainer()
    with pytest.warns(UserWarning, match="cannot be written") as told:
        card = trainer(model := plain())
    assert len(told) == 1
    assert card == CARD
    assert trainer.scratch == [None]
    assert all(bool((parameter == 0.5).all()) for parameter in model.parameters())


def test_a_disk_that_is_full_when_all_is_done_costs_the_entry_alone(monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("robustbench_lite.zoo.checkpoints.atomic_write", full)
    with pytest.warns(UserWarning, match="is not kept.*No space left"):
        assert Trainer()(plain()) is not None


def test_what_is_more_than_weights_is_not_kept(folder):
    assert load_or_train("k", plain(), lambda scratch: None) is None
    assert not list(folder.glob("*.json"))


def test_two_at_once_do_not_break_each_other(folder, monkeypatch):
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    # In two threads of one process, where trainings share the number of torch's threads: it is not what is tested.
    monkeypatch.setattr(training.loop, "threads_for", lambda data, device: torch.get_num_threads())
    barrier, models = threading.Barrier(2), [plain(), plain()]

    def run(model: nn.Module) -> None:
        def train(scratch: Path | None) -> dict[str, object]:
            barrier.wait(timeout=PATIENCE)  # both are here: neither found the other's entry
            training.fit(model, blobs(), clean_loss, recipe=training.Recipe(epochs=5), seed=0, scratch=scratch)
            return dict(CARD)

        load_or_train("k", model, train)

    both = [threading.Thread(target=run, args=(model,)) for model in models]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert same(weights(models[0]), weights(models[1]))
    trainer = Trainer()
    trainer(again := plain(seed=3))
    assert trainer.calls == 0
    assert same(weights(again), weights(models[0]))
    assert sorted(path.name for path in folder.iterdir()) == ["k.json", "k.safetensors"]


def test_the_cache_does_not_wait_for_torch():
    assert not hasattr(cache, "torch")


@pytest.mark.parametrize("damage", ["other values", "no digest", "cut off", "not a file of tensors"])
def test_a_part_that_is_not_what_was_written_is_made_again(folder: Path, damage: str) -> None:
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"a": torch.arange(4.0)}

    for _ in range(2):
        assert torch.equal(load_or_make("part", make)["a"], torch.arange(4.0))
    assert len(made) == 1
    (file,) = (folder.parent / "parts").iterdir()
    if damage in ("other values", "no digest"):
        held = {"a": torch.arange(4.0) + (damage == "other values")}
        with safe_open(file, framework="pt") as before:
            save_file(held, file, metadata=before.metadata() if damage == "other values" else None)
    else:
        file.write_bytes(file.read_bytes()[:20] if damage == "cut off" else b"[]")
    with pytest.warns(UserWarning, match="made again"):
        assert torch.equal(load_or_make("part", make)["a"], torch.arange(4.0))
    assert len(made) == 2
    load_or_make("part", make)
    assert len(made) == 2


def test_a_part_that_was_copied_from_another_is_made_again(folder: Path) -> None:
    load_or_make("other", lambda: {"a": torch.zeros(4)})
    (other,) = (folder.parent / "parts").iterdir()
    other.rename(other.with_stem("part"))
    with pytest.warns(UserWarning, match="written as other"):
        assert torch.equal(load_or_make("part", lambda: {"a": torch.ones(4)})["a"], torch.ones(4))


def test_weights_that_were_copied_from_another_entry_are_trained_again(folder: Path) -> None:
    Trainer(0.25)(plain(seed=1), "other")
    for file in list(folder.iterdir()):
        file.rename(folder / f"k{file.suffix}")
    trainer = Trainer()
    with pytest.warns(UserWarning, match="written as other"):
        trainer(plain(seed=2))
    assert trainer.calls == 1
