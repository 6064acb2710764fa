"""Turn one JSON document into one row, column by column; remaining fields go to `extra` (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from pipeline.core.models import SECRET_NAME, Row
from pipeline.tables.normalize import values
from pipeline.tables.schemas import Column

Path = tuple[str, ...]
"""Keys from the top of the document to one value."""

Tree = Mapping[str, Any]
"""Paths as nested mappings; None at the end of each."""


class RowReader:
    """Reads the columns that are taken from one path each; `elsewhere` are other paths to leave out of `extra`.

    `extra` never contains personal data or secrets: neither as a value that fits no column, nor inside an object of an
    undocumented shape. The raw response contains them.
    """

    def __init__(self, columns: Iterable[Column], elsewhere: Iterable[Path] = ()) -> None:
        taken = [column for column in columns if column.path]
        self._columns: list[tuple[str, Path, Callable[[Any], Any], bool]] = [
            (column.name, tuple(column.path.split(".")), values.reader(column.type), column.privacy == "personal")
            for column in taken
        ]
        elsewhere = tuple(elsewhere)
        self._taken = path_tree([*(path for _, path, _, _ in self._columns), *elsewhere])
        guarded = [*elsewhere, *(path for _, path, _, is_personal in self._columns if is_personal)]
        self._guarded = {path[:length] for path in guarded for length in range(1, len(path))}

    def row(self, document: Mapping[str, Any]) -> Row:
        """Every column by name, and `extra`: fields without a column and values that fit none, under their paths."""
        row: Row = {}
        uncastable: list[Path] = []
        for name, path, read, is_personal in self._columns:
            try:
                row[name] = read(get_path(document, path))
            except ValueError:
                row[name] = None
                uncastable += [] if is_personal else [path]
        rest = drop_empty(self._leftover(document, self._taken, ()))
        for path in uncastable:
            set_path(rest, path, without_secrets(get_path(document, path)))
        return {**row, "extra": extra_json(rest)}

    def _leftover(self, document: Mapping[str, Any], taken: Tree, at: Path) -> dict[str, Any]:
        """Fields outside `taken`; a partly taken branch keeps its other fields."""
        rest: dict[str, Any] = {}
        for key, value in document.items():
            branch = taken.get(key, {})
            if branch and isinstance(value, dict):
                rest[key] = self._leftover(value, branch, (*at, key))
            elif branch is not None and (*at, key) not in self._guarded:
                rest[key] = value
        return rest


def get_path(document: Any, path: Iterable[str]) -> Any:
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def set_path(tree: dict[str, Any], path: Path, value: Any) -> None:
    """Set the value at a path; create missing branches."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def path_tree(paths: Iterable[Path]) -> dict[str, Any]:
    """Paths as nested dicts; None at the end of each."""
    tree: dict[str, Any] = {}
    for path in paths:
        set_path(tree, path, None)
    return tree


def extra_json(rest: Mapping[str, Any]) -> str | None:
    """Remaining fields as JSON with sorted keys; None if there are none."""
    return msgspec.json.encode(rest, order="deterministic").decode() if rest else None


def drop_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields without empty ones (null, empty text, empty objects) and those named like secrets."""
    filled: dict[str, Any] = {}
    for key, value in fields.items():
        kept = drop_empty(value) if isinstance(value, dict) else without_secrets(value)
        if kept is not None and kept not in ("", {}) and not is_secret(key):
            filled[key] = kept
    return filled


@lru_cache(1024)
def is_secret(name: str) -> bool:
    """Whether a field of this name stays out of tables.

    Cached: documents repeat a few dozen names, and the search would cost more than all other reading.
    """
    return SECRET_NAME.search(name) is not None


def without_secrets(value: Any) -> Any:
    """The same value without the fields of its objects that are named like secrets."""
    if isinstance(value, dict):
        return {key: without_secrets(inner) for key, inner in value.items() if not is_secret(key)}
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value


def unknown_paths(document: Mapping[str, Any], documented: Tree, at: Path = ()) -> Iterator[Path]:
    """Paths of a document outside `documented`."""
    for key, value in document.items():
        if key not in documented:
            yield (*at, key)
        elif documented[key] and isinstance(value, dict):
            yield from unknown_paths(value, documented[key], (*at, key))
