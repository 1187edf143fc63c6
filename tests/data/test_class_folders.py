"""From the names of class folders and of classes in tables to labels, with and without a model that knows its head."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import shared_data

from robustbench_lite import data
from robustbench_lite.data import imagenet_names
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.run.dataset import expected_of, load_data
from robustbench_lite.run.plan import Plan

RNG = np.random.default_rng(0)
WNIDS = ("n01440764", "n02123045", "n03124170", "n07753592")
INDICES = [0, 281, 515, 954]
PRETRAINED = "timm:resnet18;pretrained=true"


def photos(top: Path, names: Sequence[str], size: tuple[int, int] = (40, 32)) -> Path:
    for name in names:
        (top / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(top / name / "x.png")
    return top


def planned(top: Path, *models: str, options: str = "") -> Dataset:
    return load_data(Plan(dataset=f"folder:{top}{options}", models=models or ("small-cnn",)))


# -- ImageNet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        WNIDS,
        ("n01440764_tench", "n02123045-tabby", "N03124170 cowboy hat", "n07753592"),
        ("tench", "Tabby_Cat", "cowboy-hat", "banana"),
        ("tench, Tinca tinca", "tabby", "ten-gallon hat", "n07753592"),
    ],
)
def test_folders_named_by_imagenets_classes_have_their_labels_in_its_head(tmp_path: Path, names: Sequence[str]) -> None:
    found = data.load(f"folder:{photos(tmp_path, names)}")
    by_folder = {file.parent.name: label for file, label in zip(found.images.files, found.labels, strict=True)}  # type: ignore[attr-defined]
    assert [by_folder[name] for name in names] == INDICES
    assert found.num_classes == 1000
    assert found.class_names is not None
    assert found.class_names[281] == "n02123045"
    assert found.name == f"folder:{tmp_path};classes=1000"
    assert "the folders are 4 of ImageNet's 1,000 classes" in found.notes[1]
    assert "(;classes=4 numbers them 0 to 3)" in found.notes[1]
    assert data.load(found.name).digest() == found.digest()


def test_the_table_of_names_is_that_of_torchvision() -> None:
    from torchvision.models import ResNet18_Weights

    for place, name in enumerate(ResNet18_Weights.DEFAULT.meta["categories"]):
        if name in ("crane bird", "maillot tank suit"):  # torchvision's own words
            continue
        with suppress(UserError):  # some words are two classes
            assert imagenet_names.numbers([name]) == {name: place}


@pytest.mark.parametrize(
    "names, message",
    [
        (("crane", "tench"), "crane is the name of 2 classes of ImageNet; write which: n02012849 or n03126707"),
        (("n01440764", "tench"), "n01440764 and tench are the same class of ImageNet"),
    ],
)
def test_names_that_are_two_classes_are_refused(tmp_path: Path, names: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data.load(f"folder:{photos(tmp_path, names)}")


def test_one_class_of_imagenet_is_enough(tmp_path: Path) -> None:
    assert data.load(f"folder:{photos(tmp_path, WNIDS[1:2])}").labels.tolist() == [281]


@pytest.mark.parametrize("said", [";classes=4", ";classes=4;train={top}", ";train={top}"])
def test_what_is_said_or_trained_on_numbers_imagenets_folders_itself(tmp_path: Path, said: str) -> None:
    top = photos(tmp_path, WNIDS)
    found = data.load(f"folder:{top}{said.format(top=top)}")
    assert (found.labels.tolist(), found.num_classes, found.class_names) == ([0, 1, 2, 3], 4, WNIDS)


def test_a_pretrained_head_numbers_them_even_where_something_is_trained(tmp_path: Path) -> None:
    top = photos(tmp_path, WNIDS)
    found = planned(top, PRETRAINED, options=f";train={top}")
    assert (found.labels.tolist(), found.num_classes) == (INDICES, 1000)


@pytest.mark.parametrize("hub", ["timm", "torchvision"])
def test_a_system_of_1000_classes_is_asked_for_the_right_ones(tmp_path: Path, hub: str) -> None:
    """The network's own answers, on images cropped as it wants them, are compared with labels in its numbering."""
    from robustbench_lite import zoo

    top = photos(tmp_path, WNIDS, size=(300, 260))
    model = f"{hub}:resnet18;random=true"
    found = planned(top, model)
    loaded = zoo.load(model, num_classes=found.num_classes, input_shape=found.shape, class_names=found.class_names)
    assert (loaded.num_classes, found.shape) == (1000, (3, 224, 224))
    assert loaded.module(found.batch([0])).shape == (1, 1000)
    assert found.labels.tolist() == INDICES


