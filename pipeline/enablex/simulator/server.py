"""Three HTTP hosts on loopback, one virtual clock, and a control plane.

The API and the file host are at `127.0.0.1`, the foreign host is at `localhost`, a different host name. All of them run
in daemon threads of this process. Leaving the context closes every connection.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from pipeline.enablex.simulator.api import BASE_PATH, Api
from pipeline.enablex.simulator.faults import Faults
from pipeline.enablex.simulator.file_host import FileHost
from pipeline.enablex.simulator.messages import Reply, Request, json_reply, shape_b
from pipeline.enablex.simulator.reports import Reports
from pipeline.enablex.simulator.rooms import RoomBook
from pipeline.enablex.simulator.traffic import timestamp
from pipeline.enablex.simulator.world import World

CONTROL_PATH = "/_simulator"
_SEND_TOGETHER_BYTES = 64 * 1024
"""A body up to this size is written together with its headers."""


class Clock:
    """The simulator's time, in UTC: frozen at a given moment, or following the real clock."""

    def __init__(self, now: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._frozen = _utc(now) if now else None
        self._ahead = timedelta()

    def now(self) -> datetime:
        with self._lock:
            return self._frozen or datetime.now(UTC) + self._ahead

    def set(self, now: datetime) -> None:
        """Freeze the clock at this moment, which can be in the past."""
        with self._lock:
            self._frozen = _utc(now)

    def advance(self, by: timedelta) -> None:
        with self._lock:
            if self._frozen is None:
                self._ahead += by
            else:
                self._frozen += by


@dataclass(frozen=True)
class RequestSeen:
    """One request and the status of its reply; 0: dropped without a reply. `path` has no query."""

    host: str
    method: str
    path: str
    status: int
    authorization: str | None
    range: str | None


class Simulator:
    """The simulator, a context manager; its hosts run inside the context.

    Without `now` its clock follows the real one. For port 0, a free port is chosen.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        now: datetime | None = None,
        api_port: int = 0,
        files_port: int = 0,
        foreign_port: int = 0,
        faults: Iterable[str] = (),
    ) -> None:
        self.world = world or World()
        self.clock = Clock(now)
        self.faults = Faults(self.world.seed, faults)
        self.requests: list[RequestSeen] = []
        self.on_request: Callable[[RequestSeen], None] | None = None
        self._stopping = threading.Event()
        self._hosts: list[_Host] = []
        try:
            self._open(api_port, files_port, foreign_port)
        except OSError:
            self._close()
            raise

    def _open(self, api_port: int, files_port: int, foreign_port: int) -> None:
        """Bind all three ports, so that the URLs are defined. Requests are served from `__enter__` on."""
        api, files, foreign = (
            self._add_host(name, port)
            for name, port in (("api", api_port), ("files", files_port), ("foreign", foreign_port))
        )
        self.base_url = f"http://127.0.0.1:{api.port}{BASE_PATH}"
        self.files_url = f"http://127.0.0.1:{files.port}"
        self.foreign_url = f"http://localhost:{foreign.port}"
        self.rooms = RoomBook(self.world, self.faults)
        reports = Reports(self.world, self.faults, self.files_url, self.foreign_url, self.rooms.sessions)
        api.answer = Api(self.world, self.faults, reports, self.rooms).answer
        files.answer = FileHost(self.world, self.faults, self.foreign_url).answer
        foreign.answer = FileHost(self.world, self.faults, self.foreign_url, foreign=True).answer

    def _add_host(self, name: str, port: int) -> _Host:
        host = _Host(name, port, self)
        self._hosts.append(host)
        return host

    def __enter__(self) -> Simulator:
        for host in self._hosts:
            host.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._stopping.set()
        for host in self._hosts:
            host.stop()

    def wait(self) -> None:
        """Block until interrupted (raises KeyboardInterrupt) or closed by another thread."""
        while not self._stopping.wait(3600.0):
            pass

    def settings_toml(self, data_dir: str) -> str:
        """A Postroom settings file for this simulator, with all stores below `data_dir`."""
        lines = ["[lake]", f"url = {_quoted(f'file:{data_dir}/lake')}"]
        lines += ["[vault]", f"url = {_quoted(f'file:{data_dir}/vault')}"]
        lines += ["[run_store]", f"url = {_quoted(f'sqlite:///{data_dir}/ledger.db')}"]
        lines += ["[collect]", "requests_per_second = 1000.0"]
        for name in self.world.projects:
            project = self.world.project(name)
            lines += [
                f"[projects.{name}]",
                f"base_url = {_quoted(self.base_url)}",
                f"app_id = {_quoted(project.app_id)}",
                f"app_key = {_quoted(project.app_key)}",
                f"files_user = {_quoted(project.files_user)}",
                f"files_password = {_quoted(project.files_password)}",
                'file_hosts = ["127.0.0.1"]',
            ]
            if self.world.begin is not None:
                lines.append(f"start_date = {self.world.begin.isoformat()}")
        return "\n".join(lines) + "\n"

    def answer(self, host: _Host, request: Request) -> Reply:
        """The reply of the control plane or a host. Requests to hosts are first recorded and passed to `on_request`."""
        if host.name == "api" and f"{request.path}/".startswith(f"{CONTROL_PATH}/"):
            return self._control(request)
        reply = host.answer(request, self.clock.now())
        record = RequestSeen(
            host.name,
            request.method,
            request.path,
            reply.status,
            request.headers.get("authorization"),
            request.headers.get("range"),
        )
        self.requests.append(record)
        if self.on_request is not None:
            self.on_request(record)
        if reply.delay_s:
            self._stopping.wait(reply.delay_s)
        return reply

    def _control(self, request: Request) -> Reply:
        """The reply to `/_simulator` and below. Faults do not apply, and requests are not recorded."""
        try:
            body = json.loads(request.body) if request.method == "PUT" else {}
            answer = self._controlled(request.method, request.path.removeprefix(CONTROL_PATH).strip("/"), body)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            return shape_b(400, "INVALID_PARAM", str(error))
        if answer is None:
            return shape_b(404, "NOT_FOUND", "the routes are clock, faults, sessions and requests")
        return json_reply(answer)

    def _controlled(self, method: str, route: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Apply a change, and return the state after it; None for an unknown route."""
        answer: dict[str, Any] | None = None
        match method, route:
            case "GET", "":
                answer = self._overview()
            case "GET" | "PUT", "clock":
                self._set_clock(body)
                answer = {"now": timestamp(self.clock.now())}
            case "GET" | "PUT" | "DELETE", "faults":
                self._set_faults(method, body)
                answer = {"faults": self.faults.active()}
            case "PUT", "sessions":
                self._play_session(**body)
                answer = body
            case "GET", "requests":
                answer = {"requests": [asdict(record) for record in list(self.requests)]}
        return answer

    def _set_clock(self, body: dict[str, Any]) -> None:
        if "now" in body:
            self.clock.set(datetime.fromisoformat(body["now"]))
        if "advance_s" in body:
            self.clock.advance(timedelta(seconds=body["advance_s"]))

    def _play_session(self, project: str, room_id: str, users: int) -> None:
        """Put `users` users into a room; 0 ends its session."""
        if users:
            self.rooms.start_session(project, room_id, self.clock.now(), users)
        else:
            self.rooms.end_session(project, room_id, self.clock.now())

    def _set_faults(self, method: str, body: dict[str, Any]) -> None:
        """PUT adds faults to the active ones; DELETE removes all faults."""
        if method == "DELETE":
            self.faults.clear()
        for text in body.get("faults", ()):
            self.faults.on(text)

    def _overview(self) -> dict[str, Any]:
        return {
            "projects": list(self.world.projects),
            "seed": self.world.seed,
            "base_url": self.base_url,
            "files_url": self.files_url,
            "foreign_url": self.foreign_url,
            "now": timestamp(self.clock.now()),
            "faults": self.faults.active(),
            "requests": len(self.requests),
        }


class _Host(ThreadingHTTPServer):
    """One listener. It keeps its open connections, so that it can stop without waiting for idle clients."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str, port: int, simulator: Simulator) -> None:
        self.name = name
        self.simulator = simulator
        self.answer: Callable[[Request, datetime], Reply]
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self.port: int = self.server_address[1]

    def start(self) -> None:
        self._thread = threading.Thread(target=self._accept, name=f"simulator-{self.name}", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        """Accept connections until stopped, without polling."""
        while not self._stopped.is_set():
            self.handle_request()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            with suppress(OSError):  # a last connection, which unblocks the accepting thread
                socket.create_connection(("127.0.0.1", self.port)).close()
            self._thread.join()
            self._thread = None
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def server_bind(self) -> None:
        """Bind as TCPServer does: HTTPServer also resolves the host name, which can take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; print any other error, which is a bug of the simulator."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads requests and writes the replies of `Simulator.answer`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Host

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        target, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(target), query, headers, self.rfile.read(length))
        self._send(self.server.simulator.answer(self.server, request))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send(self, reply: Reply) -> None:
        if reply.drop:
            self.close_connection = True
            return
        ends_by_close = reply.length is None and not reply.chunked
        self.close_connection = self.close_connection or ends_by_close or reply.stop_after is not None
        head = self._head(reply, ends_by_close)
        if self.command == "HEAD":
            self.wfile.write(head)
            return
        body = _body(reply)
        first = next(body, b"")
        if len(first) <= _SEND_TOGETHER_BYTES:
            head, first = head + first, b""
        self.wfile.write(head)
        if first:
            self.wfile.write(first)
        for block in body:
            self.wfile.write(block)

    def _head(self, reply: Reply, ends_by_close: bool) -> bytes:
        now = self.server.simulator.clock.now() + timedelta(seconds=reply.date_skew_s)
        headers = [
            ("Server", "EnableX-simulator"),
            ("Date", format_datetime(now.replace(microsecond=0), usegmt=True)),
            ("Content-Type", reply.content_type),
            *reply.headers,
        ]
        if reply.length is not None:
            headers.append(("Content-Length", str(reply.length)))
        if reply.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        if ends_by_close:
            headers.append(("Connection", "close"))
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: requests are in `Simulator.requests`."""


def _body(reply: Reply) -> Iterator[bytes]:
    """The bytes sent after the headers: the whole body, or the part that a fault permits."""
    remaining = reply.length if reply.stop_after is None else reply.stop_after
    for block in reply.stream or (reply.body,):
        part = block if remaining is None else block[:remaining]
        if remaining is not None:
            remaining -= len(part)
        if part:
            yield b"%x\r\n%b\r\n" % (len(part), part) if reply.chunked else part
        if remaining == 0:
            break
    if reply.chunked:
        yield b"0\r\n\r\n"


def _utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a time zone is in UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are all valid in it."""
    return json.dumps(text, ensure_ascii=False)
