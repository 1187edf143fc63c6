"""Generators: VAEs, GANs and autoencoders as targets of attacks, as sources of data, and inside defenses.

`train_generator` makes one, `load_generator` reads one; both return a `Trained`. A plugin is a `Generator`, offered as an
entry point of the group `robustbench_lite.generators`.
"""

from robustbench_lite.generators.base import Code, Generator, Network, Play, Trained, resolve_generator
from robustbench_lite.generators.checkpoints import load_generator
from robustbench_lite.generators.train import train_generator

#: told by its code in the keys of what is made of it; see `hashing.values`
__hashed_by_code__ = True
__all__ = [
    "Code",
    "Generator",
    "Network",
    "Play",
    "Trained",
    "load_generator",
    "resolve_generator",
    "train_generator",
]
