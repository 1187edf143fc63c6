"""A few of the tries of odd_models.py."""

from pathlib import Path

import pytest
from odd_models import fuzz


@pytest.mark.filterwarnings("ignore")
def test_damaged_and_odd_files_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fuzz(120, 20, tmp_path) == []
