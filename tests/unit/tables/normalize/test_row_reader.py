"""Documents to rows: nothing is lost, nothing is doubled, secrets stay out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrow_types import FLAG, REAL, TEXT
from pipeline.tables.normalize.row_reader import RowReader, drop_empty, extra_json, get_path, path_tree, unknown_paths
from pipeline.tables.schemas import Column

COLUMNS = (
    Column("name", TEXT, "", "user.name"),
    Column("is_on", FLAG, "", "on"),
    Column("n", REAL, "", "deep.down.n"),
)
READER = RowReader(COLUMNS, elsewhere=[("user", "hidden")])

KEYS = st.sampled_from(["user", "name", "on", "deep", "down", "n", "x", "token", "y"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "true"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


def leaves(value: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every non-empty value below objects that is not named like a secret."""
    if not isinstance(value, dict):
        return {at: value}
    return {path: leaf for key, inner in value.items() for path, leaf in leaves(inner, (*at, key)).items()}


def has_content(path: tuple[str, ...], leaf: Any) -> bool:
    return "token" not in path and leaf is not None and leaf != ""


@given(OBJECTS)
def test_every_value_is_in_a_column_or_in_extra(document: dict[str, Any]) -> None:
    """Each non-empty value is read by its column, or is in `extra` under its own path: never neither.

    Only what stands where an object with a secret in it belongs is in neither: raw has it.
    """
    row = READER.row(document)
    rest = leaves(json.loads(row["extra"] or "{}"))
    columns = {tuple(column.path.split(".")): column.name for column in COLUMNS}
    for path, leaf in leaves(document).items():
        if path != ("user",) and has_content(path, leaf) and not isinstance(leaf, list):
            assert (path in columns and row[columns[path]] is not None) or rest.get(path) == leaf
    for path in rest:
        assert path not in columns or row[columns[path]] is None


@given(OBJECTS)
def test_extra_is_independent_of_the_order_of_keys(document: dict[str, Any]) -> None:
    """Two documents that say the same in another order have the same `extra`, byte for byte."""

    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    assert READER.row(document) == READER.row(backwards(document))


@given(OBJECTS)
def test_drop_empty_is_idempotent(document: dict[str, Any]) -> None:
    """What is left holds no null, empty text, empty object or secret, and leaving out again changes nothing."""
    left = drop_empty(document)
    assert drop_empty(left) == left
    for path, leaf in leaves(left).items():
        assert leaf not in (None, "")
        assert "token" not in path


@given(OBJECTS)
def test_known_paths_are_no_news(document: dict[str, Any]) -> None:
    """A tree made of a document's own paths contains all of them; an empty tree names every top key."""
    tree = path_tree([path for path in leaves(document) if path])
    empty = {path[0] for path in leaves(document) if path}
    assert not [path for path in unknown_paths(document, tree) if path[0] in empty and leaves(get_path(document, path))]
    assert {path[0] for path in unknown_paths(document, {})} == set(document)


def test_a_field_taken_elsewhere_is_left_out() -> None:
    """What another table takes stands in no column and not in `extra`; its neighbours do."""
    assert READER.row({"user": {"hidden": 1, "name": "A", "age": 9}}) == {
        "name": "A", "is_on": None, "n": None, "extra": '{"user":{"age":9}}',
    }  # fmt: skip


@pytest.mark.parametrize("scalar", ["text", 7, [1]])
def test_a_scalar_where_an_object_belongs_is_kept(scalar: Any) -> None:
    """A container that is none leaves nulls and stays in `extra`, unless a person or a secret may be in it."""
    row = READER.row({"user": scalar, "deep": {"down": scalar}})
    assert row["name"] is row["n"] is None
    assert json.loads(row["extra"]) == {"deep": {"down": scalar}}


def test_nothing_left_is_null() -> None:
    """A document without anything else has no `extra` at all."""
    assert READER.row({})["extra"] is None
    assert READER.row({"x": {"y": {"z": ""}}})["extra"] is None
    assert extra_json({}) is None


@pytest.mark.parametrize(
    "name", ["token", "user_token", "Password", "passwd", "api_secret", "app_key", "pin", "PIN", "accessToken"]
)
def test_names_of_secrets(name: str) -> None:
    """Whatever is named like a secret stays out of `extra`, at any depth, also in lists."""
    document = {name: "hush", "a": {name: "hush", "b": [{name: "hush"}, 1]}}
    assert READER.row(document)["extra"] == '{"a":{"b":[{},1]}}'


@pytest.mark.parametrize("name", ["pinned", "spin", "opinion", "key", "description"])
def test_names_that_only_look_so(name: str) -> None:
    """A field whose name merely contains "pin" or "key" is no secret and is kept."""
    assert json.loads(READER.row({name: 1})["extra"]) == {name: 1}
