"""`npz:FILE`: real files, good and bad."""

import pickle
from contextlib import suppress

import numpy as np
import pytest
import torch

from robustbench_lite import data
from robustbench_lite.errors import UserError

GREY = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
Y = np.array([0, 1, 2, 1, 3])


def written(folder, name="set.npz", **arrays):
    path = folder / name
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "x, options, shape",
    [
        (GREY, "", (1, 6, 7)),
        (GREY[..., None], "", (1, 6, 7)),
        (GREY[:, None], "", (1, 6, 7)),
        (np.stack([GREY] * 3, axis=-1), "", (3, 6, 7)),
        (np.stack([GREY] * 3, axis=1), "", (3, 6, 7)),
        (np.stack([GREY] * 4, axis=-1), ";layout=nhwc", (4, 6, 7)),
        (GREY[:, None, :1], ";layout=nchw", (1, 1, 7)),
        (GREY[:, :3, :, None][:, :, :3], ";layout=NHWC", (1, 3, 3)),
    ],
)
def test_every_layout_gives_the_same_pixels(tmp_path, x, options, shape):
    found = data.load(f"npz:{written(tmp_path, x=x, y=Y)}{options}")
    assert (found.shape, found.num_classes, found.class_names, len(found)) == (shape, 4, None, 5)
    _, h, w = shape
    expected = torch.from_numpy(GREY[:, :h, :w].copy()).float()[:, None].expand(5, *shape) / 255
    torch.testing.assert_close(found.batch(range(5)), expected, rtol=0, atol=0)
    assert found.labels_at([4, 0]).tolist() == [3, 0]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_in_the_unit_interval_stay_what_they_are(tmp_path, kind):
    x = (GREY / 255).astype(kind)
    found = data.load(f"npz:{written(tmp_path, x=x, y=Y.astype(np.uint8))}")
    assert found.batch([2]).numpy()[0, 0].tolist() == x[2].astype(np.float32).tolist()


def test_the_train_file_is_the_training_split_and_the_classes_are_those_of_both(tmp_path):
    test = written(tmp_path, "test.npz", x=GREY[:2], y=Y[:2])
    train = written(tmp_path, "train.npz", x=GREY, y=Y)
    spec = f"npz:{test};train={train}"
    both = [data.load(spec, split) for split in ("test", "train")]
    assert [len(found) for found in both] == [2, 5]
    assert [found.num_classes for found in both] == [4, 4]
    assert [found.name for found in both] == [spec, spec]
    with pytest.raises(UserError, match=r"is test data; name what is trained on with ;train=FILE"):
        data.load(f"npz:{test}", "train")


def test_the_number_of_classes_can_be_said(tmp_path):
    path = written(tmp_path, x=GREY, y=Y)
    assert data.load(f"npz:{path};classes=10").num_classes == 10
    with pytest.raises(UserError, match="labels reach 3 but there are 3 classes"):
        data.load(f"npz:{path};classes=3")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": GREY}, "has no array 'y'; it has x"),
        ({"images": GREY, "y": Y}, "has no array 'x'; it has images, y"),
        ({"x": GREY.astype(np.float32), "y": Y}, "the images range from 0 to 209; .*divide by 255 or store uint8"),
        ({"x": np.full(GREY.shape, np.nan), "y": Y}, "contain NaN"),
        ({"x": np.full(GREY.shape, np.inf), "y": Y}, "range from inf to inf"),
        ({"x": GREY / 255 - 0.5, "y": Y}, "range from -0.5"),
        ({"x": GREY.astype(np.int64), "y": Y}, "the images are int64; accepted: uint8"),
        ({"x": GREY > 3, "y": Y}, "the images are bool"),
        ({"x": GREY, "y": Y.astype(float)}, "the labels are float64"),
        ({"x": GREY, "y": Y - 1}, "a label is -1"),
        ({"x": GREY, "y": Y[:4]}, r"labels have shape \(4,\); accepted: \(5,\)"),
        ({"x": GREY, "y": np.eye(5, dtype=int)}, r"labels have shape \(5, 5\)"),
        ({"x": GREY, "y": np.array(3)}, r"labels have shape \(\)"),
        ({"x": GREY[:0], "y": Y[:0]}, "there are no labels"),
        ({"x": GREY[:, :0], "y": Y}, "there are no images"),
        ({"x": GREY[0], "y": Y}, r"x has shape \(6, 7\); accepted: \(n, h, w\)"),
        ({"x": np.stack([GREY] * 2, -1), "y": Y}, "neither the second nor the last axis .* say ;layout="),
        ({"x": GREY[:, :3, :, None], "y": Y}, "both the second and the last axis"),
        ({"x": np.array([GREY, None], dtype=object), "y": Y}, "contains Python objects .*could run code"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        data.load(f"npz:{written(tmp_path, **arrays)}")


class Payload:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


def test_a_pickle_with_a_payload_is_refused_and_the_payload_does_not_run(tmp_path):
    witness, path = tmp_path / "witness", tmp_path / "set.npz"
    for content in (pickle.dumps(Payload(witness)), None):
        if content is None:
            np.savez(path, x=np.array([Payload(witness)], dtype=object), y=Y[:1])
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match="pickle"):
            data.load(f"npz:{path}")
    assert not witness.exists()


def test_a_damaged_file_is_refused_wherever_it_is_cut_or_hit(tmp_path):
    path = written(tmp_path, x=np.tile(GREY, (4, 1, 1)), y=np.tile(Y, 4))
    whole = path.read_bytes()
    right = data.load(f"npz:{path}").digest()
    for place in range(0, len(whole), 37):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(content)
            with suppress(UserError):  # a byte that nothing depends on may change; what is read may not
                assert data.load(f"npz:{path}").digest() == right


def test_what_is_no_npz_at_all_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", GREY)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, message in [
        ("one.npy", "is one array, not an .npz"),
        ("text.npz", "contains Python objects|not a readable"),
        ("empty.npz", "not a readable .npz"),
        ("none.npz", "there is no file"),
        ("", "there is no file"),
    ]:
        with pytest.raises(UserError, match=message):
            data.load(f"npz:{tmp_path / name}")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("npz:", "write npz:PATH"),
        ("npz:a.npz;layout=hwc", "layout=hwc; accepted: nchw, nhwc"),
        ("npz:a.npz;claases=3", "has no option 'claases'.*did you mean classes"),
        ("npz:a.npz;classes=ten", "classes=ten is not a whole number"),
        ("npz:a.npz;train", "cannot read the option 'train'"),
    ],
)
def test_bad_options_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        data.load(spec)