# -- other names and heads ----------------------------------------------------------------------------------------


def test_other_names_are_numbered_in_order_and_told(tmp_path: Path) -> None:
    found = data.load(f"folder:{photos(tmp_path, ('zebra crossing', 'car', 'bus'))}")
    assert found.class_names == ("bus", "car", "zebra crossing")
    assert found.notes[1].endswith("the folders are numbered in their order: 0 bus, 1 car, 2 zebra crossing")


def test_names_that_tell_nothing_are_refused_beside_a_larger_head(tmp_path: Path) -> None:
    top = photos(tmp_path, ("left", "right"), size=(300, 300))
    message = r"has 2 class folders, left, right, but timm:resnet18;pretrained=true has 1,000 classes; .*;classes=2"
    with pytest.raises(UserError, match=message):
        planned(top, PRETRAINED)


@pytest.mark.parametrize(
    "names, models, labels, classes",
    [
        (("0", "1", "2"), (), [0, 1, 2], 3),
        (tuple(map(str, range(12))), (), list(range(12)), 12),
        (("7", "12"), (PRETRAINED,), [7, 12], 1000),
        (("0", "1"), (PRETRAINED,), [0, 1], 1000),
        (("1", "2", "3"), ("timm:resnet18;num_classes=3",), [0, 1, 2], 3),
        (("1", "2", "3"), ("timm:resnet18;num_classes=4",), [1, 2, 3], 4),
    ],
)
def test_numbers_are_labels_where_a_head_or_their_order_says_so(
    tmp_path: Path, names: Sequence[str], models: tuple[str, ...], labels: list[int], classes: int
) -> None:
    found = planned(photos(tmp_path, names, size=(224, 224)), *models)
    assert (found.labels.tolist(), found.num_classes) == (labels, classes)


