"""A few of the odd files of `odd_files.py`; thousands are tried by running it."""

import pytest
from odd_files import WAYS, outcome


@pytest.mark.parametrize("way", range(len(WAYS)), ids=lambda way: WAYS[way].__name__)
def test_odd_files_are_read_or_refused_in_a_sentence(way: int) -> None:
    results = [outcome(seed) for seed in range(way, 60 * len(WAYS), len(WAYS))]
    assert [text for text in results if text not in ("read", "refused")] == []
    assert "refused" in results
    assert "read" in results or WAYS[way].__name__ == "npz"
