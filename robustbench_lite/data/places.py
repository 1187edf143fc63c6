"""Where downloaded data lies."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$RBL_CACHE`, else `$XDG_CACHE_HOME/robustbench-lite`, else `~/.cache/robustbench-lite`; need not exist."""
    if own := os.environ.get("RBL_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "robustbench-lite"


def data_root(root: Path | None) -> Path:
    """The root of torchvision's sets: as given, else `$RBL_DATA_ROOT`, else `data` in the cache folder."""
    if root is not None:
        return Path(root)
    named = os.environ.get("RBL_DATA_ROOT")
    return Path(named) if named else cache_folder() / "data"
