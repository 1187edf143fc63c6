"""What the checks found is kept beside the records, and found again where these are."""

import json
from pathlib import Path

import pytest
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.run import checks, probes


class Counted:
    """How often the checks were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        make = checks.probe_subject

        def counting(*args: object, **options: object) -> object:
            self.count += 1
            return make(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(checks, "probe_subject", counting)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def diagnosed(out: Path, count: int = 20, *, fresh: bool = False, attacks: str = "fgsm") -> list[dict[str, object]]:
    system = two_layers()
    x, y, _ = samples(system, 20)
    result = rbl.evaluate(
        system, x, y, attacks=attacks.split(","), threat="Linf:0.02", out=out, fresh=fresh, samples=f"first:{count}"
    )
    rows: list[dict[str, object]] = json.loads(result.diagnostics.to_json(orient="records"))
    return rows


def test_a_run_that_looks_everything_up_makes_no_check(tmp_path: Path, made: Counted) -> None:
    first = diagnosed(tmp_path / "run")
    assert made.count == 1
    assert diagnosed(tmp_path / "run") == first
    assert made.count == 1


def test_fewer_images_or_more_attacks_are_checked_by_themselves(tmp_path: Path, made: Counted) -> None:
    diagnosed(tmp_path / "run")
    diagnosed(tmp_path / "run", 10)
    diagnosed(tmp_path / "run", attacks="fgsm,noise:draws=2")
    assert made.count == 3


def test_a_fresh_run_makes_them_again(tmp_path: Path, made: Counted) -> None:
    diagnosed(tmp_path / "run")
    diagnosed(tmp_path / "run", fresh=True)
    assert made.count == 2


@pytest.mark.parametrize(
    "damage", ["", "{}", "[]", '{"checks": [], "digest": "x"}', "edited", "renamed", "unheard of", "none", "another's"]
)
def test_a_damaged_file_counts_as_not_checked(tmp_path: Path, made: Counted, damage: str) -> None:
    first = diagnosed(tmp_path / "run")
    (path,) = (tmp_path / "run" / "checks").iterdir()
    held = json.loads(path.read_text())
    if damage == "edited":
        held["checks"][0]["status"] = "fired"
        damage = json.dumps(held)
    elif damage == "renamed":
        held["checks"][0]["name"] = "another"
    elif damage == "unheard of":
        held["checks"][0]["status"] = "splendid"
    elif damage == "none":
        held["checks"] = []
    if damage in ("renamed", "unheard of", "none"):
        damage = json.dumps({**held, "digest": checks.hash_json([path.stem, held["checks"]])})
    elif damage == "another's":  # as it was written, in another run's folder
        damage = json.dumps({**held, "digest": checks.hash_json(["another", held["checks"]])})
    path.write_text(damage)
    assert diagnosed(tmp_path / "run") == first
    assert made.count == 2


def test_a_check_that_there_was_no_time_for_is_made_by_the_next_run(
    tmp_path: Path, made: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hurried:
        hurried.setattr(checks, "Budget", lambda seconds, tell: probes.Budget(0.0, tell=tell))
        late = diagnosed(tmp_path / "run")
    assert any("no time left" in str(row["detail"]) for row in late)
    assert not any("no time left" in str(row["detail"]) for row in diagnosed(tmp_path / "run"))
    assert made.count == 2
