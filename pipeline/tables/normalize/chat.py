"""Turn chat files into rows of `chat` (pure, best effort).

Source: enablex-api.md section 5.2: no schema is published. According to the in-session event a message has at least
`sender` and `message`. The original bytes stay in the vault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.core.errors import RecordError
from pipeline.core.models import Row
from pipeline.enablex import lenient
from pipeline.enablex.lenient import UNREADABLE
from pipeline.tables.normalize.row_reader import RowReader
from pipeline.tables.schemas import CHAT

_READER = RowReader(CHAT.columns)


def chat_messages(content: bytes) -> list[Any]:
    """The messages of one chat file, each as a document: the items of a list, or of the first list in an object.

    Raises:
        RecordError: not JSON, or no list of messages in it. An empty file has no messages.
    """
    if not content.strip():
        return []
    try:
        document = lenient.decoded(content)
    except UNREADABLE as error:
        raise RecordError(f"not JSON: {error}") from None
    lists = [document] if isinstance(document, list) else list(_lists(document))
    if not lists:
        raise RecordError("no list of messages")
    return lists[0]


def chat_row(document: Any) -> Row:
    """One message without its session, file and position. Raises RecordError if it is not an object."""
    if not isinstance(document, dict):
        raise RecordError("not an object", value=document)
    return _READER.row(document)


def _lists(document: Any) -> Iterator[list[Any]]:
    if isinstance(document, dict):
        for key, value in document.items():
            if isinstance(value, list) and key != lenient.REPAIRED:
                yield value