@pytest.mark.parametrize(
    "names, options, message",
    [
        (("1", "2", "3"), "", r"could be labels or names; say ;classes=4 \(or more\) if .*, or ;classes=3"),
        (("07", "7"), "", "name the class 7 twice"),
        (("1", "2", "40"), ";classes=7", "not classes=7; which class each one is must be told"),
    ],
)
def test_numbers_that_nobody_explains_are_refused(
    tmp_path: Path, names: Sequence[str], options: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planned(photos(tmp_path, names), options=options)


def test_two_heads_of_different_sizes_have_no_common_numbering(tmp_path: Path) -> None:
    top = photos(tmp_path, ("left", "right"))
    with pytest.raises(
        UserError, match=r"num_classes=7 has 7 classes and .*num_classes=9 has 9; evaluate them one by one"
    ):
        planned(top, "timm:resnet18;num_classes=7", "timm:resnet18;num_classes=9")


def test_a_checkpoints_card_tells_its_head(tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(json.dumps({"num_classes": 12}))
    models = (f"checkpoint:{tmp_path / 'net.safetensors'}", "small-cnn", "robustbench:X;dataset=cifar100", "no.py:such")
    assert list(expected_of(models).classes.values()) == [12, 100]
    assert expected_of(("timm:resnet18;num_classes=x", "timm:nosuch;pretrained=true", "((")).classes == {}


# -- preprocessing ------------------------------------------------------------------------------------------------


def test_images_are_resized_and_cropped_as_timm_does_it(tmp_path: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    for place, size in enumerate([(300, 260), (231, 400), (500, 500)]):
        photos(tmp_path, WNIDS[place : place + 1], size)
    found = planned(tmp_path, "timm:resnet18;random=true")
    assert found.name == f"folder:{tmp_path};size=224;resize=235;interpolation=bicubic;classes=1000"
    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("resnet18").to_dict())
    own = create_transform(**{**config, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    for place, wnid in enumerate(WNIDS[:3]):
        expected = own(Image.open(tmp_path / wnid / "x.png"))
        torch.testing.assert_close(found.batch([place])[0], expected, rtol=0, atol=0)
    assert "wants the shorter side resized to 235 (bicubic) and the centre of 224 x 224" in found.notes[1]
    again = data.load(found.name)  # without any model
    assert (again.name, again.digest()) == (found.name, found.digest())
    assert found.digest() != data.load(f"folder:{tmp_path};size=224;resize=235").digest()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_images_are_resized_and_cropped_as_torchvision_does_it(tmp_path: Path, name: str) -> None:
    from torchvision.models import get_model_weights
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    photos(tmp_path, WNIDS[:1], (300, 260))
    photos(tmp_path, WNIDS[1:2], (400, 300))
    found = planned(tmp_path, f"torchvision:{name};pretrained=true")
    own = get_model_weights(name).DEFAULT.transforms()
    image = Image.open(tmp_path / WNIDS[0] / "x.png")
    resized = center_crop(resize(image, own.resize_size, own.interpolation), own.crop_size)
    assert torch.equal((found.batch([0])[0] * 255).round(), pil_to_tensor(resized).float())


def test_models_with_different_preprocessings_are_refused_unless_a_size_is_said(tmp_path: Path) -> None:
    photos(tmp_path, WNIDS, (300, 260))
    both = "timm:resnet18;random=true", "torchvision:resnet18;random=true"
    with pytest.raises(
        UserError, match=r"235 \(bicubic\).* and torchvision:resnet18.*256 \(bilinear\).*such as ;size=224"
    ):
        planned(tmp_path, *both)
    assert planned(tmp_path, *both, options=";size=200").shape == (3, 200, 200)
    assert planned(tmp_path, both[0], "timm:resnet18;pretrained=true", "small-cnn").shape == (3, 224, 224)


@pytest.mark.parametrize(
    "size, model, shape",
    [
        ((224, 224), PRETRAINED, 224),  # prepared already
        ((32, 32), PRETRAINED, 224),  # the hub's weights want it
        ((32, 32), "timm:resnet18;random=true", 32),  # a network for small images
        ((300, 300), "timm:resnet18;weights=mine.safetensors", 224),
        ((300, 300), "small-cnn", 300),
        ((300, 300), "timm:resnet18;random=true;resize=64", 300),  # the model resizes by itself
    ],
)
def test_images_that_are_prepared_already_stay_as_they_are(
    tmp_path: Path, size: tuple[int, int], model: str, shape: int
) -> None:
    found = planned(photos(tmp_path, WNIDS, size), model)
    assert found.shape == (3, shape, shape)
    assert ("size=224" in found.name) == (size != (224, 224) and shape == 224)


def test_a_model_that_wants_squeezed_images_is_refused_unless_they_are_so_or_a_size_is_said(tmp_path: Path) -> None:
    model, top = "timm:dm_nfnet_f0;pretrained=true", photos(tmp_path / "all", WNIDS)
    with pytest.raises(
        UserError,
        match=r"squeezed to 213 x 213 \(bicubic\) and the centre of 192 x 192 cut .*, or say ;size=192",
    ):
        planned(top, model)
    assert planned(top, model, options=";size=192").shape == (3, 192, 192)
    assert planned(photos(tmp_path / "done", WNIDS, (192, 192)), model).shape == (3, 192, 192)
    assert planned(top, f"{model};resize=192").shape == (3, 40, 32)  # the model does it
    assert planned(top, "timm:dm_nfnet_f0;weights=own.safetensors").shape == (3, 40, 32)  # it may be trained on such


def test_the_interpolation_can_be_said_where_a_model_says_the_size(tmp_path: Path) -> None:
    photos(tmp_path, WNIDS, (300, 260))
    found = planned(tmp_path, "timm:resnet18;random=true", options=";interpolation=bilinear")
    assert found.name.startswith(f"folder:{tmp_path};interpolation=bilinear;size=224;resize=235")
    with pytest.raises(UserError, match="interpolation=bicubic needs a size"):
        planned(tmp_path, options=";interpolation=bicubic")


# -- tables -------------------------------------------------------------------------------------------------------

FILES = ("a.png", "b.png", "c.png")


def table(top: Path, text: str | bytes) -> str:
    photos(top, ("",))
    for name in FILES:
        Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(top / name)
    (top / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"folder:{top};labels=t.csv"


ROWS = "file,label\na.png,2\nb.png,0\nc.png,1\n"


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.encode("utf-16"),
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace(",", " "),
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("file,label\n", ""),
        ROWS.replace("file,label\n", "").replace(",", " "),
        "2;a.png\n0;b.png\n1;c.png\n",
        ROWS.replace("file", "Filename").replace("label", "Class_Index"),
        ROWS.replace("2", "2.0"),
        "id,split,label,file\n1,x,2,a.png\n2,x,0,b.png\n3,x,1,c.png\n",
        "file,index,wnid\na.png,2,n01484850\nb.png,0,n01440764\nc.png,1,n01443537\n",
    ],
)
def test_tables_are_read_as_people_write_them(tmp_path: Path, text: str | bytes) -> None:
    found = data.load(table(tmp_path, text))
    assert [file.name for file in found.images.files] == list(FILES) or text[0:1] == "2"  # type: ignore[attr-defined]
    assert (found.labels.tolist(), found.num_classes) == ([2, 0, 1], 3)


@pytest.mark.parametrize(
    "text, labels, classes",
    [
        ("file,wnid\na.png,n02123045\nb.png,n01440764\nc.png,n02123045\n", [281, 0, 281], 1000),
        ("file,label\na.png,tabby\nb.png,tench\nc.png,banana\n", [281, 0, 954], 1000),
        ("file,label\na.png,good\nb.png,bad\nc.png,good\n", [1, 0, 1], 2),
    ],
)
def test_classes_in_a_table_may_have_names(tmp_path: Path, text: str, labels: list[int], classes: int) -> None:
    found = data.load(table(tmp_path, text))
    assert (found.labels.tolist(), found.num_classes) == (labels, classes)
    assert "the labels are" in found.notes[1]


def test_a_head_of_1000_classes_is_that_of_a_table_of_numbers(tmp_path: Path) -> None:
    spec = table(tmp_path, ROWS)
    found = load_data(Plan(dataset=f"{spec};size=9", models=(PRETRAINED,)))
    assert (found.num_classes, found.name) == (1000, f"{spec};size=9;classes=1000")
    assert data.load(spec).num_classes == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,index,class\na.png,0,x\nb.png,1,x\nc.png,2,y\n", "columns index and class, which say different things"),
        ("a.png,1\nb.png\n", "has the columns a.png, 1; it needs a file"),
        ("file,label\na.png,1\nb.png\n", "has the label '' in the row b.png"),
        ("file,label\na.png,-1\nb.png,0\n", "has the label '-1'; accepted: whole numbers from 0"),
        ("file,label\na.png,1.5\nb.png,0\n", "has the label '1.5'"),
        ("file,label\na.png,1\nb.pgn,0\n", r"names b.pgn, which is not in .*; did you mean b.png\?"),
        ("file,label\n/etc/passwd,1\n", "names /etc/passwd, which is not in"),
        (b"file,label\n\xff\xfe\xfa,1\n", "is not UTF-8"),
        (
            "file,label,split\na.png,1,train\nb.png,0,test\n",
            "several splits: split is train, test; keep the rows of one",
        ),
        ("file,label\na.png,1000000\nb.png,0\n", "has the label 1000000; accepted: below 1,000,000"),
        ("", "has no rows"),
        ("file,label\n", "has no rows"),
        (f"{'x' * 5000},{'y' * 5000}\n", r"has the columns x{40}, y{40};"),
    ],
)
def test_tables_that_tell_nothing_sure_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data.load(table(tmp_path, text))
    assert len(str(caught.value)) < 600


def test_images_that_the_table_leaves_out_are_counted(tmp_path: Path) -> None:
    found = data.load(table(tmp_path, ROWS.replace("c.png,1\n", "")))
    assert any("images in the folder are not in t.csv, and left out" in note for note in found.notes)


# -- real ---------------------------------------------------------------------------------------------------------


def test_the_imagenet_samples_in_folders_have_the_labels_of_their_table(tmp_path: Path) -> None:
    import csv
    import shutil

    source = shared_data() / "imagenet-samples"
    with (source / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))[:10]
    for row in rows:
        (tmp_path / row["wnid"]).mkdir()
        shutil.copy(source / row["file"], tmp_path / row["wnid"])
    found = planned(tmp_path, "timm:resnet18;random=true")
    assert found.labels.tolist() == [int(row["index"]) for row in rows]
    assert (found.shape, found.num_classes) == ((3, 224, 224), 1000)
