"""A run's folder read back: damaged files count as not there, and what the run did not come to is named."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustbench_lite.cache import atomic_savez
from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.run import run_folder
from robustbench_lite.run.evaluate import run
from robustbench_lite.run.parquet import read_table, write_table
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.run_folder import read_examples

PLAN = Plan(models=("linear",), defenses=("none",), attacks=("noise:draws=2", "fgsm"), samples="first:30")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(PLAN, out=folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def unfinished(folder: Path) -> tuple[str, ...]:
    records, timings, _ = run_folder.read_run(folder)
    return run_folder.unfinished(folder, records, timings)


def cell(folder: Path, attack: str) -> Path:
    timings = run_folder.read_timings(folder).set_index("attack")
    return folder / "records" / str(timings.loc[attack, "key"])


def test_of_a_finished_run_nothing_is_unfinished(folder: Path) -> None:
    assert unfinished(folder) == ()


def test_a_cell_without_records_is_named(folder: Path) -> None:
    shutil.rmtree(cell(folder, "fgsm"))
    assert unfinished(folder) == ("unfinished: fgsm on linear, Linf:0.2: no records",)


def test_a_cell_that_never_began_is_named_and_one_that_was_killed_with_its_count(folder: Path) -> None:
    (folder / "plan.toml").write_text(
        Plan(**{**vars(PLAN), "attacks": (*PLAN.attacks, "pgd:steps=3"), "threats": ("Linf:0.2", "L2:1")}).to_toml(),
        encoding="utf-8",
    )
    path = cell(folder, "fgsm") / "rows.parquet"
    rows = run_folder.Records(folder / "records").rows(path.parent.name)
    store = run_folder.Records(folder / "records")
    store.append("0" * 32, rows.head(7).assign(attack="pgd:steps=3", key="0" * 32))
    assert unfinished(folder) == (
        "unfinished: pgd:steps=3 on linear, Linf:0.2: 7 of 30 images",
        "unfinished: noise:draws=2 on linear, L2:1: no records",
        "unfinished: fgsm on linear, L2:1: no records",
        "unfinished: pgd:steps=3 on linear, L2:1: no records",
    )


def test_an_attack_that_was_averaged_over_draws_is_no_other_attack(folder: Path) -> None:
    timings = pd.read_parquet(folder / "timings.parquet")
    timings["attack"] = timings["attack"].replace("fgsm", "fgsm:eot=10")
    timings.to_parquet(folder / "timings.parquet")
    path = folder / "environment.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"fgsm"', '"fgsm:eot=10"'), encoding="utf-8")
    assert unfinished(folder) == ()
    path.unlink()
    assert unfinished(folder) == ()


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a defense that is attacked twice, by `fgsm` in both ways."""
    folder = tmp_path_factory.mktemp("hidden") / "run"
    run(Plan(**{**vars(PLAN), "defenses": ("bit-depth:bits=2",)}), out=folder)
    return folder


