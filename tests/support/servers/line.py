"""A network line to a server, which can be cut: what is under way breaks off, and nobody is connected any more."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.servers.children import free_port


@dataclass
class Line:
    """Passes bytes on between `port` and the server's, both ways, as they are; it knows no protocol."""

    server_port: int
    port: int = field(default_factory=free_port)
    _listening: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)

    def mend(self) -> None:
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
        with contextlib.suppress(OSError):  # it was cut
            while True:
                here, _ = listening.accept()
                there = socket.create_connection(("127.0.0.1", self.server_port))
                self._open |= {here, there}
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
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
    """A line that works, until the end."""
    line = Line(server_port)
    line.mend()
    try:
        yield line
    finally:
        line.cut()
