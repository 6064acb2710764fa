"""Chat files: messages as well as they can be read, and never a guess more."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.normalize.chat import chat_messages, chat_row
from pipeline.tables.schemas import CHAT

MESSAGE = {"sender": "Ann", "senderId": "u1", "message": "hello", "timestamp": "2024-03-09T14:10:00.000Z"}


def test_a_message() -> None:
    """The expected message has a sender, an id, a text and a moment."""
    assert chat_row(MESSAGE) == {
        "sent_at": datetime(2024, 3, 9, 14, 10, tzinfo=UTC),
        "sender_name": "Ann",
        "sender_ref": "u1",
        "message": "hello",
        "extra": None,
    }


@pytest.mark.parametrize(
    "content",
    [[MESSAGE], {"messages": [MESSAGE]}, {"conf_num": "1", "chat": [MESSAGE], "other": [1]}],
    ids=["list", "object", "first list of an object"],
)
def test_messages_stand_in_a_list_or_in_an_object(content: Any) -> None:
    """A bare list and the first list inside an object are both read."""
    assert chat_messages(json.dumps(content).encode()) == [MESSAGE]


@pytest.mark.parametrize("content", [b"", b"  \n", b"[]", b'{"messages": []}'])
def test_no_messages(content: bytes) -> None:
    """An empty file, an empty list and an object with an empty list are no messages, and no fault."""
    assert chat_messages(content) == []


@pytest.mark.parametrize(
    "content", [b'[{"sender": "A', b"hello", b"\xff\xfe", b"[" * 5000],
    ids=["cut", "no JSON", "no text", "too deep"],
)  # fmt: skip
def test_an_unreadable_file_has_a_reason(content: bytes) -> None:
    """A file that is cut or no JSON is refused whole: it becomes one reject."""
    with pytest.raises(RecordError, match="not JSON"):
        chat_messages(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b'{"chat": [{"message": "\\ud83d lone"}]}', "\ufffd lone"), (b'[{"message": "M\xffller"}]', "M\ufffdller")],
)
def test_text_that_is_no_text_is_repaired(content: bytes, text: str) -> None:
    """Half of a surrogate pair, or a byte that is no UTF-8, costs one character and no message."""
    assert [message["message"] for message in chat_messages(content)] == [text]


def test_the_list_of_repairs_is_no_list_of_messages() -> None:
    """The paths of repaired values are not read as messages."""
    with pytest.raises(RecordError, match="no list of messages"):
        chat_messages(b'{"a": NaN}')


@pytest.mark.parametrize("content", [b'"hello"', b"7", b"null", b'{"a": {"b": 1}}'])
def test_without_a_list_there_are_no_messages(content: bytes) -> None:
    """JSON without a list in reach is refused rather than guessed at."""
    with pytest.raises(RecordError, match="no list of messages"):
        chat_messages(content)


@pytest.mark.parametrize("document", [None, "hello", 1, ["hello"]])
def test_a_message_is_an_object(document: Any) -> None:
    """Anything else in the list is one reject each."""
    with pytest.raises(RecordError, match="not an object"):
        chat_row(document)


def test_unknown_fields_and_misfits_are_kept() -> None:
    """What fits no column stands in `extra`; a token does not."""
    row = chat_row({**MESSAGE, "timestamp": "later", "colour": "blue", "token": "hush"})
    assert row["sent_at"] is None
    assert json.loads(row["extra"]) == {"timestamp": "later", "colour": "blue"}


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_messages_or_a_reject(content: bytes) -> None:
    """Whatever a file holds, it is a list of messages or a RecordError."""
    try:
        assert isinstance(chat_messages(content), list)
    except RecordError as error:
        assert error.reason  # noqa: PT017 - raising is one of two good ends


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5) | st.just([1]) | st.just({"a": 1})  # fmt: skip


@given(st.dictionaries(st.sampled_from([*MESSAGE, "x"]), VALUES))
def test_any_object_is_a_row(document: dict[str, Any]) -> None:
    """Any object is a row that the table can hold; text is never changed."""
    row = chat_row(document)
    pa.Table.from_pylist([{"conf_num": "1", "ordinal": 0, "name": "c.json", **row}], schema=CHAT.schema)
    if isinstance(document.get("message"), str):
        assert row["message"] == (document["message"] or None)
