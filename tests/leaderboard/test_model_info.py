"""Entries of RobustBench: everything that occurs in such files is read, and what is written is read back the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.model_info import (
    HEADINGS,
    NORMS,
    ModelInfo,
    from_json,
    from_row,
    listing,
    read_model_info,
    to_json,
    write_model_info,
)

ENTRY: dict[str, Any] = {
    "link": "https://arxiv.org/abs/1901.08573",
    "name": "A trade-off",
    "authors": "A, B",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "ICML 2019",
    "architecture": "WideResNet-34-10",
    "eps": "0.031",
    "clean_acc": "84.92",
    "reported": "56.43",
    "autoattack_acc": "53.08",
}


def written(folder: Path, entry: Any, place: str = "cifar10/Linf/Zhang2019.json") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry), encoding="utf-8")
    return path


def test_an_entry_is_read_with_what_its_folders_say(tmp_path: Path) -> None:
    info = read_model_info(written(tmp_path, ENTRY))
    assert (info.id, info.norm, info.dataset, info.eps, info.radius) == ("Zhang2019", "Linf", "cifar10", "0.031", 0.031)
    assert (info.clean, info.reported, info.autoattack, info.best_known) == (0.8492, 0.5643, 0.5308, None)
    assert (info.lowest, info.unreliable, info.additional_data, info.year) == (0.5308, None, False, 2019)
    assert (info.threat, str(info.place)) == ("Linf:0.031", "cifar10/Linf/Zhang2019.json")
    assert to_json(info) == ENTRY
    elsewhere = written(tmp_path, ENTRY, "mine/Zhang2019.json")
    assert read_model_info(elsewhere).norm == ""
    assert read_model_info(elsewhere, "L2").threat == "L2:0.031"


def test_the_folder_is_right_about_the_data_set(tmp_path: Path) -> None:
    assert read_model_info(written(tmp_path, ENTRY, "cifar100/L2/X.json")).dataset == "cifar100"
    assert read_model_info(written(tmp_path, ENTRY, "mine/L2/X.json")).dataset == "cifar10"


@pytest.mark.parametrize(
    "change, field, value",
    [
        ({"clean_acc": 84.92}, "clean", 0.8492),
        ({"clean_acc": "84.92%"}, "clean", 0.8492),
        ({"clean_acc": "100"}, "clean", 1.0),
        ({"reported": ""}, "reported", None),
        ({"reported": None}, "reported", None),
        ({"reported": "null"}, "reported", None),
        ({"autoattack_acc": "0.0"}, "autoattack", 0.0),
        ({"autoattack_acc": 0}, "autoattack", 0.0),
        ({"external": "51.5"}, "best_known", 0.515),
        ({"best_known": "51.5"}, "best_known", 0.515),
        ({"external": "51.5", "best_known": "50"}, "best_known", 0.515),
        ({"eps": "8/255"}, "radius", 8 / 255),
        ({"eps": 8 / 255}, "eps", "8/255"),
        ({"eps": 0.031}, "eps", "0.031"),
        ({"eps": 0.5}, "eps", "0.5"),
        ({"eps": None}, "eps", None),
        ({"eps": ""}, "radius", None),
        ({"unreliable": "True"}, "unreliable", True),
        ({"unreliable": False}, "unreliable", False),
        ({"unreliable": "Unknown"}, "unreliable", None),
        ({"additional_data": "yes"}, "additional_data", True),
        ({"additional_data": 0}, "additional_data", False),
        ({"number_forward_passes": "6"}, "number_forward_passes", 6),
        ({"number_forward_passes": None}, "number_forward_passes", None),
        ({"footnote": None}, "footnote", ""),
        ({"venue": "arXiv, Oct 2020"}, "year", 2020),
        ({"venue": "N/A"}, "year", None),
        ({"corruptions_acc": "92.78"}, "more", {"corruptions_acc": "92.78"}),
    ],
)
def test_what_occurs_is_understood(change: dict[str, Any], field: str, value: object) -> None:
    assert getattr(from_json(ENTRY | change), field) == value


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clean_acc": "good"}, "clean_acc=good is not a number"),
        ({"clean_acc": "101"}, "clean_acc = 101; accepted: a percentage from 0 to 100"),
        ({"clean_acc": True}, "clean_acc = True; accepted: a percentage"),
        ({"clean_acc": ["84"]}, "accepted: a percentage"),
        ({"reported": "-1"}, "from 0 to 100"),
        ({"autoattack_acc": "nan"}, "not a finite number"),
        ({"eps": "eight"}, "eps=eight is not a number"),
        ({"eps": -0.1}, "0 and more"),
        ({"eps": {}}, "accepted: a number such as 8/255"),
        ({"unreliable": "maybe"}, "unreliable = 'maybe'; accepted: true or false"),
        ({"number_forward_passes": 1.5}, "accepted: a whole number"),
        ({"name": 3}, "name = 3; accepted: a text"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_model_info(written(tmp_path, ENTRY | change))
    assert "Zhang2019.json" in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[1]", "is no model_info"),
        (b'{"eps": 1}', "is no model_info"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_model_info(path)
    with pytest.raises(UserError, match=r"there is no file .*nothing\.json"):
        read_model_info(tmp_path / "nothing.json")


shares = st.none() | st.integers(0, 10_000).map(lambda hundredths: round(hundredths / 10_000, 8))
words = st.text(max_size=20)
entries = st.builds(
    ModelInfo,
    id=st.just("Some2024"),
    norm=st.sampled_from(NORMS),
    **dict.fromkeys(("name", "link", "authors", "venue", "architecture", "footnote"), words),
    dataset=st.sampled_from(("cifar10", "imagenet")),
    eps=st.none() | st.sampled_from(("8/255", "0.031", "0.5", "3.0", "4/255")),
    additional_data=st.none() | st.booleans(),
    unreliable=st.none() | st.booleans(),
    number_forward_passes=st.none() | st.integers(0, 9),
    **dict.fromkeys(("clean", "reported", "autoattack", "best_known"), shares),
    more=st.dictionaries(st.sampled_from(("corruptions_acc", "remark")), words, max_size=2),
)


@given(info=entries)
def test_what_is_written_is_read_back_the_same(tmp_path_factory: pytest.TempPathFactory, info: ModelInfo) -> None:
    folder = tmp_path_factory.mktemp("model_info")
    assert read_model_info(write_model_info(info, folder / info.place)) == info


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.json"):
        write_model_info(ModelInfo(), tmp_path / "entry.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        write_model_info(ModelInfo(), tmp_path / "file/entry.json")


def test_a_leaderboard_has_the_usual_columns_and_order() -> None:
    base = {"reported": "", "unreliable": None}
    first = from_json(ENTRY | base | {"autoattack_acc": "60", "external": "55"}, id="Doubted")
    second = from_json(ENTRY | base | {"autoattack_acc": "58"}, id="Best")
    nobody = from_json(ENTRY | base | {"autoattack_acc": None, "name": "", "unreliable": True}, id="Unmeasured")
    table = listing([first, second, nobody])
    assert [row["Best known robust accuracy"] for row in table] == ["58.00%", "55.00%", ""]
    assert [row["AA eval. potentially unreliable"] for row in table] == ["Unknown", "Unknown", "yes"]
    assert table[2]["Method"] == "Unmeasured"
    assert table[1] == dict(
        zip(
            HEADINGS,
            ("2", "A trade-off", "84.92%", "60.00%", "55.00%", "Unknown", "no", "WideResNet-34-10", "ICML 2019"),
            strict=True,
        )
    )


def test_an_entry_in_the_columns_of_our_leaderboards() -> None:
    row = from_json(ENTRY | {"external": "50"}, id="Zhang2019", norm="Linf").row()
    assert row == {
        **{"model": "Zhang2019", "architecture": "WideResNet-34-10", "dataset": "cifar10", "threat": "Linf:0.031"},
        **{"clean": 0.8492, "claimed": 0.5643, "autoattack": 0.5308, "best_known": 0.5},
        **{"best_known_source": "RobustBench", "unreliable": None, "norm": "Linf", "eps": "0.031"},
        **{"paper": "A trade-off", "link": ENTRY["link"], "venue": "ICML 2019", "year": 2019, "additional_data": False},
    }
    assert from_json(ENTRY, norm="corruptions").row()["threat"] == "corruptions"


ROW: dict[str, Any] = {
    **{"model": "checkpoint:net.safetensors", "architecture": "wrn-34-10;mean=(0,0,0)", "dataset": "cifar10"},
    **{"threat": "Linf:8/255", "n": 1000, "clean": 0.851, "autoattack": 0.53, "worst_case": 0.52, "best_known": 0.52},
    **{"flags": "", "mark": ""},
}


def test_a_row_of_ours_becomes_an_entry(tmp_path: Path) -> None:
    info = from_row(ROW, id="Mine2024", name="A paper", venue="ICLR 2024", additional_data=True)
    assert to_json(info) == {
        **{"link": "", "name": "A paper", "authors": "", "additional_data": True, "number_forward_passes": 1},
        **{"dataset": "cifar10", "venue": "ICLR 2024", "architecture": "WideResNet-34-10", "eps": "8/255"},
        **{"clean_acc": "85.10", "reported": "", "autoattack_acc": "53.00", "external": "52.00", "unreliable": False},
        "footnote": "Measured by robustbench-lite on 1000 test images.",
    }
    assert str(info.place) == "cifar10/Linf/Mine2024.json"
    assert read_model_info(write_model_info(info, tmp_path / info.place)) == info


def test_only_autoattack_is_called_so_and_doubts_are_told() -> None:
    pgd = from_row({**ROW, "autoattack": float("nan"), "pgd": 0.55, "flags": "loss-stands-still"})
    assert (pgd.autoattack, pgd.best_known, pgd.unreliable) == (None, 0.52, True)
    same = from_row({**ROW, "best_known": 0.53})
    assert (same.autoattack, same.best_known, same.lowest) == (0.53, None, 0.53)
    assert from_row({**ROW, "mark": "no adaptive result"}).unreliable


@pytest.mark.parametrize("threat", ["spatial", "Linf:8/255,goal=targeted,target=next", "", "patch:size=5"])
def test_a_threat_that_robustbench_does_not_know_is_refused(threat: str) -> None:
    with pytest.raises(
        UserError, match=r"has no place in RobustBench; accepted: an untargeted norm such as Linf:8/255"
    ):
        from_row({**ROW, "threat": threat})
