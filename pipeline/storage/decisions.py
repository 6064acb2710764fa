"""Decisions on records in suspense: facts in the lake, one object per command, never changed.

Tables are derived and can be deleted; a decision cannot be computed again, so no build writes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

import msgspec

from pipeline.core.concurrency import map_concurrent
from pipeline.core.errors import FixityError
from pipeline.core.models import DecisionOutcome
from pipeline.storage.base import ObjectStore, read_bytes
from pipeline.storage.keys import decision_key, decision_prefix, make_response_id


class DecidedRecord(msgspec.Struct, frozen=True):
    """One record, the day of its partition, and what the decision is based on: reasons and whole minutes at stake."""

    suspense_id: str
    day: date
    reasons: str
    at_stake_min: Decimal | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided for records, when and why. `because` is the reason given by the person who decided."""

    format: int = 1
    decided_at: datetime
    outcome: DecisionOutcome
    because: str
    records: tuple[DecidedRecord, ...]


_DECISION = msgspec.json.Decoder(Decision)


def write_decision(lake: ObjectStore, project: str, decision: Decision) -> str:
    """Store a decision; returns its key. Storing the same decision again changes nothing."""
    content = msgspec.json.format(msgspec.json.encode(decision), indent=1)
    key = decision_key(project, make_response_id(decision.decided_at, hashlib.sha256(content).hexdigest()))
    lake.put_if_absent(key, content)
    return key


def read_decisions(lake: ObjectStore, project: str) -> Sequence[Decision]:
    """All decisions of a project, oldest first. Raises FixityError for an object that is no decision."""
    keys = sorted(stored.key for stored in lake.list(decision_prefix(project)))
    return list(map_concurrent(lambda key: _read(lake, key), keys, lake.max_concurrency))


def _read(lake: ObjectStore, key: str) -> Decision:
    try:
        return _DECISION.decode(read_bytes(lake, key))
    except msgspec.DecodeError as error:
        raise FixityError(key, "a decision", f"something else ({error})") from None
