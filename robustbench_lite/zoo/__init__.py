"""Where models come from: built-in architectures, timm, torchvision, checkpoints, the user's own code."""

from robustbench_lite.zoo.adapt import Normalized
from robustbench_lite.zoo.base import LoadedModel, audit
from robustbench_lite.zoo.checkpoints import load_checkpoint, read_card, save_checkpoint
from robustbench_lite.zoo.generators import load_reconstructing, reconstructs
from robustbench_lite.zoo.load import architecture_of, fresh_module, load
from robustbench_lite.zoo.preprocessing import Preprocessing, preprocessing

#: told by its code in the keys of what is made of it; see `hashing.values`
__hashed_by_code__ = True
__all__ = [
    "LoadedModel",
    "Normalized",
    "Preprocessing",
    "architecture_of",
    "audit",
    "fresh_module",
    "load",
    "load_checkpoint",
    "load_reconstructing",
    "preprocessing",
    "read_card",
    "reconstructs",
    "save_checkpoint",
]
