"""A simulator of the EnableX Video API and its file host over HTTP, generated from a seed.

`world` holds what happened (pure), `documents` how the API reports it, `media` the bytes of files, `faults` every
fault by name, `server` the hosts on three loopback ports. Only the standard library is used; no other room is imported.
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
