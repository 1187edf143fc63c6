"""`verify`: the engine's verdict on submitted examples, against closed forms and against the records of an evaluation."""

import argparse
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Affine, affine

import robustbench_lite as rbl
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.run.submission import read
from robustbench_lite.run.verify import FATES, Verified, verify
from robustbench_lite.system import System

SHAPE = (1, 4, 4)


def two_sided() -> tuple[System, Tensor]:
    """Class 1 where the mean of the pixels is above 1/2; and images whose distance to that is known."""
    weight = torch.stack((torch.zeros(16), torch.ones(16)))
    system = System(
        model=Affine(weight, torch.tensor([0.0, -8.0])), num_classes=2, input_shape=SHAPE, name="above-half"
    )
    levels = torch.tensor([0.40, 0.35, 0.30, 0.60, 0.70])
    return system, levels.view(-1, 1, 1, 1).expand(-1, *SHAPE).clone()


LABELS = torch.tensor([0, 0, 0, 1, 1])
#: towards the other class, in Linf: the smallest perturbations that break are 0.10, 0.15, 0.20, 0.10, 0.20
TOWARDS = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]).view(-1, 1, 1, 1)


def saved(folder: Path, name: str = "adv.npz", **arrays: Any) -> Path:
    held = {key: value.numpy() if isinstance(value, Tensor) else np.asarray(value) for key, value in arrays.items()}
    np.savez(folder / name, **held)
    return folder / name


def judged(folder: Path, adv: Tensor, **options: Any) -> Verified:
    system, x = two_sided()
    return verify(saved(folder, x_adv=adv), system, x, LABELS, **{"threat": "Linf:0.2", **options})


def test_exactly_eps_counts_and_a_hundred_thousandth_more_does_not(tmp_path: Path) -> None:
    system, x = two_sided()
    x = x.double()
    for eps in (0.1, 0.15, 0.2, 8 / 255):
        for factor, valid in ((1 - 1e-5, True), (1.0, True), (1 + 1e-5, False), (2.0, False)):
            adv = x + TOWARDS * eps * factor
            found = verify(saved(tmp_path, x_adv=adv.float()), system, x.float(), LABELS, threat=f"Linf:{eps}")
            assert found.samples["valid"].tolist() == [valid] * 5, (eps, factor)
            assert found.counts["outside-threat"] == (0 if valid else 5)
            assert found.robust == (pytest.approx(1 - found.samples["broken"].mean()) if valid else None)
            if not valid:
                assert found.samples["beyond"].to_numpy() == pytest.approx(eps * (factor - 1), abs=2e-7)


def test_what_breaks_is_what_the_closed_form_says(tmp_path: Path) -> None:
    _, x = two_sided()
    for eps in (0.05, 0.101, 0.151, 0.199):
        found = judged(tmp_path, x + TOWARDS * eps)
        margins = np.array([0.10, 0.15, 0.20, 0.10, 0.20])
        assert found.samples["broken"].tolist() == (margins < eps).tolist(), eps
        assert found.robust == (margins >= eps).mean()
        assert found.samples["linf"].to_numpy() == pytest.approx(eps, abs=1e-6)
        assert found.samples["l2"].to_numpy() == pytest.approx(4 * eps, abs=1e-5)


