"""Connections without `cdr_id`: derived ids, and which of them are versions of a record with another id (pure).

The older shape, or a record before EnableX completed it, can lack `cdr_id` (enablex-api.md section 11.9).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import FLAG, TEXT, TIME
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.cdr import IDENTITY, derived_id

_STRONG = ("call_log_id", "call_num", "signal_connected_at", "room_connected_at")
"""Two records of one session that share one of these can be one connection."""

_COMPARED = (*_STRONG, "user_ref", "user_name", "user_ip", "room_id")
"""Two records that differ in one of these, where both have it, are two connections."""

IDENTITIES = pa.schema(
    [
        *(pa.field(name, TIME if name.endswith("_at") else TEXT) for name in ("cdr_id", "conf_num", *_COMPARED)),
        pa.field("cdr_id_is_derived", FLAG),
        pa.field("response", pa.int32()),
    ]
)
"""What is compared of an observation."""


def with_derived_ids(rows: pa.Table, key: bytes) -> pa.Table:
    """The same rows with a derived id where `cdr_id` is null; see `derived_id`."""
    missing = pc.is_null(rows["cdr_id"])
    if not pc.any(missing).as_py():
        return rows
    identities = rows.filter(missing).select([*IDENTITY, "trans_at"]).to_pylist()
    derived = pa.array([derived_id(_identity(row), key) for row in identities], TEXT)
    ids = pc.replace_with_mask(rows["cdr_id"].combine_chunks(), missing.combine_chunks(), derived)
    return rows.set_column(rows.schema.get_field_index("cdr_id"), "cdr_id", ids)


def _identity(row: dict[str, Any]) -> list[Any]:
    has_start = row["signal_connected_at"] or row["room_connected_at"]
    return [*(row[name] for name in IDENTITY), None if has_start else row["trans_at"]]


@dataclass
class _Record:
    """Observations of one id: its identities, and the responses that have it."""

    cdr_id: str
    is_derived: bool
    identities: set[tuple[Any, ...]] = field(default_factory=set)
    responses: set[int] = field(default_factory=set)

    @property
    def precedence(self) -> tuple[bool, int, str]:
        """Sorts stated ids first, then those with more identity fields."""
        return (self.is_derived, -max(sum(map(_is_known, identity)) for identity in self.identities), self.cdr_id)

    @property
    def strong_values(self) -> Iterator[tuple[int, Any]]:
        for identity in self.identities:
            yield from ((at, value) for at, value in enumerate(identity[: len(_STRONG)]) if value is not None)

    def can_be(self, head: _Record, responses: set[int]) -> bool:
        """Whether this can be a version of `head`, which was joined with others; `responses`: of all of them."""
        return not self.responses & responses and any(
            _is_same(mine, theirs) for mine in self.identities for theirs in head.identities
        )


def _is_known(value: Any) -> bool:
    return value is not None


def _is_same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Whether two observations of one session share a strong field, and differ in none that both have."""
    both = [
        at for at, (one, other) in enumerate(zip(left, right, strict=True)) if one is not None and other is not None
    ]
    return all(left[at] == right[at] for at in both) and any(at < len(_STRONG) for at in both)


def joined_ids(identities: pa.Table, excluded: Collection[str] = ()) -> dict[str, str]:
    """For each derived id that is a version of another record, the id of that record.

    `identities`: rows of `IDENTITIES`, all of each session in them. `excluded`: ids that name several records.
    """
    with_derived = identities.filter(identities["cdr_id_is_derived"])["conf_num"].unique()
    rows = identities.filter(pc.is_in(identities["conf_num"], with_derived))
    sessions: dict[str, dict[str, _Record]] = defaultdict(dict)
    for row in rows.to_pylist():
        if row["cdr_id"] not in excluded:
            records = sessions[row["conf_num"]]
            record = records.setdefault(row["cdr_id"], _Record(row["cdr_id"], row["cdr_id_is_derived"]))
            record.identities.add(tuple(row[name] for name in _COMPARED))
            record.responses.add(row["response"])
    joined: dict[str, str] = {}
    for records in sessions.values():
        joined.update(_joined(list(records.values())))
    return joined


def _joined(records: list[_Record]) -> Iterator[tuple[str, str]]:
    """Derived records of one session, each with the first record that it can be a version of."""
    heads: dict[tuple[int, Any], list[_Record]] = defaultdict(list)
    responses: dict[str, set[int]] = {}
    for record in sorted(records, key=lambda record: record.precedence):
        near = (
            {head.cdr_id: head for value in record.strong_values for head in heads[value]} if record.is_derived else {}
        )
        fitting = [head for head in near.values() if record.can_be(head, responses[head.cdr_id])]
        if fitting:
            head = min(fitting, key=lambda head: head.precedence)
            responses[head.cdr_id] |= record.responses
            yield record.cdr_id, head.cdr_id
        else:
            responses[record.cdr_id] = set(record.responses)
            for value in dict.fromkeys(record.strong_values):
                heads[value].append(record)


def renamed(rows: pa.Table, ids: dict[str, str]) -> pa.Table:
    """The same rows with the ids that `ids` replaces."""
    at = pc.index_in(rows["cdr_id"], pa.array(list(ids), TEXT))
    if at.null_count == len(at):
        return rows
    replaced = pc.coalesce(
        pa.array(list(ids.values()), TEXT).take(at.combine_chunks()), rows["cdr_id"].combine_chunks()
    )
    return rows.set_column(rows.schema.get_field_index("cdr_id"), "cdr_id", replaced)


def has_derived(rows: pa.Table) -> bool:
    return bool(mask(rows["cdr_id_is_derived"]).any())
