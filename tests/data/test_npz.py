"""`npz:FILE`: real files, good and bad."""

import pickle
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite import data
from robustbench_lite.errors import UserError
from robustbench_lite.zoo.load import load

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


X8 = np.random.default_rng(0).integers(0, 17, (6, 8, 8))
X8[:, 0, 0] = 16
Y8 = np.arange(6) % 3


@pytest.mark.parametrize(
    "x, scale, message",
    [
        (X8.astype(np.uint8), "16", r"uint8, where white is 255, but their largest value is 16; probably white is 16"),
        ((X8 > 8).astype(np.uint8), "1", r"their largest value is 1; probably they are masks of 0 and 1"),
        ((X8 / 16).astype(np.uint8), "1", "or float images cut to whole numbers"),
        ((X8 * 15).astype(np.uint8) // 8, "30", "largest value is 30"),
        ((X8 / 16 / 255).astype(np.float32), "1/255", "float, where white is 1, .*0.003922; .*divided by 255 twice"),
        ((X8 / 255).astype(np.float64), "16/255", "0.06275; probably they were divided by more than their white"),
        (X8.astype(np.int64), "16", r"the images are int64; accepted: uint8 from 0 to 255, or float"),
        ((X8 > 8), "1", r"the images are bool; accepted: uint8"),
        ((X8 * 4095 // 16).astype(np.uint16), "4095", "the images are uint16"),
        (X8.astype(np.float32), "16", r"range from 0 to 16; .*divide by 255 or store uint8, or say"),
    ],
)
def test_another_scale_is_refused_with_the_option_that_says_it(tmp_path, x, scale, message):
    path = written(tmp_path, x=x, y=Y8)
    with pytest.raises(UserError, match=f"{message}.*;scale={scale}"):
        data.load(f"npz:{path}")
    found = data.load(f"npz:{path};scale={scale}")
    pixels = found.batch(range(6)).numpy()[:, 0]
    np.testing.assert_allclose(pixels, x.astype(float) / (eval(scale)), rtol=1e-6)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert found.name == f"npz:{path};scale={scale}"


def test_digits_of_sixteen_levels_are_then_bit_for_bit_those_that_were_divided(tmp_path):
    one = written(tmp_path, "u8.npz", x=X8.astype(np.uint8), y=Y8)
    other = written(tmp_path, "f4.npz", x=(X8 / 16).astype(np.float32), y=Y8)
    assert data.load(f"npz:{one};scale=16").digest() == data.load(f"npz:{other}").digest()


@pytest.mark.parametrize(
    "x",
    [
        X8.astype(np.uint8) * 15,
        X8.astype(np.uint8) * 4,  # dark, but no other scale that anybody uses
        (X8 > 8).astype(np.uint8) * 255,
        (X8 > 8).astype(np.float32),
        (X8 / 16 * 0.2).astype(np.float32),
    ],
)
def test_honest_images_pass_and_their_range_is_told(tmp_path, x):
    found = data.load(f"npz:{written(tmp_path, x=x, y=Y8)}")
    assert f"6 images 1x8x8, {'uint8' if x.dtype == np.uint8 else 'float'} 0 to {x.max():g}, mean " in found.notes[0]
    assert found.provenance["levels"]["highest"] == x.max()
    assert (";scale=64" in found.notes[0]) == (x.max() == 64)


def test_a_scale_that_the_images_exceed_is_refused(tmp_path):
    path = written(tmp_path, x=X8.astype(np.uint8), y=Y8)
    with pytest.raises(UserError, match=r"range from 0 to 16; ;scale=15 says that white is 15"):
        data.load(f"npz:{path};scale=15")
    for scale in ("0", "-1"):
        with pytest.raises(UserError, match="accepted: the level that is white"):
            data.load(f"npz:{path};scale={scale}")
    assert data.load(f"npz:{path};scale=255").batch([0]).max() == torch.tensor(16 / 255)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_images_of_one_colour_are_refused(tmp_path, level):
    path = written(tmp_path, x=np.full((6, 8, 8), level, np.uint8), y=Y8)
    for options in ("", ";scale=255"):
        with pytest.raises(UserError, match=r"every pixel is .*; there is nothing on the images"):
            data.load(f"npz:{path}{options}")


def test_a_file_that_unpacks_to_more_than_the_memory_is_refused_before(tmp_path, monkeypatch):
    path = written(tmp_path, x=X8.astype(np.uint8) * 15, y=Y8)
    monkeypatch.setattr("os.sysconf", lambda name: 16)
    with pytest.raises(UserError, match=r"unpacks to 0.0 GiB, and the memory holds 0.0 GiB"):
        data.load(f"npz:{path}")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": GREY}, "has no array 'y'; it has x"),
        ({"images": GREY, "y": Y}, "has no array 'x'; it has images, y"),
        ({"x": GREY.astype(np.float32), "y": Y}, "the images range from 0 to 209; .*divide by 255 or store uint8"),
        ({"x": np.full(GREY.shape, np.nan), "y": Y}, "contain NaN"),
        ({"x": np.full(GREY.shape, np.inf), "y": Y}, "range from inf to inf"),
        ({"x": GREY / 255 - 0.5, "y": Y}, "range from -0.5.*; if they are normalised, give x \\* std"),
        ({"x": GREY.astype(np.int64), "y": Y}, "the images are int64; accepted: uint8"),
        ({"x": GREY > 3, "y": Y}, "the images are bool"),
        ({"x": GREY, "y": Y.astype(float)}, "the labels are float64; accepted: whole numbers from 0; save y.astype"),
        ({"x": GREY, "y": Y - 1}, "a label is -1"),
        ({"x": GREY, "y": Y[:4]}, r"labels have shape \(4,\); accepted: \(5,\)"),
        ({"x": GREY, "y": np.eye(5, dtype=int)}, r"labels have shape \(5, 5\).*; give y.argmax\(1\)"),
        ({"x": GREY, "y": Y[:, None]}, r"labels have shape \(5, 1\).*; give y.ravel\(\)"),
        ({"x": GREY, "y": np.array(["a", "b", "a", "b", "a"])}, "the labels are <U1; .*return_inverse"),
        ({"x": GREY, "y": Y[None]}, r"labels have shape \(1, 5\); accepted: \(5,\).*; give y.ravel\(\)"),
        ({"x": GREY, "y": np.eye(5)}, r"the labels are float64; .*; give y.argmax\(1\)"),
        ({"x": GREY, "y": np.array(["1", "10", "2", "0", "1"])}, r"the labels are <U2; .*; save y.astype\(int\)"),
        ({"x": GREY, "y": Y > 1}, r"the labels are bool; .*; save y.astype\(int\)"),
        (
            {"x": GREY, "y": np.full(5, 2**63, dtype=np.uint64)},
            "labels reach 9223372036854775808; accepted: below 1,000,000",
        ),
        ({"x": GREY, "y": Y * 10**9}, "labels reach 3000000000; accepted: below 1,000,000; number the classes"),
        (
            {"x": np.moveaxis(GREY, 0, -1), "y": Y},
            r"its last axis counts the images; save x=numpy.moveaxis\(x, -1, 0\)",
        ),
        ({"x": (GREY / 200).clip(0, 1) * 1.1 - 0.05, "y": Y}, r"if a resizing went beyond it, give x.clip\(0, 1\)"),
        ({"x": np.arange(-105, 105).reshape(5, 6, 7).astype(np.int8), "y": Y}, r"int8; .*; give x.view\(numpy.uint8\)"),
        (
            {"x": GREY / 255 * 0.01 + 0.5, "y": Y},
            "every pixel is between 0.5 and 0.508.*; say ;scale=1 if they are so faint",
        ),
        ({"x": GREY, "y": np.array(3)}, r"labels have shape \(\); accepted: \(5,\)"),
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


def test_a_file_of_torch_is_called_so(tmp_path):
    torch.save({"x": torch.tensor(GREY), "y": torch.tensor(Y)}, tmp_path / "set.npz")
    with pytest.raises(UserError, match=r"is a file of torch.save, not an .npz; save it with numpy.savez"):
        data.load(f"npz:{tmp_path / 'set.npz'}")


def test_what_is_no_npz_at_all_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", GREY)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, message in [
        ("one.npy", "is one array, not an .npz"),
        ("text.npz", "contains Python objects|not a readable"),
        ("empty.npz", "not a readable .npz"),
        ("none.npz", "there is no file"),
        ("", "is a folder; accepted: FILE.npz"),
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


def test_weights_of_a_larger_head_than_the_labels_tell_name_the_cure(tmp_path):
    save_file(torch.nn.Linear(42, 10).state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    class Net(nn.Linear):\n"
        "        def forward(self, x):\n"
        "            return super().forward(x.flatten(1))\n"
        "    return Net(42, num_classes)\n"
    )
    model = f"{tmp_path / 'net.py'}:make;weights={tmp_path / 'net.safetensors'}"
    path = written(tmp_path, x=GREY, y=Y)
    small = data.load(f"npz:{path}")
    with pytest.raises(
        UserError, match=r"shape \(10, 42\), not \(4, 42\); the network was built for the 4 classes .*say ;classes=10"
    ):
        load(model, num_classes=small.num_classes, input_shape=small.shape)
    whole = data.load(f"npz:{path};classes=10")
    assert load(model, num_classes=whole.num_classes, input_shape=whole.shape).num_classes == 10
