"""Audit records in the vault: list their keys, and read one after verifying its SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import DigestDiffers, FixityError
from pipeline.storage import keys
from pipeline.storage.base import ObjectStore, checksum_object


def audit_keys(vault: ObjectStore, project: str, day: date | None = None) -> dict[date, dict[str, datetime]]:
    """Keys and times of audit records by day of the audit, oldest first; needs listings only."""
    records: dict[date, dict[str, datetime]] = {}
    for stored in vault.list(keys.audit_prefix(project, day)):
        if name := keys.parse_audit_key(stored.key):
            records.setdefault(name.day, {})[stored.key] = keys.asked_at_of_response(name.audit_id)
    return records


def read_audit_record(vault: ObjectStore, key: str) -> Iterator[pa.Table]:
    """The rows of one audit record, sorted by key, per batch, with current names; columns added later are absent.

    Raises FixityError before the first row if the record was altered.
    """
    name = keys.parse_audit_key(key)
    sha256 = checksum_object(vault, key).sha256
    if name is None or keys.make_response_id(keys.asked_at_of_response(name.audit_id), sha256) != name.audit_id:
        raise DigestDiffers(key, "the SHA-256 in its name", sha256[:8])
    try:
        with vault.open(key) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches():
                yield _with_current_names(pa.Table.from_batches([batch]))
    except pa.ArrowException as error:
        raise FixityError(key, "an audit record", f"malformed content ({error})") from None


_RENAMED = {"is_reread": "is_content_verified", "compared": "compared_by"}
"""Columns of records written before 0.1.0, and their current names."""


def _with_current_names(rows: pa.Table) -> pa.Table:
    if not _RENAMED.keys() & set(rows.schema.names):
        return rows
    rows = rows.rename_columns([_RENAMED.get(name, name) for name in rows.schema.names])
    index = rows.schema.get_field_index("verdict")
    verdict = pc.if_else(pc.equal(rows["verdict"], "unexpected"), "orphan", rows["verdict"])
    return rows.set_column(index, rows.schema.field(index), verdict)
