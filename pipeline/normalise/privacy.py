"""Personal columns replaced by keyed tokens (pure): same input and key, same token; without the key, no way back."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from pipeline.model import Row

_TOKEN_HEX_DIGITS = 32


def pseudonymise(rows: Iterable[Row], columns: Iterable[str], key: bytes) -> list[Row]:
    """The same rows with each of `columns` replaced by its HMAC-SHA-256 token; nulls stay null."""
    names = tuple(columns)
    return [{**row, **{name: _token(row[name], key) for name in names if row.get(name) is not None}} for row in rows]


def _token(text: str, key: bytes) -> str:
    return "p-" + hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:_TOKEN_HEX_DIGITS]
