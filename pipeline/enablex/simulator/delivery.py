"""What the Recording Delivery service puts into a customer's bucket: keys and files (pure).

`<room_id>/<conf_num>/<name>`, below whatever path the bucket was given with. Names are those of the newest
page where it gives any; the names of a second transcoded file and of recordings that are no .mov are guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.enablex.simulator.traffic import Session, SimFile
from pipeline.enablex.simulator.world import World


def delivered_files(world: World, project: str, session: Session) -> Iterator[tuple[str, SimFile]]:
    """Every file that a session of `project` will ever have, with its key, in the order of its archive record.

    When they are delivered is for the caller to say: the service works in batches, at any time after
    `listed_at`. KeyError if the project has no such session.
    """
    if session.project != project:
        raise KeyError(session.conf_num)
    numbers: Counter[str] = Counter()
    for file in world.session_files(session):
        numbers[file.kind] += 1
        name = _name(file.kind, numbers[file.kind])
        yield f"{file.room_id}/{file.conf_num}/{name}.{file.format}", file


def _name(kind: str, number: int) -> str:
    """Recordings are counted from 1; of the other kinds only the second and later ones."""
    if kind == "recording":
        return f"individual_recording_{number}"
    return kind if number == 1 else f"{kind}_{number}"
