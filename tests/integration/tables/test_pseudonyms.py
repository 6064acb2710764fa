"""Privacy from end to end: tokens for people, secrets nowhere, raw as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.enablex.simulator.traffic import SECRET_MARK
from pipeline.enablex.simulator.world import World
from pipeline.tables.schemas import PERSONAL_COLUMNS, TABLES
from tests.conftest import NOW, Site
from tests.support.cdrs import NEW, OLD, changed
from tests.support.lakes import DAY, Lake
from tests.support.records import listed_file

KEY = b"a key of this test"
SECRETS = ("hush-token", "hush-pin", "hush-password", "hush-stream")
PEOPLE = ("A. Patient", "patient-9001", "203.0.113.7", "Dr. Changed", "see you at noon")


def full_lake(folder: Path, private: tuple[str, ...] = PERSONAL_COLUMNS) -> Lake:
    """A connection with a correction, one of the old shape, and a chat of the same person; secrets in all of them."""
    lake = Lake(folder, private, KEY)
    hidden = {
        "user__token": "hush-token",
        "room__room_details__sip__pin": "hush-pin",
        "room__room_details__sip__password": "hush-password",
        "room__room_details__settings__live_recording__url": "https://live.example/hush-stream",
    }
    lake.land_documents([changed(NEW, **hidden), changed(OLD, user__token="hush-token", user__name="A. Patient")])
    lake.land_documents([changed(NEW, user__name="Dr. Changed", **hidden)], hour=5)
    chat = [{"sender": "A. Patient", "senderId": "patient-9001", "message": "see you at noon", "token": "hush-token"}]
    file = listed_file(day=DAY, conf_num=NEW["conf_num"], kind="chat", name="c.json")
    lake.store_file(file, json.dumps(chat).encode())
    lake.build()
    return lake


def cells(lake: Lake) -> str:
    return json.dumps({table: lake.rows(table) for table in TABLES}, default=str)


def test_named_columns_hold_tokens_everywhere(tmp_path: Path) -> None:
    """All personal columns of `cdr`, `cdr_history` and `chat` hold tokens; nulls stay; no name is in any cell."""
    lake = full_lake(tmp_path)
    for table in ("cdr", "cdr_history", "chat"):
        personal = [column.name for column in TABLES[table].columns if column.privacy == "personal"]
        values = [row[name] for row in lake.rows(table) for name in personal]
        assert any(values)
        assert all(value is None or value.startswith("p-") for value in values)
    assert not [person for person in PEOPLE if person in cells(lake)]


def test_one_person_is_one_token_in_all_tables(tmp_path: Path) -> None:
    """A name has the same token in `cdr`, in an earlier version and in a chat; so has a reference."""
    lake = full_lake(tmp_path)
    (earlier,), (message,) = lake.rows("cdr_history"), lake.rows("chat")
    old, new = sorted(lake.rows("cdr"), key=lambda row: row["cdr_id"])
    assert old["user_name"] == earlier["user_name"] == message["sender_name"] != new["user_name"]
    assert new["user_ref"] == earlier["user_ref"] == message["sender_ref"]


def test_columns_that_are_not_named_stay(tmp_path: Path) -> None:
    """Only the columns that settings name are replaced; counts of people do not change."""
    some, none = full_lake(tmp_path / "some", ("user_ip",)), full_lake(tmp_path / "none", ())
    row, plain = some.rows("cdr")[1], none.rows("cdr")[1]
    assert {name for name in row if row[name] != plain[name]} == {"user_ip"}
    for table in ("sessions", "usage_daily"):
        assert full_lake(tmp_path / table).rows(table) == none.rows(table)


def test_another_key_builds_again_with_other_tokens(tmp_path: Path) -> None:
    """A changed key, or another list of columns, makes days stale; built again, no old token is left."""
    lake = full_lake(tmp_path)
    before = {row["user_name"] for row in lake.rows("cdr")}
    lake.key = b"another"
    assert lake.build() != []
    assert not before & {row["user_name"] for row in lake.rows("cdr")}
    lake.private = ()
    assert lake.build() != []
    assert "Dr. Changed" in cells(lake)


def test_raw_is_untouched_and_tables_have_no_secret(tmp_path: Path) -> None:
    """The vault keeps what was said, names and all; no cell has a token, pin, password or stream address."""
    lake = full_lake(tmp_path, ())
    raw = [content for name, content in lake.objects("vault/raw").items() if name.endswith(".json.zst")]
    said = "".join(zstandard.ZstdDecompressor().decompressobj().decompress(content).decode() for content in raw)
    assert all(person in said for person in PEOPLE[:4])
    assert all(secret in said for secret in SECRETS)
    assert "A. Patient" in cells(lake)
    assert not [secret for secret in SECRETS if secret in cells(lake)]
    assert not [
        content for content in lake.objects("lake").values() if any(secret.encode() in content for secret in SECRETS)
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [("user__name", ["A. Patient"]), ("user__ref", {"id": "patient-9001"}), ("user", [{"name": "A. Patient"}])],
)
def test_a_person_in_an_odd_shape_is_no_name_either(tmp_path: Path, path: str, value: Any) -> None:
    """With all personal columns replaced, a name that came as a list or an object is in no cell."""
    lake = Lake(tmp_path, PERSONAL_COLUMNS, KEY)
    lake.land_documents([changed(NEW, **{**dict.fromkeys(("user__name", "user__ref"), ""), path: value})])
    lake.build()
    assert not [person for person in PEOPLE[:2] if person in cells(lake)]


@pytest.mark.parametrize("document", [[{"token": "hush-token"}], {"conf_num": {"token": "hush-token"}}])
def test_a_reject_shows_no_secret(tmp_path: Path, document: Any) -> None:
    """What a reject shows of its document has no secret in it."""
    lake = Lake(tmp_path)
    lake.land_documents([document])
    lake.build()
    assert len(lake.rows("rejects")) == 1
    assert not [secret for secret in SECRETS if secret in cells(lake)]


def test_a_night_with_pseudonyms(make_site: Callable[..., Site]) -> None:
    """A whole night with pseudonyms: names and references are in raw only, tokens and pins in no table or log."""
    site = make_site(World(projects=("acme",), sessions_per_day=4, begin=(NOW - timedelta(days=1)).date()))
    site.configure("[collect]\n", f"[privacy]\npseudonymise = {json.dumps(PERSONAL_COLUMNS)}\n[collect]\n")
    done = site.postroom("--json", "--verbose", "nightly", POSTROOM_PRIVACY__KEY="hush-key")
    assert done.returncode == 0, done.stderr
    documents = site.world.cdr_documents("acme", NOW, (NOW - timedelta(days=3)).date(), NOW.date())
    names = {document["user"][key] for document in documents for key in ("name", "ref")} - {""}
    pins = {str(room["sip"]["pin"]) for room in site.world.room_documents("acme", NOW)}
    assert names
    assert pins
    written = "\n".join([done.stdout, done.stderr])
    tables = cells(Lake(site.folder))
    assert '"p-' in tables
    for text in (written, tables):
        assert not [name for name in names if name in text]
        assert SECRET_MARK not in text
        assert "hush-key" not in text
    assert not [pin for pin in pins if f'"pin": {pin}' in tables or f'\\"pin\\":{pin}' in tables]
    raw = [zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
           for path in (site.folder / "vault/raw").rglob("*.json.zst")]  # fmt: skip
    assert any(name.encode() in text for name in names for text in raw)
