"""A lake of `cdr` by the million, made in columns: the same every time, laid out as `build` lays it out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, MONEY, TIME
from pipeline.core.models import Period
from pipeline.storage import LocalStore, ObjectStore
from pipeline.tables.parquet import PartitionWriter, replace_partition
from pipeline.tables.schemas import CDR
from tests.support.environ import clean_environ

OWNERS = 97
BILLING_CODES = 31
ROOMS = 20_000
_CONNECTIONS = 4
"""Of each session."""

_DAY_S = 24 * 3600
_STAY_S = (60, 5400)
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
_AGENTS = pa.array(["okhttp/3.5.0", "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0"])
_ROLES = pa.array(["moderator", "participant", "viewer"])


MONTH = Period(date(2026, 11, 1), date(2026, 11, 30))


@contextmanager
def month_lake(rows: int) -> Iterator[tuple[Path, LocalStore]]:
    """A folder for a while, and in it a lake with so many rows of `cdr` in `MONTH`."""
    with tempfile.TemporaryDirectory(prefix="postroom-bench-") as place:
        lake = LocalStore(Path(place) / "lake")
        make_lake(lake, MONTH, rows)
        yield Path(place), lake


def lake_environ(folder: Path) -> dict[str, str]:
    """The environment of a command that works on the stores in a folder."""
    return {
        **clean_environ(),
        "POSTROOM_LAKE__URL": f"file:{folder}/lake",
        "POSTROOM_VAULT__URL": f"file:{folder}/vault",
        "POSTROOM_RUN_STORE__URL": f"sqlite:///{folder}/ledger.db",
    }


def make_lake(lake: ObjectStore, days: Period, rows: int, *, project: str = "acme", seed: int = 7) -> None:
    """Write so many rows of `cdr`, spread evenly over the days. Memory: one day."""
    every_day = list(days)
    count = rows // len(every_day)
    with tempfile.TemporaryDirectory() as folder:
        for number, day in enumerate(every_day):
            file = PartitionWriter(Path(folder), CDR, day)
            file.add(_cdr(day, count, number * count, np.random.default_rng([seed, number])))
            file.close()
            replace_partition(lake, "cdr", project, day, file, None)
            file.path.unlink()


def _cdr(day: date, count: int, before: int, dice: np.random.Generator) -> pa.Table:
    """One day in order of `cdr_id`; `before`: rows of earlier days, so that no id comes twice."""
    numbers = before + np.arange(count)
    sessions = numbers // _CONNECTIONS
    rooms = (sessions * 7919) % ROOMS
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    end_ms = midnight_ms + np.sort(dice.integers(_STAY_S[1] * 1000, _DAY_S * 1000, count))
    stay_s = dice.integers(*_STAY_S, count) + dice.integers(0, 1000, count) / 1000
    minutes = np.ceil(stay_s / 60).astype(np.int64)
    began, ended = _times(end_ms - (stay_s * 1000).astype(np.int64)), _times(end_ms)
    billed = _decimals(minutes, "1").cast(BILLED)
    people = dice.integers(0, 200_000, count)
    known: dict[str, pa.Array] = {
        "cdr_id": _named("", numbers, 24),
        "app_id": _same("61aa00bb22cc33dd44ee55ff", count),
        "conf_num": _named("", sessions, 12),
        "call_num": _named("", numbers % _CONNECTIONS, 1),
        "trans_at": ended,
        "is_sip": pa.array(dice.random(count) < 0.03),
        "room_id": _named("room-", rooms, 24),
        "room_name": _named("Consultation ", rooms, 6),
        "owner_ref": _named("tenant-", rooms % OWNERS, 2),
        "billing_code": _named("CC-", rooms % BILLING_CODES, 2),
        "room_mode": _same("group", count),
        "room_connected_at": began,
        "room_disconnected_at": ended,
        "user_ref": _named("user-", people, 6),
        "user_role": _ROLES.take(pa.array(numbers % len(_ROLES))),
        "user_agent": _AGENTS.take(pa.array(people % len(_AGENTS))),
        "signal_connected_at": began,
        "signal_disconnected_at": ended,
        "signal_duration_s": pa.array(stay_s),
        "subscribed_min": pa.array(stay_s / 60),
        "published_min": pa.array(stay_s / 60),
        "connect_min": pa.array(minutes.astype(float)),
        "connect_billed_min": billed,
        "participant_s": pa.array(stay_s),
        "participant_min": billed,
        "price": _decimals(minutes, "0.004").cast(MONEY),
        "revision": pa.array(np.ones(count, np.int64)),
        "first_seen_at": _times(end_ms + 3_600_000),
        "changed_at": _times(end_ms + 3_600_000),
    }
    columns = [known.get(field.name, pa.nulls(count, field.type)) for field in CDR.schema]
    return pa.table(columns, schema=CDR.schema)


def _times(milliseconds: Numbers) -> pa.Array:
    return pa.array(milliseconds).cast(TIME)


def _decimals(numbers: Numbers, each: str) -> pa.Array:
    return pc.multiply(pa.array(numbers).cast(pa.decimal128(19, 0)), pa.scalar(Decimal(each)))


def _named(prefix: str, numbers: Numbers, digits: int) -> pa.Array:
    """`prefix` and a number with leading zeros: each distinct text is made once."""
    distinct, places = np.unique(numbers, return_inverse=True)
    texts = pc.utf8_lpad(pa.array(distinct).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, texts, "").take(pa.array(places))


def _same(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), count)
