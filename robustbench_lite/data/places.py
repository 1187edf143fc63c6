"""Where downloaded data lies."""

import os
from pathlib import Path

from robustbench_lite.cache import cache_dir


def data_root(root: Path | None) -> Path:
    """The root of torchvision's sets: as given, else `$RBL_DATA_ROOT`, else `data` in the cache folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("RBL_DATA_ROOT")
    return Path(named).expanduser() if named else cache_dir() / "data"
