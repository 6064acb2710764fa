"""Undocumented fields of one response: how many documents have each, and an example of its values (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.core.models import Row
from pipeline.tables.normalize.row_reader import Path, is_secret

_MAX_EXAMPLE = 80
_PERSON = "user"
"""The object about a person: an undocumented field in it may identify the person."""


@dataclass
class Drift:
    """Documents read, documents by dotted path of an undocumented field, and the first example of each path."""

    documents: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, documents: int, example: str | None) -> None:
        self.unknown[path] += documents
        if example is not None:
            self.examples.setdefault(path, example)

    def include(self, unknown: Mapping[str, int], examples: Mapping[str, str], documents: int) -> None:
        """Add later documents."""
        self.documents += documents
        self.unknown.update(unknown)
        self.examples = {**examples, **self.examples}

    def rows(self, source: str) -> list[Row]:
        """Rows of `drift`, sorted by key."""
        return [
            {
                "source": source,
                "path": path,
                "documents": count,
                "documents_total": self.documents,
                "share": count / self.documents,
                "example": self.examples.get(path),
            }
            for path, count in sorted(self.unknown.items())
        ]


def example_text(path: Path, value: Any) -> str | None:
    """A value in at most 80 characters, of an object or list only its kind; None if it is empty, secret or personal."""
    if isinstance(value, dict | list):
        return "object" if isinstance(value, dict) else "list"
    if value in (None, "") or path[0] == _PERSON or any(map(is_secret, path)):
        return None
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode())[:_MAX_EXAMPLE]
