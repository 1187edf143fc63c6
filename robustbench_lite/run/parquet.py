"""Tables on disk that are read back only as they were written: each file holds a digest of its rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustbench_lite.cache import atomic_write
from robustbench_lite.hashing.values import hash_table

#: where a file keeps the digest
_DIGEST = b"rows"


def write_table(path: Path, table: pa.Table) -> None:
    """Write the file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _DIGEST: hash_table(table)})
    atomic_write(path, lambda temporary: pq.write_table(table, temporary))


def read_table(path: Path) -> pa.Table | None:
    """The table; None if there is none, it cannot be read, or it is not as it was written."""
    try:
        # whole paths, since pyarrow would read `out:1/rows` as an address
        table = pq.read_table(path.absolute(), partitioning=None)
        told = (table.schema.metadata or {}).get(_DIGEST)
        return table if told == hash_table(table).encode() else None
    except (OSError, ValueError, pa.ArrowException):
        return None