def test_every_example_meets_one_fate(tmp_path: Path) -> None:
    system, x = two_sided()
    adv = x + TOWARDS * 0.15
    adv[0] = 0.61  # breaks, and 0.21 away
    adv[1] = float("nan")
    adv[2, 0, 0, 0] = -0.25  # leaves the box; 0.25 beyond it
    labels = LABELS.clone()
    labels[4] = 0  # wrong as it is
    found = verify(saved(tmp_path, x_adv=adv), system, x, labels, threat="Linf:0.2")
    assert found.samples["fate"].tolist() == ["outside-threat", "not-finite", "outside-box", "broken", "clean-wrong"]
    assert found.counts == {
        **dict.fromkeys(FATES, 1),
        "not-broken": 0,
    }
    assert found.left.tolist() == [True, True, True, False, False]
    assert (found.could, found.judged, found.robust) == (4, 1, None)  # three of four do not count
    assert found.bounds == (0.0, 0.6)
    assert found.samples["beyond"].to_numpy()[[0, 2]] == pytest.approx([0.01, 0.25], abs=1e-6)
    told = json.loads(found.write(tmp_path / "deep/verdict.json").read_text())
    assert told["counts"] == found.counts
    assert (told["n"], told["robust_accuracy"], told["bounds"]) == (5, None, [0.0, 0.6])
    assert [row["reason"] for row in told["samples"]] == found.samples["fate"].replace("broken", "").tolist()
    assert told["samples"][1]["linf"] is None
    assert told["samples"][0]["prediction"] == -1
    assert {len(told[part]["digest"]) for part in ("file", "system", "data")} == {32}


def test_without_an_eps_any_distance_counts(tmp_path: Path) -> None:
    _, x = two_sided()
    found = judged(tmp_path, 1 - x, threat="L2")
    assert found.counts["broken"] == 5
    assert found.samples["distance"].to_numpy() == pytest.approx([0.8, 1.2, 1.6, 0.8, 1.6], abs=1e-5)


def test_positions_and_labels_in_the_file_are_heard(tmp_path: Path) -> None:
    system, x = two_sided()
    rows = torch.tensor([4, 0])
    adv = (x + TOWARDS * 0.15)[rows]
    for names in (("indices", "y"), ("index", "labels")):
        given = dict(zip(names, (rows, LABELS[rows]), strict=True))
        found = verify(saved(tmp_path, adv=adv, **given), system, x, LABELS)
        assert found.samples["index"].tolist() == [4, 0]
        assert found.samples["broken"].tolist() == [False, True]
    found = verify(saved(tmp_path, adv=adv.flip(0)[:1]), system, x, LABELS)  # the first n
    assert found.samples["index"].tolist() == [0]
    with pytest.raises(UserError, match="says 0 of image 4, which tensors labels 1; is it in another order"):
        verify(saved(tmp_path, adv=adv, indices=rows, y=[0, 0]), system, x, LABELS)


CHANNELS = torch.rand(3, 3, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "shape, change",
    [
        ((3, 5, 6), lambda x: x),
        ((3, 5, 6), lambda x: x.permute(0, 2, 3, 1)),
        ((3, 5, 6), lambda x: x.double()),
        ((1, 5, 6), lambda x: x[:, :1]),
        ((1, 5, 6), lambda x: x[:, 0]),
        ((1, 5, 6), lambda x: x[:, 0].flatten(1)),
    ],
)
def test_every_accepted_shape_is_the_same_images(
    tmp_path: Path, shape: tuple[int, int, int], change: Callable[[Tensor], Tensor]
) -> None:
    expected, given = CHANNELS[:, : shape[0]], change(CHANNELS)
    np.save(tmp_path / "bare.npy", given.numpy())
    torch.save(given, tmp_path / "bare.pt")
    torch.save({"images": given, "epoch": 3}, tmp_path / "named.pth")
    for path in (
        *(saved(tmp_path, f"{name}.npz", **{name: given}) for name in ("x_adv", "adv", "x", "images", "arr_0")),
        *(tmp_path / name for name in ("bare.npy", "bare.pt", "named.pth")),
    ):
        found = read(path, shape)
        assert torch.equal(found.images, expected), path
        assert (found.indices, found.labels) == (None, None)


def test_whole_numbers_are_levels_of_256(tmp_path: Path) -> None:
    levels = (CHANNELS * 255).round().to(torch.uint8)
    found = read(saved(tmp_path, x_adv=levels), (3, 5, 6))
    assert torch.equal(found.images, levels.float() / 255)


