"""`rbl verify` as a user runs it: on digits, with a linear model that is trained on the spot."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite import data

Here = Callable[..., int]
SMALL = ("--model", "linear", "--threat", "Linf:0.1")


@pytest.fixture
def images() -> np.ndarray:
    """The first twenty test images of digits, (20, 1, 8, 8) in [0, 1]."""
    return data.load("digits").batch(range(20)).numpy()


def test_a_file_is_judged_and_what_came_out_is_said(
    here: Here, capsys: pytest.CaptureFixture[str], images: np.ndarray, tmp_path: Path
) -> None:
    adv = images.copy()
    adv[3] += 0.5  # outside the ball, and of the box
    adv[4] = np.clip(images[4] - 0.3, 0, 1)
    adv[5] = np.nan
    np.savez(tmp_path / "adv.npz", x_adv=adv)
    assert here("verify", "adv.npz", *SMALL, "--out", "verdict.json") == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    assert "nothing was verified" not in err
    assert out.startswith("digits · Linf:0.1 · linear, none · adv.npz\n")
    told = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    counts = told["counts"]
    assert sum(counts.values()) == told["n"] == 20
    assert (counts["outside-box"], counts["outside-threat"], counts["not-finite"], counts["broken"]) == (1, 1, 1, 0)
    said = {name.strip(): int(count) for name, count in re.findall(r"^  (\S.*?) +(\d+)(?: |$)", out, re.MULTILINE)}
    assert list(said.values()) == list(counts.values())
    assert re.search(r"outside the ball +1   up to 0\.2 beyond", out)
    assert re.search(r"robust accuracy [\d.]+ %, 95 % interval [\d.]+ to [\d.]+, over these 20 test images", out)
    assert out.endswith("The verdict on every example is in verdict.json\n")
    assert [row["index"] for row in told["samples"]] == list(range(20))
    assert told["samples"][5]["reason"] == "not-finite"


def test_clean_images_verify_nothing(
    here: Here, capsys: pytest.CaptureFixture[str], images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "clean.npy", images.transpose(0, 2, 3, 1))
    assert here("verify", "clean.npy", *SMALL, "--quiet", "--out", "v.json") == 3
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("rbl: nothing was verified: the examples are the clean images themselves")
    told = json.loads((tmp_path / "v.json").read_text())
    assert told["counts"]["not-broken"] + told["counts"]["clean-wrong"] == 20
    assert (told["robust_accuracy"], told["likely"]["mistake"]) == (None, "clean-images")


def test_examples_of_other_images_are_no_robustness(
    here: Here, capsys: pytest.CaptureFixture[str], images: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "adv.npz", x_adv=np.clip(images - 0.09, 0, 1)[::-1])
    assert here("verify", "adv.npz", *SMALL, "--out", "v.json") == 3
    out, err = capsys.readouterr()
    assert re.search(r"outside the ball +\d+   up to 0\.\d+ beyond", out)
    assert re.search(r"\nno robust accuracy: 0 of \d+ examples that could break an image were judged\n", out)
    assert "%" not in out
    assert "\nrbl: nothing was verified: the examples are of other images: they are in reverse order; submit" in err


def test_the_range_of_the_images_is_told_once(
    here: Here, capsys: pytest.CaptureFixture[str], images: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", x=images[:, 0], y=data.load("digits").labels[:20])
    np.savez(tmp_path / "adv.npz", x_adv=images * 0.95)
    command = ("verify", "adv.npz", "--dataset", "npz:set.npz;train=set.npz", *SMALL)
    assert here(*command) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "images" in line] == [
        "rbl: npz:set.npz: 20 images 1x8x8, float 0 to 1, mean 0.304"
    ]
    assert here(*command, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_slice_can_be_named(here: Here, images: np.ndarray, tmp_path: Path) -> None:
    chosen = data.choose(data.load("digits"), "20", 7)
    np.savez(tmp_path / "adv.npz", x_adv=data.load("digits").batch(chosen).numpy() * 0.99)
    assert here("verify", "adv.npz", *SMALL, "--samples", "20", "--slice-seed", "7", "--quiet", "--out", "v.json") == 0
    told = json.loads((tmp_path / "v.json").read_text())
    assert [row["index"] for row in told["samples"]] == chosen.tolist()
    assert told["counts"]["outside-threat"] == told["counts"]["outside-box"] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nothing.npz",), "there is no file 'nothing.npz'"),
        (("adv.txt",), "is no file of examples; accepted: .npz, .npy, .pt, .pth"),
        (("short.npz",), "is damaged or no such file"),
        (("pickled.npz",), "contains Python objects (a pickle)"),
        (("adv.npz", "--threat", "Linf:8"), "for 8 of 255 levels write Linf:8/255"),
        (("adv.npz", "--samples", "first:7"), "holds 20 examples, and there are 7 test images of digits"),
        (("adv.npz", "--model", "liner"), "did you mean 'linear'"),
        (("adv.npz", "--model", "linear", "--out", "adv.npz/v.json"), "cannot write to 'adv.npz'"),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_sentence(
    here: Here,
    capsys: pytest.CaptureFixture[str],
    images: np.ndarray,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    np.savez(tmp_path / "adv.npz", x_adv=images)
    (tmp_path / "short.npz").write_bytes((tmp_path / "adv.npz").read_bytes()[:-80])
    np.savez(tmp_path / "pickled.npz", x_adv=np.array([{}], dtype=object))
    assert here("verify", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
