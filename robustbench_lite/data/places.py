"""Where data lies: downloaded ones, and what a user names."""

import os
from pathlib import Path

from robustbench_lite.cache import cache_dir

#: letters of a path that a message holds
_LONGEST = 200


def data_root(root: Path | None) -> Path:
    """The root of torchvision's sets: as given, else `$RBL_DATA_ROOT`, else `data` in the cache folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("RBL_DATA_ROOT")
    return Path(named).expanduser() if named else cache_dir() / "data"


def is_file(path: Path) -> bool:
    """Whether it is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # too long, or a folder that may not be looked into
        return False


def is_dir(path: Path) -> bool:
    """Whether it is a folder; as `is_file`."""
    try:
        return path.is_dir()
    except OSError:
        return False


def shown(path: Path) -> str:
    """A path in a message, cut where it would fill the screen."""
    text = str(path)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
