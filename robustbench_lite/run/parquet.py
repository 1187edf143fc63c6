"""Tables on disk that are read back only as they were written: each file holds a digest of its rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustbench_lite.cache import atomic_write
from robustbench_lite.hashing.values import hash_table

#: where a file keeps the digest
_DIGEST = b"rows"
#: and what it was written as
_NAME = b"name"


def write_table(path: Path, table: pa.Table, name: str = "") -> None:
    """Write the file whole or not at all.

    Args:
        name: what is in the table, where its rows do not tell.

    Raises:
        OSError: it cannot be written.
    """
    told = {_DIGEST: hash_table(table), **({_NAME: name} if name else {})}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **told})
    atomic_write(path, lambda temporary: pq.write_table(table, temporary))


def read_table(path: Path, name: str = "") -> pa.Table | None:
    """The table; None if there is none, it cannot be read, or it is not as it was written, under this name."""
    try:
        # whole paths, since pyarrow would read `out:1/rows` as an address
        table = pq.read_table(path.absolute(), partitioning=None)
        told = table.schema.metadata or {}
        known = told.get(_DIGEST) == hash_table(table).encode() and told.get(_NAME, b"") == name.encode()
        return table if known else None
    except (OSError, ValueError, pa.ArrowException):
        return None
