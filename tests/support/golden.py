"""Golden rows: replies in `tests/samples/`, expected rows in `tests/golden/rows/`.

    python -m tests.support.golden            write every expected file again; review the diff before committing it
    python -m tests.support.golden CASE …     write only these files

tests/samples/README.md documents the format of a case.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import ApiError
from pipeline.enablex.protocol import Request
from pipeline.tables import parquet
from pipeline.tables.schemas import TABLES
from tests.support.lakes import Lake
from tests.support.paths import ROOT
from tests.support.records import listed_file

SAMPLES = ROOT / "tests/samples"
EXPECTED = ROOT / "tests/golden/rows"


def cases() -> list[str]:
    return sorted(path.parent.name for path in SAMPLES.glob("*/case.toml"))


def promise(case: str) -> str:
    text: str = read_case(case)["promise"]
    return text


def read_case(case: str) -> dict[str, Any]:
    return tomllib.loads((SAMPLES / case / "case.toml").read_text(encoding="utf-8"))


def golden(case: str) -> str:
    """The text of a case's expected file: its replies are landed, its tables built and read."""
    sample = read_case(case)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        refused = [error for reply in sample.get("replies", []) if (error := _land(lake, case, reply))]
        for file in sample.get("files", []):
            content = (SAMPLES / case / file["body"]).read_bytes()
            name, conf_num = file["name"], file["conf_num"]
            lake.store_file(listed_file(kind=file["kind"], name=name, conf_num=conf_num, day=file["day"]), content)
        lake.build()
        built = {table: _rendered(parquet.read_arrow(table, lake=lake.lake)) for table in sample["tables"]}
    return json.dumps({**({"refused": refused} if refused else {}), **built}, indent=1, ensure_ascii=False) + "\n"


def _land(lake: Lake, case: str, reply: dict[str, Any]) -> str | None:
    """Land one reply; the type of error if it is refused, else None."""
    source = reply.get("source", "cdr")
    request = Request("GET", reply["request"], source) if "request" in reply else None
    try:
        lake.land_reply(
            (SAMPLES / case / reply["body"]).read_bytes(),
            day=reply["day"],
            hour=reply.get("hour", 0),
            source=source,
            status=reply["status"],
            headers=reply["headers"],
            request=request,
        )
    except ApiError as error:
        return f"{reply['body']}: {type(error).__name__}"
    return None


def _rendered(rows: pa.Table) -> list[dict[str, str | None]]:
    """Every cell as text under its column's name and type, so that a change of either is visible."""
    types = {field.name: str(field.type) for field in rows.schema if field.name != "project"}
    return [{f"{name}: {kind}": _text(row[name]) for name, kind in types.items()} for row in rows.to_pylist()]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(chosen: list[str]) -> None:
    EXPECTED.mkdir(parents=True, exist_ok=True)
    for case in chosen or cases():
        path = EXPECTED / f"{case}.json"
        before = path.read_text(encoding="utf-8") if path.exists() else None
        after = golden(case)
        path.write_text(after, encoding="utf-8")
        print(f"{'same' if before == after else 'new' if before is None else 'CHANGED':8}{case}")
    if not chosen:
        for path in EXPECTED.glob("*.json"):
            if path.stem not in cases():
                print(f"{'orphan':8}{path.stem}: no such case; remove it")


if __name__ == "__main__":
    assert TABLES
    main(sys.argv[1:])