Y3 = torch.tensor([1, 0, 2])
#: what other programs and scripts save
SAVED: dict[str, Any] = {
    "AutoAttack": CHANNELS,
    "AutoAttack, named": {"adv_complete": CHANNELS, "args": argparse.Namespace(eps=0.03, norm="Linf"), "log": None},
    "torchattacks": {"adv_inputs": CHANNELS, "labels": Y3, "preds": Y3, "inputs": CHANNELS * 0, "save_type": "float"},
    "torchattacks of old": (CHANNELS, Y3),
    "a list of images": list(CHANNELS),
    "a list of batches": [CHANNELS[:2], CHANNELS[2:]],
    "a list of labelled batches": [(CHANNELS[:2], Y3[:2]), (CHANNELS[2:], Y3[2:])],
    "numpy arrays": {"x_adv": CHANNELS.numpy(), "acc": np.float64(0.5)},
    "a table in a table": {"result": {"adv_images": CHANNELS, "y": Y3}},
    "another name": {"perturbed": CHANNELS, "epoch": 3, "labels": Y3.tolist()},
    "a parameter": torch.nn.Parameter(CHANNELS.clone()),
}


@pytest.mark.parametrize("case", SAVED)
def test_files_of_other_tools_are_read(tmp_path: Path, case: str) -> None:
    torch.save(SAVED[case], tmp_path / "adv.pth")
    found = read(tmp_path / "adv.pth", (3, 5, 6))
    assert torch.equal(found.images, CHANNELS)
    assert found.labels is None or found.labels.tolist() == Y3.tolist()
    assert (found.labels is not None) == ("label" in case or "torchattacks" in case or case[:4] in ("anot", "a ta"))


