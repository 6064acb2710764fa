"""The same raw gives the same Parquet, byte for byte, on any machine."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pipeline.enablex.envelope import Envelope
from pipeline.enablex.protocol import ReplyHead, period_request
from pipeline.storage import LocalStore, raw
from pipeline.tables.batches import plan_sequences
from pipeline.tables.build import Builder
from pipeline.tables.document_days import document_days
from pipeline.tables.schemas import TABLES
from tests.benchmarks.records import DAY, records
from tests.support.paths import ROOT

EXPECTED = ROOT / "tests/golden/parquet_sha256.json"


def built(folder: Path) -> dict[str, str]:
    """SHA-256 of every table's day, built from 500 records in one landed reply."""
    body = b'{"result":"0","cdr":[' + b",".join(records(500)) + b"]}"
    spool, envelope = raw.SpooledBody(partial(document_days, "cdr", asked=DAY)), Envelope("cdr")
    spool.write(body)
    spool.note([*envelope.feed(body), *envelope.finish()])
    vault, lake = LocalStore(folder / "vault"), LocalStore(folder / "lake")
    place = raw.RawLocation("cdr", "acme", DAY, datetime(2026, 11, 24, tzinfo=UTC))
    raw.land(vault, place, ReplyHead(period_request("cdr", DAY), 200, {}), spool)
    builder = Builder(lake, vault, timedelta(hours=72))
    for sequence in plan_sequences(builder.stale("acme", None, tuple(TABLES)), 1):
        assert all(built.result for built in builder.build(sequence))
    return {
        path.relative_to(folder / "lake/tables").parts[0]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "lake/tables").rglob("*.parquet"))
    }


def test_the_bytes_are_those_of_another_machine(tmp_path: Path) -> None:
    """Parquet built here has the SHA-256 that another machine wrote down, for the pinned version of pyarrow.

    After an upgrade of pyarrow, or a change of a table: python -m tests.integration.tables.test_byte_identity
    """
    assert built(tmp_path) == json.loads(EXPECTED.read_text())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        EXPECTED.write_text(json.dumps(built(Path(place)), indent=1) + "\n")