def test_an_adaptive_attack_that_never_began_is_named_and_the_worst_case_is_a_bound(
    hidden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(hidden, folder)
    assert unfinished(folder) == ()
    timings = pd.read_parquet(folder / "timings.parquet")
    assert list(timings["attack"]) == ["noise:draws=2", "fgsm", "fgsm"]
    shutil.rmtree(folder / "records" / timings["key"].iloc[2])
    timings.head(2).to_parquet(folder / "timings.parquet")  # as a kill after the plain attacks leaves it
    told = "unfinished: fgsm on linear, bit-depth:bits=2, Linf:0.2, adaptive: no records"
    assert unfinished(folder) == (told,)
    assert main(["report", str(folder), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert told in err
    rows = json.loads(out)
    plain = {row["attack"]: row["robust_acc"] for row in rows if row["attack"] != "worst-case" and not row["adaptive"]}
    adaptive = [row for row in rows if row["attack"] == "fgsm" and row["adaptive"]]
    assert [(row["robust_acc"], row["robust_acc_low"]) for row in adaptive] == [(None, 0.0)]
    assert rows[-1]["attack"] == "worst-case"
    assert rows[-1]["robust_acc"] is None
    assert rows[-1]["robust_acc_high"] <= min(plain.values())
    assert main(["report", str(folder), "--html", str(folder / "page.html")]) == 0
    assert (folder / "page.html").read_text(encoding="utf-8").count("fgsm on linear, bit-depth:bits=2, Linf:0.2") == 1
    assert main(["report", str(folder)]) == 0
    assert f"0-{100 * plain['fgsm']:.0f}!" in capsys.readouterr().out


@pytest.mark.parametrize("planned", [7, [], {"Linf:0.2": 7}, {"Linf:0.2": [["fgsm"]]}, {"Linf:0.2": [[1, True]]}])
def test_odd_plans_of_a_system_in_the_environment_are_none(planned: object, folder: Path) -> None:
    path = folder / "environment.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["systems"]["linear | none"]["planned"] = planned
    path.write_text(json.dumps(told), encoding="utf-8")
    assert unfinished(folder) == ()


def test_report_and_page_name_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(cell(folder, "fgsm"))
    told = "unfinished: fgsm on linear, Linf:0.2: no records"
    assert main(["report", str(folder)]) == 0
    assert told in capsys.readouterr().out
    assert main(["report", str(folder), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert told in err
    assert main(["report", str(folder), "--html", str(folder / "page.html")]) == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count("fgsm on linear, Linf:0.2: ") == 1
    assert f"<li>{told}</li>" in page


ODD_JSON = (
    "",
    "{",
    "[]",
    "null",
    "7",
    '"x"',
    "[" * 100000,
    '{"indices": null}',
    '{"indices": ["a"]}',
    '{"systems": [1]}',
)
ODD_JSON += (
    '{"indices": [1e400]}',
    '{"indices": [-1]}',
    '{"systems": {"a": {"adaptive attacks": 3}}}',
    "\udcff",
    "\x00",
)


@pytest.mark.parametrize("text", ODD_JSON, ids=range(len(ODD_JSON)))
@pytest.mark.parametrize("name", ["environment.json", "slice.json"])
def test_odd_json_beside_the_records_is_no_traceback(
    name: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    code = main(["report", str(folder)])
    assert code == (2 if name == "slice.json" else 0), capsys.readouterr().err


def edited(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        change(pd.read_parquet(folder / "timings.parquet")).to_parquet(folder / "timings.parquet")

    return edit


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a column is gone": edited(lambda frame: frame.drop(columns="attack")),
    "texts are numbers": edited(lambda frame: frame.assign(model=7)),
    "numbers are texts": edited(lambda frame: frame.assign(expected="many")),
    "stages are no table": edited(lambda frame: frame.assign(stages="[" * 99999)),
    "no rows": edited(lambda frame: frame.head(0)),
    "no parquet": lambda folder: (folder / "timings.parquet").write_bytes(b"PAR1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_timings_that_are_not_what_was_written_are_no_results(
    damage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[damage](folder)
    assert main(["report", str(folder)]) == 2
    assert "has no results yet; start it again to go on" in capsys.readouterr().err
    again = run(PLAN, out=folder)
    assert not again.failed


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"diagnostic\n", b'"\n"\r\r"', b"x" * 99999])
def test_a_damaged_table_of_checks_is_none(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "diagnostics.csv").write_bytes(content)
    assert not len(run_folder.read_diagnostics(folder))
    assert main(["report", str(folder)]) == 0
    assert "Checks" not in capsys.readouterr().out


def test_a_table_of_checks_with_other_values_is_none(folder: Path) -> None:
    path = folder / "diagnostics.csv"
    whole = path.read_text(encoding="utf-8")
    assert len(run_folder.read_diagnostics(folder))
    for old, new in (("clear", "fine"), (",30\n", ",many\n")):
        assert old in whole
        path.write_text(whole.replace(old, new), encoding="utf-8")
        assert not len(run_folder.read_diagnostics(folder)), new


def test_files_with_bytes_changed_at_random_are_no_traceback(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(0)
    names = ("timings.parquet", "diagnostics.csv", "environment.json", "slice.json", "plan.toml")
    for _ in range(40):
        name = chance.choice(names)
        data = bytearray((finished / name).read_bytes())
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (folder / name).write_bytes(bytes(data))
        assert main(["report", str(folder)]) in (0, 2)
        shutil.copy(finished / name, folder / name)
    capsys.readouterr()


def test_images_of_an_open_cell_that_have_ended_count_in_its_bounds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = run_folder.Records(folder / "records"), cell(folder, "noise:draws=2").name
    rows = store.rows(key)
    whole = run_folder.read_timings(folder)
    whole[whole["attack"] != "noise:draws=2"].to_parquet(folder / "timings.parquet")  # as a kill within it leaves it
    store.forget(key)
    ended = rows.head(12)
    store.append(key, ended)
    broken = int((ended["broken"] & ended["valid"]).sum())
    assert 0 < broken < 12
    clean_wrong = int((rows["reason"] == "clean-wrong").iloc[12:].sum())
    assert main(["report", str(folder), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert "unfinished: noise:draws=2 on linear, Linf:0.2: 12 of 30 images" in err
    told = {row["attack"]: row for row in json.loads(out)}
    assert told["noise:draws=2"]["robust_acc"] is None
    assert told["noise:draws=2"]["robust_acc_low"] == pytest.approx((12 - broken) / 30)
    assert told["noise:draws=2"]["robust_acc_high"] == pytest.approx((30 - broken - clean_wrong) / 30)
    assert told["worst-case"]["robust_acc_high"] <= told["noise:draws=2"]["robust_acc_high"]


def test_records_of_another_key_say_nothing_of_an_open_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, key = run_folder.Records(folder / "records"), cell(folder, "noise:draws=2").name
    rows = store.rows(key)
    whole = run_folder.read_timings(folder)
    whole[whole["attack"] != "noise:draws=2"].to_parquet(folder / "timings.parquet")
    shutil.rmtree(folder / "records" / key)
    store.append("0" * 32, rows.assign(key="0" * 32))  # of the model as it was before its file was edited
    assert main(["report", str(folder), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert "unfinished: noise:draws=2 on linear, Linf:0.2: no records" in err
    told = {row["attack"]: row for row in json.loads(out)}
    assert told["noise:draws=2"]["robust_acc_low"] == 0


@pytest.mark.parametrize("name", ["environment.json", "timings.parquet", "plan.toml"])
def test_a_folder_where_a_file_of_the_run_belongs_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(UserError, match=rf"cannot write to '.*{name}': Is a directory"):
        run(PLAN, out=folder)


def test_a_folder_that_is_called_as_unfinished_files_are_is_let_alone(folder: Path) -> None:
    (folder / ".mine.tmp").mkdir()
    os.utime(folder / ".mine.tmp", (0, 0))
    assert not run(PLAN, out=folder).failed
    assert (folder / ".mine.tmp").is_dir()


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_damaged_examples_count_as_not_kept(tmp_path: Path, place: int) -> None:
    path = tmp_path / "examples.npz"
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    atomic_savez(path, index=np.array([3, 5]), adv=images)
    whole = path.read_bytes()
    assert read_examples(path).keys() == {3, 5}
    for at in (place, len(whole) - 1 - place):
        for byte in (0, 0x21, 0xFF):  # 0x21 in the flags asks for a kind of compression that zipfile does not have
            path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            kept = read_examples(path)
            assert not kept or all(
                np.array_equal(kept[index], image) for index, image in zip((3, 5), images, strict=True)
            )


def test_a_table_is_read_back_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"count": [1, 2], "name": ["a", None], "share": [0.5, np.nan], "yes": [True, False]})
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False))
    held = read_table(path)
    assert held is not None
    pd.testing.assert_frame_equal(held.to_pandas(), frame)
    edited = held.set_column(0, "count", pa.array([1, 3]))
    pq.write_table(edited.replace_schema_metadata(held.schema.metadata), path)
    assert read_table(path) is None
    pq.write_table(held.replace_schema_metadata(), path)
    assert read_table(path) is None
    path.write_bytes(b"PAR1")
    assert read_table(path) is None
    assert read_table(tmp_path / "absent.parquet") is None


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_plan_that_lost_its_content_is_not_the_plan_of_all_defaults(text: str, folder: Path) -> None:
    (folder / "plan.toml").write_text(text)
    assert unfinished(folder) == ()
