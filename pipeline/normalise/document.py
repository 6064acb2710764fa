"""One JSON document to one row, column by column; what no column takes is kept as `extra` (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from pipeline.model import Row
from pipeline.normalise import values
from pipeline.schemas import Column

Path = tuple[str, ...]
"""Keys from the document's top down to one value."""

Tree = Mapping[str, Any]
"""Paths as nested mappings; None at the end of each."""

_SECRET_NAME = re.compile(r"token|passw|secret|app_key|^pin$", re.IGNORECASE)
"""Whatever is called so stays out of tables, also where nobody expects it."""


class Reader:
    """Reads the columns that are taken from one place each; `elsewhere` are places that `extra` leaves out as well."""

    def __init__(self, columns: Iterable[Column], elsewhere: Iterable[Path] = ()) -> None:
        self._columns: list[tuple[str, Path, Callable[[Any], Any]]] = [
            (column.name, tuple(column.path.split(".")), values.reader(column.type))
            for column in columns
            if column.path
        ]
        self._taken = path_tree([*(path for _, path, _ in self._columns), *elsewhere])

    def row(self, document: Mapping[str, Any]) -> Row:
        """Every column by name, and `extra`: fields without a column, and values that fit none, under their paths."""
        row: Row = {}
        misfits: list[Path] = []
        for name, path, read in self._columns:
            try:
                row[name] = read(value_at(document, path))
            except ValueError:
                row[name] = None
                misfits.append(path)
        rest = without_nothing(_leftover(document, self._taken))
        for path in misfits:
            branch = rest
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = value_at(document, path)
        return {**row, "extra": extra_text(rest)}


def value_at(document: Any, path: Iterable[str]) -> Any:
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def path_tree(paths: Iterable[Path]) -> dict[str, Any]:
    """Paths as nested dicts; None at the end of each."""
    tree: dict[str, Any] = {}
    for path in paths:
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = None
    return tree


def extra_text(rest: Mapping[str, Any]) -> str | None:
    """What no column takes, as JSON with sorted keys; None for nothing."""
    return msgspec.json.encode(rest, order="deterministic").decode() if rest else None


def without_nothing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields without those that say nothing (null, empty text, empty objects) and those named like secrets."""
    told: dict[str, Any] = {}
    for key, value in fields.items():
        kept = without_nothing(value) if isinstance(value, dict) else value
        if isinstance(value, list):
            kept = [without_nothing(item) if isinstance(item, dict) else item for item in value]
        if kept is not None and kept not in ("", {}) and not _SECRET_NAME.search(key):
            told[key] = kept
    return told


def _leftover(document: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """What `taken` does not name; a branch that is taken in part keeps the rest."""
    rest: dict[str, Any] = {}
    for key, value in document.items():
        branch = taken.get(key, {})
        if branch is not None:
            rest[key] = _leftover(value, branch) if branch and isinstance(value, dict) else value
    return rest


def unknown_paths(document: Mapping[str, Any], known: Tree, at: Path = ()) -> Iterator[Path]:
    """Places in a document that `known` does not name."""
    for key, value in document.items():
        if key not in known:
            yield (*at, key)
        elif known[key] and isinstance(value, dict):
            yield from unknown_paths(value, known[key], (*at, key))
