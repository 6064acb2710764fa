"""Branch coverage by room from `.coverage`, each with a floor (`make coverage`). Exit code 1 below a floor."""

from __future__ import annotations

import io
import sys

from coverage import Coverage

FLOORS = {
    "jobs": 81,
    "pipeline/billing": 98,
    "pipeline/cli": 86,
    "pipeline/core": 95,
    "pipeline/enablex": 98,
    "pipeline/ingest": 97,
    "pipeline/media": 95,
    "pipeline/rooms": 98,
    "pipeline/storage": 96,
    "pipeline/tables": 98,
}
"""Percent of lines and branches in the processes of the tests, as measured, rounded down."""


def main() -> int:
    data = Coverage()
    data.load()
    too_low = []
    for room, floor in FLOORS.items():
        omit = ["pipeline/enablex/simulator/*"]
        percent = data.report(include=[f"{room}/*"], omit=omit, file=io.StringIO())
        print(f"{room:<18} {percent:5.1f} %   floor {floor} %")
        too_low += [room] if percent < floor else []
    if too_low:
        print(f"coverage below its floor: {', '.join(too_low)}", file=sys.stderr)
    return 1 if too_low else 0


if __name__ == "__main__":
    sys.exit(main())
