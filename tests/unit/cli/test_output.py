"""Rows are written as CSV, JSON or Parquet without changes; files are written atomically."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.main import run_command
from pipeline.cli.output import FORMS, first_rows, whole_file, write_rows
from pipeline.core.errors import ConfigError

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "owner_ref": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0\r")),
            "minutes": st.none() | st.decimals(1 - 10**15, 10**15 - 1, places=3),
            "at": st.none() | st.integers(0, 4 * 10**15).map(lambda us: datetime.fromtimestamp(us // 10**6, UTC)),
            "day": st.dates(date(1970, 1, 1)),
            "number": st.integers(-(2**63), 2**63 - 1),
            "is_sip": st.none() | st.booleans(),
        }
    ),
    max_size=8,
)
SCHEMA = pa.schema(
    {
        "owner_ref": pa.string(),
        "minutes": pa.decimal128(18, 3),
        "at": pa.timestamp("us", tz="UTC"),
        "day": pa.date32(),
        "number": pa.int64(),
        "is_sip": pa.bool_(),
    }
)


def reader(table: pa.Table, rows_each: int = 3) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(rows_each))


def written(table: pa.Table, form: str) -> bytes:
    stream = io.BytesIO()
    assert write_rows(reader(table), form, stream) == table.num_rows
    return stream.getvalue()


@settings(max_examples=12)
@given(rows=ROWS)
def test_nothing_changes_on_the_way_out(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    """Any rows are read back unchanged from Parquet, from JSON as one list, and from CSV by DuckDB."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    assert pq.read_table(io.BytesIO(written(table, "parquet"))).equals(table)
    from_json = json.loads(written(table, "json"))
    assert [row["number"] for row in from_json] == [row["number"] for row in rows]
    assert [row["minutes"] and Decimal(row["minutes"]) for row in from_json] == [row["minutes"] for row in rows]
    assert [row["at"] and datetime.fromisoformat(row["at"]) for row in from_json] == [row["at"] for row in rows]
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(written(table, "csv"))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        types = {
            "owner_ref": "VARCHAR",
            "minutes": "DECIMAL(18,3)",
            "at": "TIMESTAMPTZ",
            "day": "DATE",
            "number": "BIGINT",
            "is_sip": "BOOLEAN",
        }
        csv_options = "header = true, auto_detect = false, allow_quoted_nulls = false, new_line = '\\n'"
        from_csv = connection.sql(f"FROM read_csv('{path}', columns = {types}, {csv_options})").to_arrow_table()
    assert from_csv.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_result_has_its_columns(form: str) -> None:
    """No rows are an empty list, or a table with the columns of the query."""
    content = written(pa.table({"a": pa.array([], pa.int64())}), form)
    if form == "parquet":
        assert pq.read_table(io.BytesIO(content)).schema.names == ["a"]
    else:
        assert content == {"csv": b'"a"\n', "json": b"[]\n"}[form]


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_repeated_column_names_are_refused(form: str) -> None:
    """Two columns with the same name are refused by formats in which one would replace the other."""
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ConfigError, match="repeated column names: a; rename columns with AS"):
        written(table, form)
    assert written(table, "csv") == b'"a","a"\n1,2\n'


def test_csv_has_no_lists() -> None:
    """Values that a format cannot represent are an error of one line."""
    with pytest.raises(ConfigError, match=r"csv cannot represent these rows: .*list.*; use another --format"):
        written(pa.table({"a": [[1, 2]]}), "csv")


def test_first_rows_reads_no_further_batch() -> None:
    """At most `limit` rows are returned, and only the batches that contain them are read."""
    table = pa.table({"a": range(10)})
    assert first_rows(reader(table), 10) == (table, False)
    rows = reader(table)
    assert first_rows(rows, 4) == (table.slice(0, 4), True)
    assert rows.read_all().num_rows == 4, "two batches of three were enough"


def test_a_file_is_complete_or_unchanged(tmp_path: Path) -> None:
    """A file appears when it is complete; if writing fails, the old file is unchanged and no other file is left."""
    path = tmp_path / "usage.csv"
    with whole_file(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), whole_file(path) as stream:  # noqa: PT012 - the second line must run too
        stream.write(b"half of the sec")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first"
    nowhere = tmp_path / "nowhere" / "usage.csv"
    message = r"--output .*/nowhere/usage.csv: cannot be written: No such file or directory"
    with pytest.raises(ConfigError, match=message), whole_file(nowhere):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["usage.csv"]


def test_the_command_writes_files_and_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`query` prints a table, CSV or JSON; `--output` uses the file's extension; a usage error is one line, code 2."""
    monkeypatch.setenv("POSTROOM_LAKE__URL", f"file:{tmp_path}/lake")
    monkeypatch.setenv("POSTROOM_RUN_STORE__URL", f"sqlite:///{tmp_path}/ledger.db")

    def run(*arguments: str) -> tuple[int, str]:
        code = run_command([*arguments])
        output = capfd.readouterr()
        return code, output.out + output.err

    sql = "SELECT 'tenant-1' AS owner_ref, 1.50 AS minutes"
    assert run("query", sql, "--format", "csv") == (0, '"owner_ref","minutes"\n"tenant-1",1.50\n')
    assert run("query", sql, "--format", "json") == (0, '[\n{"owner_ref":"tenant-1","minutes":"1.50"}\n]\n')
    assert "tenant-1" in run("query", sql)[1]
    assert "first 1,000 rows; use LIMIT" in run("query", "FROM range(1001)")[1]
    file = tmp_path / "usage.parquet"
    assert run("query", sql, "--output", str(file)) == (0, f"1 rows written to {file}\n")
    assert pq.read_table(file).to_pylist() == [{"owner_ref": "tenant-1", "minutes": Decimal("1.50")}]
    outcome = json.loads(run("--json", "query", sql, "--output", str(file))[1])
    assert (outcome["counts"], outcome["output"]) == ({"rows": 1}, str(file))
    for arguments, error in (
        (["--output", "usage.xls"], "--format xls: unknown; use one of csv, json, parquet"),
        (["--format", "parquet"], "--format parquet: requires --output FILE"),
        (["--output", f"{tmp_path}/none/a.csv"], f"--output {tmp_path}/none/a.csv: cannot be written: No such file"),
    ):
        code, text = run("query", sql, *arguments)
        assert (code, text.startswith(f"postroom: {error}"), text.count("\n")) == (2, True, 1), text
