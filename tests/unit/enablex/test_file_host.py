"""Normalised URLs, redirects, and which hosts receive the credentials; with real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import FileError, FileGone, FileRefused, FileUnavailable
from pipeline.enablex.file_host import MAX_REDIRECTS, FileHost, RangeMismatchError, _redirect_target, secured

PASSWORD = "s3cret-word"


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://portal.enablex.io/a.mkv", "https://portal.enablex.io/a.mkv"),
        ("http://portal.enablex.io/a.mkv", "https://portal.enablex.io/a.mkv"),
        ("HTTP://portal.enablex.io/a.mkv", "https://portal.enablex.io/a.mkv"),
        ("http://portal.enablex.io:80/a.mkv?x=1", "https://portal.enablex.io/a.mkv?x=1"),
        ("http://portal.enablex.io:8080/a.mkv", "https://portal.enablex.io:8080/a.mkv"),
        ("https://ops:pw@portal.enablex.io/a.mkv", "https://portal.enablex.io/a.mkv"),
        ("http://ops@example.com:pw@portal.enablex.io:80/a", "https://portal.enablex.io/a"),
        ("http://127.0.0.1:8080/a.mkv", "http://127.0.0.1:8080/a.mkv"),
        ("http://localhost:80/a", "http://localhost:80/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://127.0.0.1.evil.example/a", "https://127.0.0.1.evil.example/a"),
        ("http://localhost@evil.example/a", "https://evil.example/a"),
    ],
)
def test_plain_http_is_left_to_this_machine(url: str, asked: str) -> None:
    """http becomes https except on loopback, and a user in the URL is removed: credentials are sent in the header."""
    assert secured(url) == asked


@pytest.mark.parametrize(
    "url",
    ["", "a.mkv", "//portal.enablex.io/a", "ftp://portal.enablex.io/a", "file:///etc/passwd", "https://", "https:///a",
     "javascript:alert(1)", "https://[oops/a.mkv", "https://portal.enablex.io:99999/a", "https://portal.enablex.io:x/a"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    """Other schemes and invalid URLs are one refused file, not a crash and not a request."""
    with pytest.raises(FileRefused):
        secured(url)


@pytest.mark.parametrize("url", ["ftp://ops:s3cret@host/a?s3cret", "https://ops:s3cret@[oops/a?s3cret#s3cret"])
def test_a_refusal_contains_no_secret(url: str) -> None:
    """The message about an invalid URL shows neither its user nor its query."""
    with pytest.raises(FileRefused) as caught:
        secured(url)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=30), st.sampled_from(["", "http://", "https://", "http://host/", "https://u:p@host:80/"]))
def test_what_is_asked_is_always_https_or_this_machine(text: str, start: str) -> None:
    """No text gives another scheme, a user in the URL, or plain http outside loopback; the function is idempotent."""
    try:
        url = secured(start + text)
    except FileRefused:
        return
    parts = urlsplit(url)
    assert parts.scheme == "https" or parts.hostname in {"127.0.0.1", "localhost", "::1"}
    assert "@" not in parts.netloc
    assert secured(url) == url


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/moved/a.mkv", "https://portal.enablex.io/moved/a.mkv"),
        ("b.mkv", "https://portal.enablex.io/path/b.mkv"),
        ("//cdn.enablex.io/a", "https://cdn.enablex.io/a"),
        ("http://bucket.s3.example/a?sig=1", "https://bucket.s3.example/a?sig=1"),
        ("https://u:p@bucket.s3.example/a", "https://bucket.s3.example/a"),
    ],
)
def test_a_redirect_is_followed_securely(location: str, target: str) -> None:
    """Relative and absolute targets are followed, none over plain http."""
    origin = "https://portal.enablex.io/path/a.mkv"
    assert _redirect_target(origin, origin, location) == target


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1/a", "https://localhost:8080/a", "http://[::1]/a", "file:///etc/passwd", "ftp://host/a",
     "https://[oops/a", "//[oops"],
)  # fmt: skip
def test_a_redirect_does_not_lead_into_this_machine(location: str) -> None:
    """A remote file host cannot redirect to local services, to files, or to an invalid URL."""
    origin = "https://portal.enablex.io/path/a.mkv"
    with pytest.raises(FileRefused):
        _redirect_target(origin, origin, location)


# --- over real sockets: 127.0.0.1 is the allowed host, localhost a foreign one ---


class Server:
    """Answers `/ok` with bytes, `/to/<url>` with a redirect, `/<status>` with that status; records the requests."""

    def __init__(self) -> None:
        seen: list[tuple[str, str | None]] = []
        asked: list[tuple[str | None, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append((f"{self.headers['Host'].split(':')[0]}{self.path}", self.headers["Authorization"]))
                if self.path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("Location", unquote(self.path.removeprefix("/to/")))
                elif (status := self.path.split("?")[0].strip("/")).isdecimal():
                    self.send_response(int(status))
                elif self.path.startswith("/part/"):
                    self.answer_part(self.path.removeprefix("/part/"))
                    return
                else:
                    self.send_response(200)
                    self.send_header("Content-Type", "video/webm")
                    if "gzip" in self.path:
                        self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", "5" if self.path == "/ok" else "0")
                self.end_headers()
                self.wfile.write(b"bytes" if self.path == "/ok" else b"")

            def answer_part(self, content_range: str) -> None:
                asked.append((self.headers["Range"], self.headers["If-Range"]))
                self.send_response(206)
                self.send_header("Content-Range", unquote(content_range))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"es")

            def log_message(self, *_: object) -> None:
                pass

        self.seen, self.asked = seen, asked
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.allowed, self.foreign = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.seen.clear()
    return running


@pytest.fixture
def host() -> Iterator[FileHost]:
    host = FileHost(project="acme", user="ops@example.com", password=PASSWORD, hosts=("127.0.0.1",))
    yield host
    host.close()


def test_a_file_comes_with_its_facts(server: Server, host: FileHost) -> None:
    """An allowed host receives one request, with credentials, and its body is returned unchanged."""
    with host.open(f"{server.allowed}/ok") as body:
        assert b"".join(body.chunks) == b"bytes"
        assert (body.is_length_delimited, body.total_bytes, body.first_byte) == (True, 5, 0)
        assert body.content_type == "video/webm"
    ((path, authorization),) = server.seen
    assert path == "127.0.0.1/ok"
    assert authorization is not None


def test_credentials_stay_with_the_allowed_host(server: Server, host: FileHost) -> None:
    """A redirect to another host is followed without the credentials; a redirect back sends them again."""
    back = f"{server.foreign}/to/{server.allowed}/ok".replace(":", "%3A")
    with host.open(f"{server.allowed}/to/{back}") as body:
        assert b"".join(body.chunks) == b"bytes"
    assert [authorization is not None for _, authorization in server.seen] == [True, False, True]
    assert [path.split("/")[0] for path, _ in server.seen] == ["127.0.0.1", "localhost", "127.0.0.1"]


@pytest.mark.parametrize(("validator", "if_range"), [('"e1"', '"e1"'), (None, None)])
def test_the_rest_of_a_file_is_asked_for(
    server: Server, host: FileHost, validator: str | None, if_range: str | None
) -> None:
    """A rest is requested with Range, and with If-Range if there is a validator."""
    server.asked.clear()
    with host.open(f"{server.allowed}/part/bytes%203-4/5", first_byte=3, validator=validator) as body:
        assert (body.first_byte, body.total_bytes, b"".join(body.chunks)) == (3, 5, b"es")
    assert server.asked == [("bytes=3-", if_range)]


@pytest.mark.parametrize("content_range", ["bytes%202-3/4", "bytes%203-4/9", "bytes%203-4/*", "nonsense"])
def test_another_part_is_not_taken_for_the_rest(server: Server, host: FileHost, content_range: str) -> None:
    """A part that starts elsewhere, ends too early, or has no valid Content-Range is refused."""
    with pytest.raises(RangeMismatchError), host.open(f"{server.allowed}/part/{content_range}", first_byte=3):
        pass


def test_a_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and NO_PROXY apply to files too."""
    monkeypatch.setenv("http_proxy", server.allowed)
    for no_proxy, asked in (("", "http://localhost:1/ok"), ("localhost", None)):
        monkeypatch.setenv("no_proxy", no_proxy)
        server.seen.clear()
        host = FileHost(project="acme", user="u", password=PASSWORD, hosts=("localhost",))
        if asked:
            with host.open(asked):
                pass
            assert server.seen == [(f"localhost{asked}", server.seen[0][1])]
        else:
            with pytest.raises(FileUnavailable), host.open("http://localhost:1/ok"):
                pass
            assert server.seen == []
        host.close()


