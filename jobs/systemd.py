"""The sd_notify protocol of services with Type=notify: datagrams to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import socket
from collections.abc import Mapping


def notify(environ: Mapping[str, str], state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1` or `STOPPING=1`; does nothing without NOTIFY_SOCKET."""
    if address := environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            sender.sendall(state.encode())


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Seconds between WATCHDOG=1: half the time after which systemd restarts the service; None without a watchdog."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else None
