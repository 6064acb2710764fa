"""Pages of docs/reference are generated from the code: commands, settings, tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.paths import ROOT
from tests.support.reference_pages import PAGES, settings_page


@pytest.mark.parametrize(("place", "page"), PAGES.items(), ids=PAGES)
def test_the_page_is_up_to_date(place: str, page: Callable[[], str]) -> None:
    """The page equals the output of `python -m tests.support.reference_pages`."""
    assert (ROOT / place).read_text(encoding="utf-8") == page()


def test_every_setting_has_a_meaning() -> None:
    """Every row of the settings page has a meaning."""
    assert [line for line in settings_page().splitlines() if line.endswith("|  |")] == []
