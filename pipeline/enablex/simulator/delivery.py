"""Keys and files that the Recording Delivery service writes to a customer's bucket (pure).

Key: `<room_id>/<conf_num>/<name>`, below the configured prefix. Names are documented on the newest page. Those of a
second transcoded file and of recordings other than .mov are assumptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.enablex.simulator.traffic import Session, SimFile
from pipeline.enablex.simulator.world import World


def delivered_files(world: World, project: str, session: Session) -> Iterator[tuple[str, SimFile]]:
    """Every file of a session of `project` with its key, in the order of its archive record.

    The caller chooses the time of delivery: the service works in batches, at any time after `listed_at`. Raises
    KeyError if the session belongs to another project.
    """
    if session.project != project:
        raise KeyError(session.conf_num)
    numbers: Counter[str] = Counter()
    for file in world.session_files(session):
        numbers[file.kind] += 1
        name = _name(file.kind, numbers[file.kind])
        yield f"{file.room_id}/{file.conf_num}/{name}.{file.format}", file


def _name(kind: str, number: int) -> str:
    """Names of recordings are numbered from 1; names of other kinds have a number from the second file on."""
    if kind == "recording":
        return f"individual_recording_{number}"
    return kind if number == 1 else f"{kind}_{number}"
