"""Records: whole or not at all, and found again by content."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustbench_lite.hashing import hash_json
from robustbench_lite.run.parquet import write_table
from robustbench_lite.run.records import COLUMNS, SCHEMA, Records


def frame(indices: list[int], broken: bool = False, key: str = "k") -> pd.DataFrame:
    texts = {field.name for field in SCHEMA if str(field.type) == "string"}
    values: dict[str, Any] = {name: ("x" if name in texts else 0) for name in COLUMNS}
    values |= {field.name: False for field in SCHEMA if str(field.type) == "bool"} | {"reason": "", "key": key}
    rows = pd.DataFrame([values] * len(indices))
    return rows.assign(
        index=indices, broken=broken, break_rate=float(broken), prediction=int(broken), valid=True, target=-1, draws=1
    )


def test_the_columns_are_the_published_ones_in_order() -> None:
    head = (
        "dataset,model,defense,threat,attack,adaptive,index,label,clean_prediction,prediction,broken,valid,reason,"
        "linf,l2,l1,l0,margin,forwards,backwards,norm,eps,target,target_hit,rejected,score,clean_score,draws,break_rate,"
        "broken_8bit,seed,lane,break_forward,stage,stages,key,shape,source_prediction,source_broken,witness,denied"
    )
    assert ",".join(COLUMNS) == head


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_back_sorted_and_once(tmp_path: Path, on_disk: bool) -> None:
    store = Records(tmp_path if on_disk else None)
    store.append("k", frame([5, 3]))
    store.append("k", frame([3, 1]))
    assert store.rows("k")["index"].tolist() == [1, 3, 5]
    assert store.finish("k")["index"].tolist() == [1, 3, 5]
    assert store.rows("other").empty


def test_parts_end_in_one_file_whatever_the_parts_were(tmp_path: Path) -> None:
    one, other = Records(tmp_path / "one"), Records(tmp_path / "other")
    one.append("k", frame([1, 2, 3, 4]))
    for indices in ([4], [2, 1], [3]):
        other.append("k", frame(indices))
    one.finish("k")
    other.finish("k")
    files = [list((tmp_path / name / "k").iterdir()) for name in ("one", "other")]
    assert [len(found) for found in files] == [1, 1]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()


def test_a_truncated_part_is_computed_again_not_believed(tmp_path: Path) -> None:
    store = Records(tmp_path)
    store.append("k", frame([1]))
    store.append("k", frame([2]))
    part = sorted((tmp_path / "k").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    assert Records(tmp_path).rows("k")["index"].tolist() == [2]


def written(folder: Path) -> Path:
    """The one file of a finished cell of four samples."""
    store = Records(folder)
    store.append("k", frame([1, 2, 3, 4]))
    store.finish("k")
    return folder / "k" / "rows.parquet"


Damage = Callable[[pa.Table], pa.Table]


def changed(column: str, value: object) -> Damage:
    """The table with another value in the column's first row."""

    def change(table: pa.Table) -> pa.Table:
        place, field = table.column_names.index(column), table.schema.field(column)
        values = [value, *table[column].to_pylist()[1:]]
        return table.set_column(place, field, pa.array(values, field.type))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        changed("broken", True),
        changed("broken", None),
        changed("prediction", 7),
        changed("label", 3),
        changed("key", "another"),
        changed("linf", 0.5),
        changed("stage", "pgd"),
        lambda table: table.slice(1),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.drop_columns(["valid"]),
        lambda table: table.append_column("more", pa.array([1] * len(table))),
        lambda table: table.cast(table.schema.set(6, pa.field("index", pa.float64()))),
        lambda table: pa.concat_tables([table, table]),
    ],
)
def test_a_file_that_is_not_as_it_was_written_counts_as_not_computed(damage: Damage, tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    pq.write_table(damage(pq.read_table(file)), file)
    store = Records(tmp_path)
    assert store.rows("k").empty
    store.append("k", frame([1, 2, 3, 4]))
    assert len(store.finish("k")) == 4
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "column, value",
    [
        ("broken", True),
        ("break_rate", 1.0),
        ("broken_8bit", True),
        ("valid", False),
        ("reason", "outside-box"),
        ("prediction", 7),
        ("label", 3),
        ("linf", -0.5),
        ("l2", float("nan")),
        ("forwards", -1),
    ],
)
def test_an_edited_row_that_contradicts_itself_is_not_believed_whatever_its_digest(
    column: str, value: object, tmp_path: Path
) -> None:
    file = written(tmp_path)
    write_table(file, changed(column, value)(pq.read_table(file)).replace_schema_metadata())
    assert Records(tmp_path).rows("k").empty


def test_a_file_of_another_cell_counts_as_not_computed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(parents=True)
    written(tmp_path).rename(tmp_path / "other" / "rows.parquet")
    assert Records(tmp_path).rows("other").empty


def test_a_link_that_leads_nowhere_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "rows.parquet").symlink_to(tmp_path / "gone.parquet")
    store = Records(tmp_path)
    store.append("k", frame([1]))
    assert store.finish("k")["index"].tolist() == [1]
    assert Records(tmp_path).rows("k")["index"].tolist() == [1]


def test_a_folder_that_is_deleted_during_the_run_loses_nothing(tmp_path: Path) -> None:
    store = Records(tmp_path / "records")
    store.append("k", frame([1, 2]))
    shutil.rmtree(tmp_path / "records")
    store.append("k", frame([3]))
    assert store.finish("k")["index"].tolist() == [1, 2, 3]
    assert Records(tmp_path / "records").rows("k")["index"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("text", ["[]", "{", '{"seconds": "long"}', "null", '"x"', "[" * 100_000])
def test_notes_that_cannot_be_read_are_none(text: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "k" / "setup.json").write_text(text)
    assert Records(tmp_path).noted("k") == {}


def test_fresh_forgets_what_was_there(tmp_path: Path) -> None:
    Records(tmp_path).append("k", frame([1]))
    store = Records(tmp_path, fresh=True)
    assert store.rows("k").empty
    store.append("k", frame([2]))
    assert store.rows("k")["index"].tolist() == [2]
    assert Records(tmp_path).rows("k")["index"].tolist() == [2]


def test_a_key_covers_every_fact() -> None:
    facts = {"seed": 0, "eps": 8 / 255, "options": {"steps": "3"}}
    assert hash_json(facts) == hash_json(dict(reversed(facts.items())))
    for change in ({"seed": 1}, {"eps": 0.031}, {"options": {"steps": "4"}}, {"more": 0}):
        assert hash_json({**facts, **change}) != hash_json(facts)
