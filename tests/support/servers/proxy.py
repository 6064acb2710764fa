"""A proxy between a test and a server. It forwards everything unchanged, except for faults set by the test."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server


@dataclass
class Exchange:
    """A request, and from `on_answer` on also its reply. Changes to it are forwarded."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int = 0
    answer_headers: list[tuple[str, str]] = field(default_factory=list)
    answer: bytes = b""
    is_lost: bool = False
    """No reply is sent; the connection is closed."""
    cut_at: int | None = None
    """Number of bytes of the reply's body that are sent before the connection is closed."""

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def fail(self, status: int, code: str) -> None:
        """Replace the reply by an S3 error."""
        self.status, self.answer_headers = status, []
        self.answer = f"<Error><Code>{code}</Code><Message>set by the test</Message></Error>".encode()

    def sign(self) -> None:
        """Sign the changed request again without its earlier checksums, so that the server accepts it."""
        host = next(value for name, value in self.headers if name.lower() == "host")
        dropped = re.compile("authorization|expect|content-(length|md5)|x-amz-(date|content-sha256|checksum-.*)", re.I)
        headers = {name: value for name, value in self.headers if not dropped.fullmatch(name)}
        request = AWSRequest(self.method, f"http://{host}{self.target}", headers, self.body)
        S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
        self.headers = [*request.headers.items(), ("Content-Length", str(len(self.body)))]


@dataclass
class Proxy:
    """`server`: the server through this proxy. `seen`: the requests so far, in order of their replies."""

    server: S3Server
    on_request: Callable[[Exchange], None] = lambda _exchange: None
    on_answer: Callable[[Exchange], None] = lambda _exchange: None
    seen: list[Exchange] = field(default_factory=list)


@contextlib.contextmanager
def between(server: S3Server) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    listener = _Listener(("127.0.0.1", 0), _Handler)
    listener.origin = urlsplit(server.endpoint_url).netloc
    listener.proxy = Proxy(S3Server(server.name, f"http://127.0.0.1:{listener.server_port}"))
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield listener.proxy
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    origin: str
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._forward
        raise AttributeError(name)

    def _forward(self) -> None:
        body, proxy = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.server.proxy
        exchange = Exchange(self.command, self.path, list(self.headers.items()), body)
        proxy.on_request(exchange)
        if not exchange.status:
            self._send_to_origin(exchange)
        proxy.on_answer(exchange)
        proxy.seen.append(exchange)
        self._reply(exchange)

    def _send_to_origin(self, exchange: Exchange) -> None:
        with contextlib.closing(http.client.HTTPConnection(self.server.origin, timeout=60)) as connection:
            connection.putrequest(exchange.method, exchange.target, skip_host=True, skip_accept_encoding=True)
            for name, value in exchange.headers:
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(exchange.body)
            with connection.getresponse() as answer:
                exchange.status, exchange.answer_headers = answer.status, answer.getheaders()
                exchange.answer = answer.read()

    def _reply(self, exchange: Exchange) -> None:
        headers = [(name, value) for name, value in exchange.answer_headers if name.lower() not in _OF_THE_CONNECTION]
        if exchange.method != "HEAD":
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(exchange.answer))))
        if not exchange.is_lost:
            self.send_response_only(exchange.status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(exchange.answer[: exchange.cut_at])
        if exchange.is_lost or exchange.cut_at is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


_OF_THE_CONNECTION = frozenset({"transfer-encoding", "connection"})
