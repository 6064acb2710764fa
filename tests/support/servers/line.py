"""A TCP forwarder to a server that can be cut: it closes all connections and refuses new ones."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.servers.children import free_port


@dataclass
class Line:
    """Forwards bytes between `port` and the server's port in both directions, unchanged."""

    server_port: int
    port: int = field(default_factory=free_port)
    _listening: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)

    def restore(self) -> None:
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=256)
            threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        listening, self._listening = self._listening, None
        for end in [*([listening] if listening else []), *self._open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if listening:
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the line was cut
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self.server_port))
                self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                target.sendall(block)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@contextlib.contextmanager
def line_to(server_port: int) -> Iterator[Line]:
    """A line to a server, open until the block ends."""
    line = Line(server_port)
    line.restore()
    try:
        yield line
    finally:
        line.cut()
