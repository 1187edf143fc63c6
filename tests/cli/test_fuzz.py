"""Odd input by the hundred; `python tests/fuzzing.py SEED COUNT` tries as many as one likes."""

import os

import fuzzing
import pytest

#: tries of each kind; cards are loaded and answered with, which takes longest
TRIES = {"arguments": 200, "plans": 100, "folders": 30, "cards": 8}


@pytest.mark.parametrize("kind", TRIES)
def test_odd_input_is_no_traceback(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RBL_CACHE", "COLUMNS", "TERM", "NO_COLOR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    told: list[str] = []
    found = fuzzing.fuzz(0, TRIES[kind], {kind: 1.0}, told.append)
    assert not told, "\n".join(told)
    assert found[kind] == TRIES[kind]


def test_what_ends_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: list[str]) -> int:
        raise KeyError(words[0])

    monkeypatch.setattr(fuzzing, "main", broken)
    assert "KeyError: 'list'" in str(fuzzing.attempt(["list"]))
    monkeypatch.setattr(fuzzing, "main", lambda words: 1 / 0 if words else 7)
    assert fuzzing.attempt([]) == "exit code 7: "
    monkeypatch.setattr(fuzzing, "main", lambda words: 2)
    assert fuzzing.attempt([]) == "exit code 2: ''"
