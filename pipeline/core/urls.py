"""URLs that are safe to store, log and print."""

from __future__ import annotations

import re


def public_url(url: str) -> str:
    """Strip user, query and fragment from a URL, because they may be secrets."""
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme = re.match(r"(?:[a-z][a-z0-9+.-]*:)?//|", plain, re.IGNORECASE)
    start = scheme.end() if scheme else 0
    authority, slash, path = plain[start:].partition("/")
    return f"{plain[:start]}{authority.rpartition('@')[2]}{slash}{path}"
