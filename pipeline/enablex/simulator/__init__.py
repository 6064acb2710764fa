"""A look-alike of the EnableX Video API and its file host, over real HTTP, from a seed.

`world` is what happened (pure), `documents` is how the API reports it, `media` makes the bytes of the files,
`faults` names everything that can go wrong, `server` puts it on three loopback ports. Nothing here needs
more than the standard library.
"""

from pipeline.enablex.simulator.faults import Faults, UnknownFaultError
from pipeline.enablex.simulator.server import Clock, RequestSeen, Simulator
from pipeline.enablex.simulator.world import Project, Session, SimFile, World

__all__ = [
    "Clock",
    "Faults",
    "Project",
    "RequestSeen",
    "Session",
    "SimFile",
    "Simulator",
    "UnknownFaultError",
    "World",
]
