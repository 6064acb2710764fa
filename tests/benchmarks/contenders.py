"""One way from a day's CDRs to Parquet, alone in its process: `python -m tests.benchmarks.contenders NAME FOLDER`.

Postroom starts from the landed reply as EnableX sends it; the others are handed the easy form, one record a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path


def postroom(folder: Path) -> None:
    """Raw to all tables: versions, quality, sessions, usage, typed and deduplicated."""
    from pipeline.storage import LocalStore
    from pipeline.tables.batches import plan_sequences
    from pipeline.tables.build import Builder
    from pipeline.tables.schemas import TABLES

    builder = Builder(LocalStore(folder / "lake"), LocalStore(folder / "vault"), timedelta(hours=72))
    for sequence in plan_sequences(builder.stale("acme", None, tuple(TABLES)), 1):
        assert all(built.result for built in builder.build(sequence))


def parse_only(folder: Path) -> None:
    """The floor: every record decoded by msgspec into structs, and thrown away."""
    from pipeline.tables.normalize.cdr_batch import _SCANNER

    decoder = _SCANNER._decoder
    with (folder / "cdr.ndjson").open("rb") as lines:
        for line in lines:
            decoder.decode(line)


def copy_only(folder: Path) -> None:
    """The other floor: the landed reply decompressed, checked and cut into documents."""
    from datetime import date

    from pipeline.core.models import Period
    from pipeline.storage import LocalStore, raw
    from pipeline.storage.raw import read_receipts

    vault = LocalStore(folder / "vault")
    for page in read_receipts(vault, "cdr", "acme", Period(date(2026, 11, 1), date(2026, 11, 30))):
        for _ in raw.read_documents(vault, page):
            pass


def duckdb(folder: Path) -> None:
    """read_json to Parquet: nested columns as they come."""
    import duckdb as engine

    source, target = folder / "cdr.ndjson", folder / "duckdb.parquet"
    engine.sql(f"COPY (FROM read_json('{source}', format = 'newline_delimited')) TO '{target}' (FORMAT parquet)")


def polars(folder: Path) -> None:
    """read_ndjson to Parquet: nested columns as they come; quality as text, for it cannot write an empty struct."""
    import polars as engine

    frame = engine.read_ndjson(folder / "cdr.ndjson", infer_schema_length=10_000)
    quality = engine.col("stats_quality").struct.json_encode()
    frame.with_columns(quality).write_parquet(folder / "polars.parquet")


def json_normalize(folder: Path) -> None:
    """pandas: json, json_normalize, to_parquet; mixed columns as text, for Parquet takes no others."""
    import json

    import pandas as pd

    with (folder / "cdr.ndjson").open("rb") as lines:
        frame = pd.json_normalize([json.loads(line) for line in lines])
    mixed = [name for name in frame.columns if frame[name].dtype == object]
    frame[mixed] = frame[mixed].astype(str)
    frame.to_parquet(folder / "pandas.parquet")


def dlt(folder: Path) -> None:
    """dlt: extract, normalise, load to Parquet on the file system."""
    import json
    import os

    import dlt as engine

    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"

    def cdr():  # type: ignore[no-untyped-def]
        with (folder / "cdr.ndjson").open("rb") as lines:
            for line in lines:
                yield json.loads(line)

    line = engine.pipeline(
        "bench",
        pipelines_dir=str(folder / "dlt-work"),
        destination=engine.destinations.filesystem(f"file://{folder}/dlt"),
        dataset_name="cdr",
    )
    line.run(cdr(), table_name="cdr", loader_file_format="parquet")


CONTENDERS: dict[str, Callable[[Path], None]] = {
    "postroom": postroom,
    "parse-only": parse_only,
    "copy-only": copy_only,
    "duckdb": duckdb,
    "polars": polars,
    "json_normalize": json_normalize,
    "dlt": dlt,
}

if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](Path(sys.argv[2]))
