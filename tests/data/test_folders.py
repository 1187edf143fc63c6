"""`folder:DIR`: real image files, decoded when asked for."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import shared_data

from robustbench_lite import data
from robustbench_lite.errors import UserError

RNG = np.random.default_rng(0)


def picture(h=6, w=8, channels=3):
    pixels = RNG.integers(0, 256, (h, w, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def save(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path)
    return path


@pytest.fixture
def pets(tmp_path):
    for name in ("cat/b.png", "cat/a.png", "dog/sub/c.png", "dog/d.PNG", ".hidden/e.png"):
        save(tmp_path / "pets" / name)
    (tmp_path / "pets" / "readme.txt").write_text("not an image")
    (tmp_path / "pets" / "cat" / "notes.md").write_text("nor is this")
    return tmp_path / "pets"


def test_class_folders_are_read_in_sorted_order_and_decoded_exactly(pets):
    found = data.load(f"folder:{pets}")
    assert (found.shape, found.num_classes, found.class_names) == ((3, 6, 8), 2, ("cat", "dog"))
    assert found.labels.tolist() == [0, 0, 1, 1]
    paths = [pets / name for name in ("cat/a.png", "cat/b.png", "dog/d.PNG", "dog/sub/c.png")]
    expected = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    torch.testing.assert_close(found.batch([0, 1, 2, 3]), torch.from_numpy(expected).float() / 255, rtol=0, atol=0)
    assert found.batch([3, 0]).shape == (2, 3, 6, 8)


def test_the_digest_follows_bytes_names_and_cropping(pets):
    spec = f"folder:{pets}"
    digests = [data.load(spec).digest(), data.load(f"{spec};size=4").digest(), data.load(f"{spec};channels=1").digest()]
    (pets / "cat" / "a.png").rename(pets / "cat" / "aa.png")
    digests.append(data.load(spec).digest())
    save(pets / "cat" / "aa.png")
    digests.append(data.load(spec).digest())
    assert len(set(digests)) == 5
    assert data.load(spec).digest() == digests[-1]


def test_images_that_are_all_grey_have_one_channel(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name, picture(channels=1))
    assert data.load(f"folder:{tmp_path}").shape == (1, 6, 8)
    assert data.load(f"folder:{tmp_path};channels=3").shape == (3, 6, 8)
    save(tmp_path / "b" / "3.png")
    assert data.load(f"folder:{tmp_path}").shape == (3, 6, 8)


@pytest.mark.parametrize("h, w", [(31, 50), (50, 31), (40, 40), (33, 32), (20, 21)])
@pytest.mark.parametrize("size, resize", [(24, None), (24, 30)])
def test_resizing_and_cropping_is_what_torchvision_does(tmp_path, h, w, size, resize):
    from torchvision.transforms import functional as F

    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name, picture(h, w))
    options = f";size={size}" + (f";resize={resize}" if resize else "")
    found = data.load(f"folder:{tmp_path}{options}")
    image = Image.open(tmp_path / "a" / "1.png")
    expected = F.pil_to_tensor(F.center_crop(F.resize(image, resize or size, antialias=True), size))
    torch.testing.assert_close(found.batch([0])[0], expected.float() / 255, rtol=0, atol=0)


def test_different_sizes_are_refused_unless_a_size_is_given(pets):
    save(pets / "dog" / "big.png", picture(10, 12))
    with pytest.raises(UserError, match=r"big.png has 12 x 10 pixels but others 8 x 6 \(a.png\); .*;size=6"):
        data.load(f"folder:{pets}")
    assert data.load(f"folder:{pets};size=6").shape == (3, 6, 6)


def test_a_file_that_changes_after_loading_is_refused_when_it_is_decoded(pets):
    found = data.load(f"folder:{pets}")
    save(pets / "cat" / "a.png", picture(9, 9))
    with pytest.raises(UserError, match=r"a\.png has 9 x 9 pixels; the others have 8 x 6"):
        found.batch([0])


def test_a_truncated_image_is_refused_with_its_name(pets):
    path = save(pets / "dog" / "torn.jpg", picture())
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"torn\.jpg cannot be decoded"):
        data.load(f"folder:{pets}").batch(range(5))
    path.write_bytes(whole[:20])
    with pytest.raises(UserError, match=r"torn\.jpg is not an image"):
        data.load(f"folder:{pets}")


def test_a_folder_that_holds_no_classes_is_refused(tmp_path, pets):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("train/cat/a.png", "test/cat/a.png"):
        save(tmp_path / "splits" / name)
    (pets / "bird").mkdir()
    for place, message in [
        ("nowhere", "there is no folder"),
        ("empty", "has no class folders; accepted: two or more"),
        ("one", "has one class folder, cat"),
        ("splits", "holds test, train, not classes; name one of them, such as folder:.*test"),
        ("pets", "bird has no images; accepted: .png"),
        ("pets/readme.txt", "is a file; accepted: a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            data.load(f"folder:{tmp_path / place}")


def test_training_data_come_from_the_train_folder_and_have_the_same_classes(tmp_path, pets):
    for name in ("cat/1.png", "dog/2.png", "dog/3.png"):
        save(tmp_path / "more" / name)
    spec = f"folder:{pets};train={tmp_path / 'more'}"
    assert [len(data.load(spec, split)) for split in ("test", "train")] == [4, 3]
    with pytest.raises(UserError, match="is test data; name what is trained on with ;train=DIR"):
        data.load(f"folder:{pets}", "train")
    save(tmp_path / "more" / "cow" / "4.png")
    with pytest.raises(UserError, match=r"classes for testing and training differ \(cow\)"):
        data.load(spec)


def test_class_folders_are_numbered_where_classes_are_missing(tmp_path):
    for name in ("7/a.png", "12/b.png"):
        save(tmp_path / "numbers" / name)
    found = data.load(f"folder:{tmp_path / 'numbers'};classes=20")
    assert (found.labels.tolist(), found.num_classes, found.class_names) == ([7, 12], 20, None)
    assert data.load(f"folder:{tmp_path / 'numbers'};classes=13").labels.tolist() == [7, 12]
    with pytest.raises(UserError, match=r"could be labels or names; say ;classes=13 \(or more\) .* or ;classes=2"):
        data.load(f"folder:{tmp_path / 'numbers'}")
    with pytest.raises(UserError, match="sort in one way as numbers and in another as names; name them with leading"):
        data.load(f"folder:{tmp_path / 'numbers'};classes=2")
    for name in ("7/a.png", "twelve/b.png"):
        save(tmp_path / "names" / name)
    with pytest.raises(UserError, match=r"has 2 class folders, 7, twelve, not classes=20; .*or by ;labels=FILE.csv"):
        data.load(f"folder:{tmp_path / 'names'};classes=20")


def table(folder, rows, columns=("file", "label")):
    with (folder / "labels.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([columns, *rows])


def test_a_table_can_say_the_labels(tmp_path):
    for name in ("x.png", "y.png"):
        save(tmp_path / name)
    table(tmp_path, [("y.png", 5), ("x.png", 0)])
    found = data.load(f"folder:{tmp_path};labels=labels.csv;classes=9")
    assert (found.labels.tolist(), found.num_classes) == ([5, 0], 9)
    expected = np.asarray(Image.open(tmp_path / "y.png")).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(found.batch([0])[0].numpy(), expected)


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        ([("x.png", "cat"), ("y.png", 3)], ("file", "label"), "has the label 'cat'; accepted: 0 to 8, or a class name"),
        ([("x.png", "cat")], ("file", "label"), "has 1 class labels, cat, not classes=9"),
        ([("x.png", -1)], ("file", "label"), "has the label '-1'; accepted: 0 to 8"),
        ([("x.png", 9)], ("file", "index"), "has the label '9'; accepted: 0 to 8"),
        ([("z.png", 1)], ("file", "label"), "names z.png, which is not in"),
        ([("x.png", 1)], ("what", "label"), "has the columns what, label; it needs a file .* and a label"),
        ([("x.png", 1), ("x.png", 1)], ("file", "label"), "names x.png twice"),
        ([("../x.png", 1)], ("file", "label"), "names ../x.png, which is not in"),
        ([("xx.png", 1), ("yy.png", 1)], ("file", "label"), r"names 2 files \(xx.png, yy.png\).*did you mean x.png"),
        ([("x.png",)], ("file", "label"), "has the label ''"),
        ([], ("file", "label"), "has no rows"),
    ],
)
def test_a_table_that_does_not_say_them_is_refused(tmp_path, rows, columns, message):
    save(tmp_path / "x.png")
    save(tmp_path / "y.png")
    table(tmp_path, rows, columns)
    with pytest.raises(UserError, match=message):
        data.load(f"folder:{tmp_path};labels=labels.csv;classes=9")


@pytest.mark.parametrize(
    "options, message",
    [
        ("size=0", "size=0; accepted: 1 to 13377"),
        ("size=13378", "size=13378; accepted: 1 to 13377"),
        ("resize=9", "resize=9 needs a size that is not larger"),
        ("size=9;resize=8", "resize=8 needs a size"),
        ("channels=2", "channels=2; accepted: 1, 3"),
        ("labels=none.csv", "cannot read the labels"),
        ("sise=3", "has no option 'sise'"),
    ],
)
def test_bad_options_are_refused(pets, options, message):
    with pytest.raises(UserError, match=message):
        data.load(f"folder:{pets};{options}")


def test_the_imagenet_samples_load_at_224_pixels():
    place = shared_data() / "imagenet-samples"
    found = data.load(f"folder:{place};labels=labels.csv;size=224;resize=256;classes=1000")
    assert (len(found), found.shape, found.num_classes, int(found.labels[0])) == (64, (3, 224, 224), 1000, 12)
    x = found.batch([0, 63])
    assert 0 <= float(x.min()) < float(x.max()) <= 1