def test_a_foreign_host_is_not_even_asked(server: Server, host: FileHost) -> None:
    """A URL on a host that is not allowed is refused; the message names the setting that would allow it."""
    with pytest.raises(FileRefused, match=r"localhost .*projects\.acme\.file_hosts"), host.open(f"{server.foreign}/ok"):
        pass
    assert server.seen == []


@pytest.mark.parametrize(("redirects", "works"), [(MAX_REDIRECTS, True), (MAX_REDIRECTS + 1, False)])
def test_redirects_have_an_end(server: Server, host: FileHost, redirects: int, works: bool) -> None:
    """Three redirects are followed, a fourth is not: a loop costs four requests."""
    url = f"{server.allowed}{'/to/' * redirects}/ok"
    if works:
        with host.open(url) as body:
            assert b"".join(body.chunks) == b"bytes"
    else:
        with pytest.raises(FileUnavailable, match="more than 3 redirects"), host.open(url):
            pass
    assert len(server.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/404", FileGone),
        ("/410", FileGone),
        ("/401", FileRefused),
        ("/403", FileRefused),
        ("/400", FileUnavailable),
        ("/429", FileUnavailable),
        ("/500", FileUnavailable),
        ("/503", FileUnavailable),
        ("/204", FileUnavailable),
        ("/206", FileUnavailable),
        ("/gzip", FileUnavailable),
    ],
)
def test_an_answer_that_is_not_the_file_has_its_error(
    server: Server, host: FileHost, path: str, kind: type[FileError]
) -> None:
    """404 and 410 are final, 401 and 403 concern credentials, all others can be retried; the status is kept."""
    with pytest.raises(FileError) as caught, host.open(f"{server.allowed}{path}?sig=s3cret"):
        pass
    assert type(caught.value) is kind
    assert caught.value.status == (int(path[1:]) if path[1:].isdecimal() else None)
    assert "s3cret" not in str(caught.value)


def test_a_host_that_is_not_there_may_come_back(host: FileHost) -> None:
    """A refused connection can be retried, and the message shows no secret."""
    gone = Server()
    with gone.running():
        pass
    with pytest.raises(FileUnavailable) as caught, host.open(f"{gone.allowed}/ok?sig=s3cret"):
        pass
    assert "s3cret" not in str(caught.value)