def test_quantised_examples_of_torchattacks_are_levels(tmp_path: Path) -> None:
    levels = (CHANNELS * 255).round().to(torch.uint8)
    torch.save({"adv_inputs": levels, "labels": Y3, "save_type": "int"}, tmp_path / "adv.pt")
    assert torch.equal(read(tmp_path / "adv.pt", (3, 5, 6)).images, levels.float() / 255)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_they_are(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({"x_adv": CHANNELS.to(kind)}, tmp_path / "adv.pt")
    assert torch.equal(read(tmp_path / "adv.pt", (3, 5, 6)).images, CHANNELS.to(kind).float())


def test_a_single_array_of_images_needs_no_name(tmp_path: Path) -> None:
    path = saved(tmp_path, my_attack=CHANNELS, labels=Y3, queries=np.arange(3))
    assert torch.equal(read(path, (3, 5, 6)).images, CHANNELS)


@pytest.mark.parametrize(
    "shape, hint",
    [
        ((3, 5, 6), "it is one image: add an axis"),
        ((2, 4, 3, 5, 6), r"it is batches: x_adv.reshape\(-1"),
        ((4, 3, 6, 5), "height and width are exchanged"),
        ((4, 1, 5, 6), "the images of the data have 3 channels"),
    ],
)
def test_a_wrong_shape_says_what_is_wrong(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        read(saved(tmp_path, x_adv=np.zeros(shape, np.float32)), (3, 5, 6))


def pickled(path: Path) -> None:
    np.savez(path, x_adv=np.array([{"a": 1}], dtype=object))


def truncated(path: Path) -> None:
    np.savez(path, x_adv=np.zeros((5, 1, 4, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-90])


def hit(path: Path) -> None:
    np.savez(path, x_adv=np.random.default_rng(0).random((5, 1, 4, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x_adv", b"no array")


X5 = np.zeros((5, 1, 4, 4), np.float32)
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled array": (pickled, r"contains Python objects \(a pickle\), which could run code"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps([1, 2])), r"\(a pickle\)|damaged"),
    "truncated": (truncated, "is damaged or no such file"),
    "hit": (hit, "is damaged or no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged or no such file"),
    "other zip": (other_zip, r"x_adv has shape \(\); accepted: \(n, 1, 4, 4\)"),
    "missing": (lambda path: None, "there is no file"),
    "no images": (lambda path: np.savez(path, pictures=X5[0]), "holds no examples; .* it has pictures"),
    "two arrays": (
        lambda path: np.savez(path, x=X5, advs=X5),
        "several arrays of images: x, advs; call the examples x_adv",
    ),
    "shape": (lambda path: np.savez(path, x_adv=X5[:, :, :3]), r"shape \(5, 1, 3, 4\); accepted: \(n, 1, 4, 4\) or"),
    "one image": (lambda path: np.savez(path, x_adv=X5[0, 0]), r"shape \(4, 4\); accepted"),
    "none at all": (lambda path: np.savez(path, x_adv=X5[:0]), "holds no image"),
    "type": (lambda path: np.savez(path, x_adv=X5.astype(np.int64)), "is int64; accepted: uint8"),
    "text": (lambda path: np.savez(path, x_adv=np.full((5, 1, 4, 4), "a")), "is <U1; accepted: uint8"),
    "0 to 255": (lambda path: np.savez(path, x_adv=X5 + 200.0), "ranges up to 200; .*divide it by 255"),
    "0 to 16": (lambda path: np.savez(path, x_adv=X5 + 16.0), "ranges up to 16; .*divide it by what white is in it"),
    "too many": (
        lambda path: np.savez(path, x_adv=np.concatenate((X5, X5))),
        "holds 10 examples, and there are 5 test",
    ),
    "index high": (lambda path: np.savez(path, x_adv=X5[:1], indices=[5]), "index 5; accepted: 0 to 4"),
    "index low": (lambda path: np.savez(path, x_adv=X5[:1], indices=[-1]), "index -1; accepted"),
    "index twice": (lambda path: np.savez(path, x_adv=X5[:2], indices=[3, 3]), "index 3 stands twice"),
    "index shape": (lambda path: np.savez(path, x_adv=X5[:2], indices=[3]), r"shape \(1,\); accepted: \(2,\)"),
    "index float": (lambda path: np.savez(path, x_adv=X5[:1], indices=[0.0]), "is float64; accepted: whole numbers"),
    "index flags": (lambda path: np.savez(path, x_adv=X5[:1], indices=[True]), r"is bool; .*np\.flatnonzero\(flags\)"),
    "labels": (lambda path: np.savez(path, x_adv=X5[:1], y=[1]), "says 1 of image 0, which tensors labels 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_judged_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    write(tmp_path / "adv.npz")
    system, x = two_sided()
    with pytest.raises(UserError, match=message):
        verify(tmp_path / "adv.npz", system, x, LABELS)


class Payload:
    """What a pickle may do."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy", ".npz"])
def test_no_payload_ever_runs(tmp_path: Path, suffix: str) -> None:
    path, witness = tmp_path / f"adv{suffix}", tmp_path / "witness"
    torch.save({"x_adv": Payload(witness)}, path)
    with pytest.raises(UserError):
        read(path, SHAPE)
    path.write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(UserError):
        read(path, SHAPE)
    assert not witness.exists()


def test_tensors_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    for held, message in (
        ({"x_adv": torch.eye(4).to_sparse()}, "no plain arrays"),
        ([1.5], "holds a list of float"),
        ({"x_adv": "text"}, "holds no examples; .* it has x_adv"),
        ([torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)], "no plain arrays"),
        ({"weights": torch.zeros(3)}, "holds no examples; .* it has weights"),
    ):
        torch.save(held, tmp_path / "adv.pt")
        with pytest.raises(UserError, match=message):
            read(tmp_path / "adv.pt", SHAPE)
    with pytest.raises(UserError, match="is no file of examples; accepted"):
        read(tmp_path / "adv.png", SHAPE)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threat": "spatial"}, "rendered from parameters"),
        ({"threat": "Linf:0.1,goal=targeted,target=next"}, "leave out goal=targeted"),
        ({"threat": "Linf:8"}, "larger than 1"),
        ({"samples": "first:3"}, "holds 5 examples, and there are 3 test images"),
        ({"defense": "no-such"}, "unknown defense"),
    ],
)
def test_mistakes_in_the_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    _, x = two_sided()
    with pytest.raises(UserError, match=message):
        judged(tmp_path, x, **options)


def test_a_slice_is_for_files_without_positions(tmp_path: Path) -> None:
    system, x = two_sided()
    path = saved(tmp_path, x_adv=x[:2], indices=[0, 1])
    with pytest.raises(UserError, match="says which images it was made of; leave out samples=2"):
        verify(path, system, x, LABELS, samples="2")


# -- the same verdict -------------------------------------------------------------------------------------------


def test_the_examples_of_an_evaluation_get_the_verdict_of_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    system = affine()
    generator = torch.Generator().manual_seed(5)
    x = torch.rand((40, *SHAPE), generator=generator)
    y = system(x).prediction()
    y[::8] = (y[::8] + 1) % 3
    result = rbl.evaluate(
        system, x, y, attacks="pgd:steps=5,restarts=1", threat="Linf:0.05", diagnostics=False, examples="all",
        samples="all", out=tmp_path / "run",
    )  # fmt: skip
    (path,) = (tmp_path / "run/examples").glob("*.npz")
    found = verify(path, system, x, y, threat="Linf:0.05").samples.set_index("index")
    rows = result.records.set_index("index").loc[found.index]
    assert 0 < found["broken"].sum() < len(found)
    for column in ("broken", "valid", "broken_8bit", "prediction", "linf", "l2", "l1", "l0"):
        assert found[column].tolist() == rows[column].tolist(), column


class Coin(nn.Module):
    """Class 1 in a share of the draws that is the first pixel's value."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((torch.full_like(x[:, 0, 0, 0], 0.5), x[:, 0, 0, 0]), 1)


def test_a_random_system_is_judged_by_its_draws(tmp_path: Path) -> None:
    def noise(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        return x + draws.uniform(x.shape[1:], "noise", index) - 0.5

    system = System(model=Coin(), num_classes=2, input_shape=SHAPE, name="coin").with_random_purifier(
        noise, name="noise"
    )
    x = torch.zeros(40, *SHAPE)
    adv = x + torch.linspace(0, 1, 40).view(-1, 1, 1, 1)
    found = verify(
        saved(tmp_path, x_adv=adv), system, x, torch.zeros(40, dtype=torch.int64), threat="Linf:1", verdict_draws=50
    )
    rates = found.samples["break_rate"].to_numpy()
    assert found.facts["draws"] == 50
    assert np.abs(rates - np.linspace(0, 1, 40)).max() < 0.3  # 50 draws of a share
    assert (found.samples["broken"] == (rates > 0.5)).all()
    assert 0.2 < rates[20] < 0.8
    again = verify(saved(tmp_path, x_adv=adv[5:6], indices=[5]), system, x, torch.zeros(40, dtype=torch.int64), threat="Linf:1",
                   verdict_draws=50)  # fmt: skip
    assert again.samples["break_rate"][0] == rates[5]  # alone as in the batch


def test_a_detector_that_rejects_keeps_an_example_from_breaking(tmp_path: Path) -> None:
    from robustbench_lite.system import Detector

    system, x = two_sided()
    watched = system.with_detector(Detector(score=lambda image: image[:, 0, 0, 0], threshold=0.54))
    adv = x + TOWARDS * 0.2
    adv[2] = x[2] + 0.15
    found = verify(saved(tmp_path, x_adv=adv), watched, x, LABELS)
    assert found.samples["fate"].tolist() == ["not-broken", "not-broken", "not-broken", "clean-wrong", "clean-wrong"]
