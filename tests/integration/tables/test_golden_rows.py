"""Every quirk of enablex-api.md with its expected rows; the promises are in samples/*/case.toml."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.golden import EXPECTED, SAMPLES, cases, golden, promise, read_case

QUIRKS = {f"11.{number:02}" for number in (1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 17, 19, 20, 23, 25, 27, 28, 30)}
"""Those of section 11 that concern what becomes of CDRs, rooms, chat and archive listings."""


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case}: {promise(case)}") for case in cases()])
def test_a_quirk_becomes_these_rows(case: str) -> None:
    """What EnableX said becomes exactly these rows, every column and type; the test's id is the promise."""
    expected = (EXPECTED / f"{case}.json").read_text(encoding="utf-8")
    assert json.loads(golden(case)) == json.loads(expected)


def test_every_quirk_has_a_case() -> None:
    """No quirk of section 11 that can become rows lacks a sample, and no expected file lacks its case."""
    named = {number for case in cases() for number in re.findall(r"\d\d\.\d\d", case)}
    assert named >= QUIRKS
    assert {path.stem for path in EXPECTED.glob("*.json")} == set(cases())


@pytest.mark.parametrize("case", cases())
def test_samples_are_nobodys(case: str) -> None:
    """Addresses in samples are reserved for documentation, and every case names its source."""
    assert read_case(case)["origin"]
    for path in SAMPLES.joinpath(case).iterdir():
        for address in re.findall(rb"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", path.read_bytes()):
            assert address.startswith((b"203.0.113.", b"198.51.100."))
