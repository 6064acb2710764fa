"""The sd_notify protocol of a service of Type=notify: a datagram to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import socket
from collections.abc import Mapping


def notify(environ: Mapping[str, str], state: str) -> None:
    """Say `READY=1`, `WATCHDOG=1` or `STOPPING=1`; nothing where no systemd asked for it."""
    if address := environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            sender.sendall(state.encode())


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often to say WATCHDOG=1: twice in the time after which systemd would restart the service."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else None
