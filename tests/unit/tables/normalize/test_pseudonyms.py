"""Pseudonyms: the same person is the same token, nobody can be read, and nothing else is touched."""

from __future__ import annotations

import hashlib
import hmac

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize.pseudonyms import pseudonymise

KEY = b"a key of this test"
SCHEMA = pa.schema([("user_ip", pa.string()), ("user_name", pa.string()), ("n", pa.int64())])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"user_ip": st.none() | st.text(), "user_name": st.none() | st.text(), "n": st.integers(0, 9)}
    )
)


@given(st.lists(ROWS, max_size=3))
def test_tokens_stand_for_values(chunks: list[list[dict[str, object]]]) -> None:
    """Equal values get equal tokens, different ones different tokens, nulls stay nulls; length, order, types stay."""
    table = pa.concat_tables([SCHEMA.empty_table(), *(pa.Table.from_pylist(rows, schema=SCHEMA) for rows in chunks)])
    made = pseudonymise(table, ["user_name"], KEY)
    assert made.schema == SCHEMA
    assert made.drop_columns(["user_name"]) == table.drop_columns(["user_name"])
    pairs = set(zip(table["user_name"].to_pylist(), made["user_name"].to_pylist(), strict=True))
    names, tokens = {name for name, _ in pairs}, {token for _, token in pairs}
    assert len(pairs) == len(names) == len(tokens)
    assert all((name is None) == (token is None) and (name is None or name != token) for name, token in pairs)


def test_a_token_is_the_keyed_digest() -> None:
    """A token can be made again with the key, in any language: the first 32 hex digits of HMAC-SHA-256."""
    made = pseudonymise(pa.table({"user_name": ["A. Müller", "A. Müller", ""]}), ["user_name"], KEY)
    expected = [f"p-{hmac.new(KEY, name.encode(), hashlib.sha256).hexdigest()[:32]}" for name in ("A. Müller", "")]
    assert made["user_name"].to_pylist() == [expected[0], expected[0], expected[1]]


def test_another_key_gives_other_tokens() -> None:
    """Without the key nobody can test a guess."""
    table = pa.table({"user_name": ["A. Müller"]})
    assert pseudonymise(table, ["user_name"], KEY) != pseudonymise(table, ["user_name"], b"another")


def test_rows_of_other_tables_pass() -> None:
    """A table without the column is left as it is, and several columns are replaced together."""
    assert pseudonymise(pa.table({"n": [1]}), ["user_name"], KEY) == pa.table({"n": [1]})
    both = pseudonymise(pa.table({"user_ip": ["1.2.3.4"], "user_name": ["A"]}), ["user_name", "user_ip"], KEY)
    assert {value[:2] for column in both.columns for value in column.to_pylist()} == {"p-"}
    assert both.column_names == ["user_ip", "user_name"]
