"""torchvision's sets: the real MNIST where it is there, and small files in each set's own format."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from shared_data import shared_data
from torchvision import datasets

from robustbench_lite import data
from robustbench_lite.data import torchvision_sets
from robustbench_lite.data.places import data_root
from robustbench_lite.errors import UserError

RNG = np.random.default_rng(0)


def idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(root, monkeypatch, folder, prefixes=("train", "t10k"), first=0):
    for count, prefix in zip((6, 4), prefixes, strict=True):
        x, y = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count) % 3 + first
        idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", x)
        idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", y)
    return x[:, None]


def write_cifar(root, monkeypatch, kind, key, names_key, files):
    folder = root / kind.base_folder
    folder.mkdir()
    lists = {"train_list": [], "test_list": []}
    for name in files:
        x = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": x, key: [0, 1, 2, 1]}))
        lists["test_list" if name.startswith("test") else "train_list"].append([name, md5(folder / name)])
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({names_key: ["red", "green", "blue"]}))
    for name, value in lists.items():
        monkeypatch.setattr(kind, name, value)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    return x.reshape(4, 3, 32, 32)


def write_svhn(root, monkeypatch):
    x = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    found = {}
    for split in ("train", "test"):
        savemat(root / f"{split}_32x32.mat", {"X": x, "y": np.array([[10], [1], [2], [1]], dtype=np.uint8)})
        found[split] = ["", f"{split}_32x32.mat", md5(root / f"{split}_32x32.mat")]
    monkeypatch.setattr(datasets.SVHN, "split_list", found)
    return x.transpose(3, 2, 0, 1)


def write_stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir()
    x = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(x.tobytes())  # column by column
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 2, 3, 2]))
        names = [f"{split}_X.bin", f"{split}_y.bin"]
        monkeypatch.setattr(datasets.STL10, f"{split}_list", [[name, md5(folder / name)] for name in names])
    (folder / "class_names.txt").write_text("red\ngreen\nblue\n")
    return x.transpose(0, 1, 3, 2)


SETS = {
    "mnist": (lambda *args: write_idx(*args, "MNIST"), 10),
    "fashion-mnist": (lambda *args: write_idx(*args, "FashionMNIST"), 10),
    "kmnist": (lambda *args: write_idx(*args, "KMNIST"), 10),
    "emnist": (lambda *args: write_idx(*args, "EMNIST", ("emnist-balanced-train", "emnist-balanced-test")), 47),
    "emnist:part=letters": (
        lambda *args: write_idx(*args, "EMNIST", ("emnist-letters-train", "emnist-letters-test"), first=1),
        26,
    ),
    "cifar10": (
        lambda *args: write_cifar(*args, datasets.CIFAR10, "labels", "label_names", ["data_batch_1", "test_batch"]),
        3,
    ),
    "cifar100": (
        lambda *args: write_cifar(*args, datasets.CIFAR100, "fine_labels", "fine_label_names", ["train", "test"]),
        3,
    ),
    "svhn": (write_svhn, 10),
    "stl10": (write_stl10, 3),
}


@pytest.mark.parametrize("name", SETS)
def test_each_set_is_read_as_it_is_stored(tmp_path, monkeypatch, name):
    write, classes = SETS[name]
    pixels = write(tmp_path, monkeypatch)
    found = data.load(name, "test", root=tmp_path)
    assert (found.name, found.num_classes, found.shape) == (name, classes, pixels.shape[1:])
    assert len(found.class_names) == classes
    assert found.labels.tolist() == [0, 1, 2, 1] or found.labels.tolist() == [0, 1, 2, 0]
    assert found.images.take(np.arange(4)).dtype == np.uint8
    np.testing.assert_array_equal(found.batch(range(4)).numpy(), pixels.astype(np.float32) / np.float32(255))
    assert data.load(name, "train", root=tmp_path).split == "train"
    assert len(data.choose(found)) == 4


@pytest.mark.parametrize("name", [*SETS, "imagenet"])
def test_a_set_that_is_not_there_asks_for_its_folder(tmp_path, name):
    with pytest.raises(UserError, match=f"not .*under {tmp_path}.*--data-root"):
        data.load(name, "test", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "stl10"])
def test_damaged_files_are_refused(tmp_path, monkeypatch, name):
    SETS[name][0](tmp_path, monkeypatch)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=f"{name} (cannot be read|is not)"):
        data.load(name, "test", root=tmp_path)


def test_the_root_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("RBL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("RBL_DATA_ROOT", str(tmp_path / "named"))
    assert data_root(tmp_path) == tmp_path
    assert data_root(None) == tmp_path / "named"
    monkeypatch.delenv("RBL_DATA_ROOT")
    assert data_root(None) == tmp_path / "xdg" / "robustbench-lite" / "data"
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "own"))
    assert data_root(None) == tmp_path / "own" / "data"


@pytest.mark.parametrize("part", ["val", "imagenet/val"])
def test_imagenet_is_folders_of_classes_cropped_as_its_models_expect(tmp_path, monkeypatch, part):
    for name in ("n01", "n02"):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (300, 270, 3), dtype=np.uint8)).save(tmp_path / part / name / "1.JPEG")
    with pytest.raises(UserError, match="has 2 class folders; imagenet has 1000"):
        data.load("imagenet", "test", root=tmp_path)
    monkeypatch.setattr(torchvision_sets, "_IMAGENET_CLASSES", 2)
    found = data.load("imagenet", "test", root=tmp_path)
    assert (found.name, found.shape, found.class_names) == ("imagenet", (3, 224, 224), ("n01", "n02"))
    assert found.batch([1]).shape == (1, 3, 224, 224)
    with pytest.raises(UserError, match="its terms want a registration"):
        data.load("imagenet", "train", root=tmp_path, download=True)


def test_a_failed_download_is_the_users_to_know_not_a_traceback(tmp_path, monkeypatch):
    def broken(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", broken)
    with pytest.raises(UserError, match=r"mnist cannot be fetched into .*OSError: no network"):
        data.load("mnist", "test", root=tmp_path, download=True)


def test_the_real_mnist_loads():
    test = data.load("mnist", "test", root=shared_data())
    assert (len(test), test.shape, test.labels[:5].tolist()) == (10000, (1, 28, 28), [7, 2, 1, 0, 4])
    chosen = data.choose(test)
    assert np.bincount(test.labels[chosen]).tolist() == [100] * 10
    assert data.describe_slice(test) == "1000 of 10000, class-balanced, slice seed 0"
