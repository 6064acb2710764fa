"""An independent recomputation of the tables and billing lines from raw replies: slow, plain, without product code.

It follows the semantics of docs/guide and docs/reference/tables.md. A test checks that it imports neither `pipeline`
nor `jobs`, nor a library that the product computes with: a shared mistake cannot hide in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.oracle.inputs import Decision, Document, Reply, Rules, document, stored_replies
from tests.support.oracle.lines import lines
from tests.support.oracle.records import listing, observe, records
from tests.support.oracle.rows import Connection, Row, connection, history, reject_rows, suspense_rows
from tests.support.oracle.sessions import listed_files, session_row, sessions, usage_rows

__all__ = ["KEYS", "Decision", "Document", "Reply", "Rules", "Tables", "document", "recompute"]

_ATTRIBUTED = ("day", "room_id", "owner_ref", "billing_code")
KEYS = {
    "cdr": ("cdr_id",),
    "cdr_history": ("cdr_id", "revision"),
    "sessions": ("day", "conf_num"),
    "usage_daily": _ATTRIBUTED,
    "suspense": ("suspense_id", "day"),
    "rejects": ("asked_at", "ordinal"),
    "lines": _ATTRIBUTED,
}
"""Key columns of each table; a row of a table is found once."""


@dataclass(frozen=True)
class Tables:
    """Rows of each table by name, and of `lines` (of all months); `connections`: what the rows were made of."""

    rows: dict[str, list[Row]]
    connections: list[Connection]


def recompute(replies: Iterable[Reply], rules: Rules) -> Tables:
    """Everything that the tables must contain after these replies.

    Every reply has its own time of request. Seconds are `Fraction`, minutes and prices `Decimal`, times UTC.
    """
    stored = stored_replies(replies)
    cdr = [one for one in stored if one.reply.source == "cdr"]
    observed, rejects = observe(cdr)
    listed = listing(cdr)
    connections = [connection(record, listed, rules) for record in records(observed, rules)]
    files, archive_rejects = listed_files(one for one in stored if one.reply.source == "archive")
    found = sessions(connections, files)
    suspense = suspense_rows(connections, rejects, listed, rules)
    return Tables(
        {
            "cdr": [one.row for one in connections],
            "cdr_history": [row for one in connections for row in history(one.record)],
            "sessions": [session_row(session) for session in found],
            "usage_daily": usage_rows(found),
            "suspense": suspense,
            "rejects": reject_rows([*rejects, *archive_rejects]),
            "lines": lines(found, suspense, rules),
        },
        connections,
    )
