"""A training as a table and as a picture."""

from pathlib import Path

import pytest

from robustbench_lite.results.training_plot import plot_training, training_history


def card(**history: list[object]) -> dict[str, object]:
    return {"training": {"best": {"epoch": 2}, "history": {"loss": [2.0, 1.0, 0.5], **history}}}


def test_the_table_has_every_column_whatever_was_measured() -> None:
    bare = training_history(card())
    assert list(bare) == ["epoch", "loss", "clean", "robust", "one_step", "collapsed", "best"]
    assert bare["best"].tolist() == [False, True, False]
    assert bare["robust"].isna().all()
    assert not bare["collapsed"].any()
    full = training_history(card(clean=[0.5, None, 0.9], robust=[0.1, None, 0.0], collapsed=[False, False, True]))
    assert full["clean"].tolist()[::2] == [0.5, 0.9]
    assert full["clean"].isna().tolist() == [False, True, False]
    assert full["collapsed"].tolist() == [False, False, True]


def test_a_card_without_a_history_is_refused() -> None:
    with pytest.raises(ValueError, match="no training history"):
        training_history({"training": {}})


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"clean": [0.5, None, 0.9]},
        {"clean": [0.5] * 3, "robust": [0.4, 0.3, 0.0], "collapsed": [False, False, True]},
    ],
    ids=["loss alone", "clean", "collapsed"],
)
def test_the_picture_is_drawn_and_the_same_twice(tmp_path: Path, measured: dict[str, list[object]]) -> None:
    history = training_history(card(**measured))
    one, two = (plot_training(history, tmp_path / name, title="a training").read_bytes() for name in ("a", "b"))
    assert one.startswith(b"\x89PNG")
    assert one == two
