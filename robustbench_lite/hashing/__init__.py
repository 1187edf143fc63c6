"""Every hash of the project: of bytes and facts here, of source code in `source`, of values and what
they are made of in `values`.

A key says what could change a number and nothing else. Equal things give equal digests in every process and on every
machine: no memory address, no path, no module name and no comment is among them. Importing this package does not import torch.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

#: a hash under way; `Images.feed` and its kin are handed one
Hasher = hashlib.blake2b
_CHUNK = 1 << 20


def new(size: int = 16) -> Hasher:
    """A BLAKE2b hash of `size` bytes that is fed piece by piece."""
    return hashlib.blake2b(digest_size=size)


def hash_bytes(data: bytes, size: int = 16) -> str:
    """`size` bytes, in hexadecimal, that stand for the data."""
    return raw(data, size).hex()


def hash_text(text: str, size: int = 16) -> str:
    """The same of a text."""
    return hash_bytes(text.encode(), size)


def hash_json(facts: Any, size: int = 16) -> str:
    """The same of facts that JSON can hold; the order of a table's entries does not matter, and others go in as text."""
    return hash_text(json.dumps(facts, sort_keys=True, default=str), size)


def hash_file(path: Path, size: int = 16) -> str:
    """The same of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    state = new(size)
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            state.update(block)
    return state.hexdigest()


def raw(data: bytes, size: int, key: bytes = b"") -> bytes:
    """The `size` bytes themselves; another key is another function."""
    return hashlib.blake2b(data, digest_size=size, key=key).digest()


def hash_number(data: bytes, size: int = 8) -> int:
    """A whole number from 0 to 2**(8 size) - 1 that stands for the data."""
    return int.from_bytes(raw(data, size), "little")


def integrity(text: str) -> str:
    """The hash by which a browser accepts a script or a style: `sha256-…`."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
