"""The same hypothesis settings as for unit tests; a test of whole builds asks for fewer examples."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None, database=None)
settings.load_profile("unit")
