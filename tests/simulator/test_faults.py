"""Each fault has its effect over HTTP, ends when it is switched off, and affects the same requests in every run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from pipeline.enablex.simulator import Faults, SimFile, Simulator, UnknownFaultError
from pipeline.enablex.simulator.faults import FAULTS


@dataclass
class Bench:
    """A simulator with its clients, and requests that each have a fixed usual reply."""

    simulator: Simulator
    api: httpx.Client
    files: httpx.Client

    def on(self, text: str) -> None:
        self.simulator.faults.on(text)

    def period(self, source: str = "cdr", back: int = 3, until: int = 0) -> str:
        today = self.simulator.clock.now().date()
        return f"/{source}/period/{today - timedelta(days=back)}/{today - timedelta(days=until)}"

    def cdrs(self) -> list[Any]:
        return list(self.api.get(self.period()).json()["cdr"])

    def archives(self) -> list[Any]:
        return list(self.api.get(self.period("archive")).json()["archive"])

    def empty(self) -> httpx.Response:
        return self.api.get("/cdr/conf/1")

    def file(self) -> SimFile:
        available = self.simulator.world.files("acme", self.simulator.clock.now())
        return next(f for f in available if f.text is None)

    def get(self, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.files.get(self.file().path, headers=headers)

    def get_expired(self) -> httpx.Response:
        file = self.file()
        self.simulator.clock.set(file.expires_at)
        return self.files.get(file.path)


@pytest.fixture
def bench(simulator: Simulator, api: httpx.Client, files: httpx.Client) -> Bench:
    return Bench(simulator, api, files)


CASES: dict[str, Callable[[Bench], None]] = {}


def case(test: Callable[[Bench], None]) -> Callable[[Bench], None]:
    CASES[test.__name__] = test
    return test


# Faults visible in the reply to one request

HTML, BASIC = "<!DOCTYPE html>", 'Basic realm="Recordings"'


@dataclass(frozen=True)
class Answer:
    """The reply to a request while the fault is on, with the promise it checks.

    `body`: items of a JSON object, the start of a text, or all bytes. A header that is None is absent. `error`: the
    client's exception instead of a reply. The simulator records a dropped connection with status 0.
    """

    name: str
    promise: str
    status: int
    body: dict[str, Any] | str | bytes = ""
    headers: dict[str, str | None] = field(default_factory=dict)
    ask: Callable[[Bench], httpx.Response] = Bench.empty
    error: type[httpx.HTTPError] | None = None

    def check(self, bench: Bench) -> None:
        bench.on(self.name)
        if self.error:
            with pytest.raises(self.error):
                self.ask(bench)
        else:
            reply = self.ask(bench)
            assert reply.status_code == self.status, self.promise
            assert {name: reply.headers.get(name) for name in self.headers} == self.headers
            if isinstance(self.body, dict):
                assert {name: reply.json()[name] for name in self.body} == self.body
            elif isinstance(self.body, str):
                assert reply.text.startswith(self.body)
            else:
                assert reply.content == self.body
        assert bench.simulator.requests[-1].status == self.status


def get(route: str) -> Callable[[Bench], httpx.Response]:
    return lambda bench: bench.api.get(route)


def get_period(bench: Bench) -> httpx.Response:
    return bench.api.get(bench.period())


def get_redirected(bench: Bench) -> httpx.Response:
    return bench.files.get(bench.file().path, follow_redirects=True)


def make_hd_room(bench: Bench) -> httpx.Response:
    return bench.api.post("/rooms", json={"name": "n", "owner_ref": "o", "settings": {"quality": "HD"}})


DROPPED, ENDLESS = httpx.RemoteProtocolError, httpx.TooManyRedirects
ANSWERS = (
    Answer("api_down", "the API closes the connection without a reply", 0, error=DROPPED),
    Answer("api_500", "500 with result 50000", 500, {"result": 50000}),
    Answer("api_503_html", "503 with an HTML page", 503, HTML),
    Answer("api_502_text", "502 with one line of plain text", 502, b"Bad Gateway\n"),
    Answer("api_empty_body", "200 with an empty body", 200, b""),
    Answer("rate_limit", "429 with Retry-After", 429, {"error_code": "RATE_LIMITED"}, {"Retry-After": "1"}),
    Answer("rate_limit_bare", "429 without Retry-After", 429, headers={"Retry-After": None}),
    Answer("unauthorized_a", "401 with result 10000 for valid credentials", 401, {"result": 10000}),
    Answer("key_rotated", "401 with CREDENTIAL_EXPIRED", 401, {"error_code": "CREDENTIAL_EXPIRED"}),
    Answer("suspended", "403 with PROJECT_SUSPENDED", 403, {"error_code": "PROJECT_SUSPENDED"}),
    Answer("error_on_200", "200 with an error in the body", 200, {"result": 50000}),
    Answer("errors_as_200", "an error in shape A has status 200", 200, {"result": 40001}, ask=get("/rooms/unknown")),
    Answer("truncated_body", "the connection closes within the body", 200, ask=get_period, error=DROPPED),
    Answer("result_number", "`result` is a number", 200, {"result": 0}),
    Answer("result_missing", "there is no `result`", 200, b'{"cdr":[]}'),
    Answer(
        "empty_missing_key",
        "no records: the payload key is missing",
        200,
        b'{"result":"0"}',
        ask=get("/archive/conf/1"),
    ),
    Answer("empty_404", "no records: 404 with result 40001", 404, {"result": 40001}),
    Answer("plan_quality_sd", "a room in HD is refused with 10021", 400, {"result": 10021}, ask=make_hd_room),
    Answer("files_down", "the file host closes the connection without a reply", 0, ask=Bench.get, error=DROPPED),
    Answer("files_500", "500 for a file", 500, ask=Bench.get),
    Answer("files_503", "503 with an HTML page for a file", 503, HTML, ask=Bench.get),
    Answer("files_429", "429 with Retry-After for a file", 429, headers={"Retry-After": "1"}, ask=Bench.get),
    Answer("files_403", "403 for a file with valid credentials", 403, ask=Bench.get),
    Answer("files_401", "401 with a Basic challenge", 401, headers={"WWW-Authenticate": BASIC}, ask=Bench.get),
    Answer("redirect_loop", "a file redirects to its own URL", 302, ask=get_redirected, error=ENDLESS),
    Answer("expired_403", "403 for an expired file", 403, ask=Bench.get_expired),
    Answer("expired_410", "410 for an expired file", 410, ask=Bench.get_expired),
    Answer("expired_html", "200 with an HTML page for an expired file", 200, HTML, ask=Bench.get_expired),
    Answer("html_200", "200 with an HTML page instead of the file", 200, HTML, ask=Bench.get),
    Answer("json_error_200", "200 with a JSON error instead of the file", 200, {"result": 50000}, ask=Bench.get),
)


# Whole API


@case
def slow(bench: Bench) -> None:
    bench.on("slow=0.05")
    started = time.perf_counter()
    assert bench.empty().status_code == 200
    assert time.perf_counter() - started >= 0.05


@case
def date_skew(bench: Bench) -> None:
    bench.on("date_skew=600")
    date = parsedate_to_datetime(bench.empty().headers["Date"])
    assert date - bench.simulator.clock.now() == timedelta(minutes=10)


@case
def retry_after_date(bench: Bench) -> None:
    bench.on("retry_after_date")
    reply = bench.empty()
    assert reply.status_code == 429
    wait = parsedate_to_datetime(reply.headers["Retry-After"]) - parsedate_to_datetime(reply.headers["Date"])
    assert wait == timedelta(seconds=2)


@case
def truncated_json(bench: Bench) -> None:
    bench.on("truncated_json")
    reply = bench.api.get(bench.period())
    assert int(reply.headers["Content-Length"]) == len(reply.content)
    with pytest.raises(ValueError, match=r"line 1"):
        reply.json()


# CDR and archive


@case
def empty_null(bench: Bench) -> None:
    bench.on("empty_null")
    assert bench.empty().json() == {"result": "0", "cdr": None}
    assert bench.cdrs()


@case
def to_date_exclusive(bench: Bench) -> None:
    without_last = bench.api.get(bench.period(back=3, until=1)).json()
    bench.on("to_date_exclusive")
    assert bench.api.get(bench.period(back=3, until=0)).json() == without_last
    assert bench.api.get(bench.period(back=1, until=1)).json()["cdr"] == []


@case
def room_period_other_spelling(bench: Bench) -> None:
    room_id = bench.cdrs()[0]["room"]["room_id"]
    documented = bench.period().replace("/cdr/period", f"/cdr/room-period/{room_id}")
    other = bench.period().replace("/cdr/period", f"/cdr/room-period/{room_id}/period")
    usual = bench.api.get(documented).json()
    bench.on("room_period_other_spelling")
    assert bench.api.get(documented).status_code == 404
    assert bench.api.get(other).json() == usual


@case
def shuffle_rows(bench: Bench) -> None:
    usual = bench.cdrs()
    bench.on("shuffle_rows")
    first, second = bench.cdrs(), bench.cdrs()
    assert first != second
    assert sorted(map(repr, first)) == sorted(map(repr, second)) == sorted(map(repr, usual))


@case
def row_limit(bench: Bench) -> None:
    usual = bench.cdrs()
    bench.on("row_limit=7")
    assert bench.cdrs() == usual[:7]


@case
def broken_document(bench: Bench) -> None:
    usual = bench.cdrs()
    bench.on("broken_document=0.2")
    faulty = bench.cdrs()
    broken = [d for d in faulty if not isinstance(d, dict) or "trans_date" not in d]
    assert [d for d in faulty if d not in broken] == usual
    assert 0.05 < len(broken) / len(usual) < 0.4


@case
def duplicate_rows(bench: Bench) -> None:
    usual = bench.cdrs()
    bench.on("duplicate_rows")
    assert bench.cdrs() == [d for d in usual for _ in range(2)]


@case
def unknown_field(bench: Bench) -> None:
    bench.on("unknown_field")
    assert all("beta" in d for d in bench.cdrs() + bench.archives())


# CDR


@case
def filter_connect_dt(bench: Bench) -> None:
    bench.on("filter_connect_dt")
    day = (bench.simulator.clock.now() - timedelta(days=2)).date()
    faulty = bench.api.get(bench.period(back=2, until=2)).json()["cdr"]
    assert all(d["room"]["connect_dt"].startswith(str(day)) for d in faulty)
    two_days = bench.api.get(bench.period(back=3, until=2)).json()["cdr"]
    over_midnight = [d for d in two_days if d["room"]["connect_dt"][:10] != d["trans_date"][:10]]
    assert over_midnight


@case
def all_late(bench: Bench) -> None:
    usual = bench.cdrs()
    bench.on("all_late=30")
    late = bench.cdrs()
    assert 0 < len(late) < len(usual)
    bench.simulator.clock.advance(timedelta(hours=30))
    assert {d["cdr_id"] for d in usual} <= {d["cdr_id"] for d in bench.api.get(bench.period(back=5)).json()["cdr"]}


@case
def no_cdr_id(bench: Bench) -> None:
    bench.on("no_cdr_id=0.3")
    faulty = bench.cdrs()
    without = [d for d in faulty if "cdr_id" not in d]
    assert 0.1 < len(without) / len(faulty) < 0.5
    assert bench.cdrs() == faulty


@case
def empty_room_details(bench: Bench) -> None:
    bench.on("empty_room_details")
    assert all(d["room"].get("room_details", {}) == {} for d in bench.cdrs())


@case
def null_usage(bench: Bench) -> None:
    bench.on("null_usage")
    assert all(d["usage"] is None for d in bench.cdrs())


# Archive


@case
def archive_late(bench: Bench) -> None:
    usual = bench.archives()
    bench.on("archive_late=30")
    assert len(bench.archives()) < len(usual)


def recordings(records: list[Any]) -> list[str]:
    return [entry["url"] for record in records for entry in record.get("recording") or [] if entry]


@case
def url_changes(bench: Bench) -> None:
    usual = recordings(bench.archives())
    bench.on("url_changes")
    first, second = recordings(bench.archives()), recordings(bench.archives())
    assert not set(first) & set(second)
    assert [re.sub(r"/v\d+/path", "/path", url) for url in first] == usual
    assert bench.files.get(first[0]).content == bench.files.get(second[0]).content == bench.files.get(usual[0]).content


@case
def foreign_url(bench: Bench) -> None:
    usual = recordings(bench.archives())
    bench.on("foreign_url")
    faulty = recordings(bench.archives())
    assert faulty
    assert all(url.startswith(bench.simulator.foreign_url) for url in faulty)
    assert httpx.get(faulty[-1]).content == bench.files.get(usual[-1]).content


@case
def unknown_archive_key(bench: Bench) -> None:
    bench.on("unknown_archive_key")
    faulty = bench.archives()
    assert any(isinstance(d.get("session_log"), str) for d in faulty)
    assert any(isinstance(d.get("live_recording", [None])[0], str) for d in faulty)
    assert not any(d.get("metadata") for d in faulty)


@case
def same_basename(bench: Bench) -> None:
    usual = recordings(bench.archives())
    bench.on("same_basename")
    faulty = recordings(bench.archives())
    assert {url.rpartition("/")[2].partition(".")[0] for url in faulty} == {"a1"}
    assert len(set(faulty)) == len(usual)
    pairs = [(a, b) for a, b in zip(usual, faulty, strict=True) if "/a2." in a]
    assert bench.files.get(pairs[-1][0]).content == bench.files.get(pairs[-1][1]).content


@case
def empty_archive_entries(bench: Bench) -> None:
    bench.on("empty_archive_entries")
    assert all(d["recording"][:3] == [None, {"url": None}, {}] for d in bench.archives())


def write_all(bench: Bench) -> list[str]:
    """Create, change and delete a room: the status of each reply, and the names of the new rooms after it."""
    before = {room["room_id"] for room in bench.api.get("/rooms").json()["rooms"]}
    created: list[Any] = []
    results = []
    for method in ("POST", "PATCH", "DELETE"):
        url = f"/rooms/{created[0]['room_id']}" if created else "/rooms"
        try:
            reply = bench.api.request(method, url, json={"name": method, "owner_ref": "o"})
        except httpx.RemoteProtocolError:
            results.append("dropped")
        else:
            results.append(str(reply.status_code))
        created = [room for room in bench.api.get("/rooms").json()["rooms"] if room["room_id"] not in before]
        results.append(",".join(room["name"] for room in created))
    return results


@case
def lost_reply(bench: Bench) -> None:
    bench.on("lost_reply")
    assert write_all(bench) == ["dropped", "POST", "dropped", "PATCH", "dropped", ""]


@case
def lost_reply_502(bench: Bench) -> None:
    bench.on("lost_reply_502")
    assert write_all(bench) == ["502", "POST", "502", "PATCH", "502", ""]


# Rooms


def token(bench: Bench) -> httpx.Response:
    room_id = bench.api.get("/rooms").json()["rooms"][0]["room_id"]
    return bench.api.post(f"/rooms/{room_id}/tokens", json={"name": "n", "role": "viewer", "user_ref": "u"})


@case
def server_busy(bench: Bench) -> None:
    assert token(bench).json()["result"] == 0
    bench.on("server_busy")
    assert token(bench).json()["result"] == 10105


@case
def room_failure(bench: Bench) -> None:
    bench.on("room_failure")
    routes = [("POST", "/rooms"), ("GET", "/rooms"), ("GET", "/rooms/x"), ("DELETE", "/rooms/x"), ("PATCH", "/rooms/x")]
    replies = [bench.api.request(method, route) for method, route in routes]
    assert {reply.status_code for reply in replies} == {500}
    assert [reply.json()["result"] for reply in replies] == [50001, 50002, 50003, 50004, 50000]


@case
def sparse_room(bench: Bench) -> None:
    bench.on("sparse_room")
    room = bench.api.get("/rooms").json()["rooms"][0]
    assert "owner_ref" not in room
    assert set(room["settings"]) == {"mode", "scheduled", "adhoc"}


@case
def no_room_data(bench: Bench) -> None:
    assert "data" in bench.api.get("/rooms").json()["rooms"][0]
    bench.on("no_room_data")
    assert "data" not in bench.api.get("/rooms").json()["rooms"][0]


@case
def late_listing(bench: Bench) -> None:
    bench.on("late_listing")
    room_id = bench.api.post("/rooms", json={"name": "n", "owner_ref": "o"}).json()["room"]["room_id"]
    listed = lambda: {room["room_id"] for room in bench.api.get("/rooms").json()["rooms"]}  # noqa: E731
    assert room_id not in listed()
    bench.simulator.clock.advance(timedelta(minutes=2))
    assert room_id in listed()
    bench.api.delete(f"/rooms/{room_id}")


# File host


@case
def redirect_foreign(bench: Bench) -> None:
    bench.on("redirect_foreign")
    reply = bench.get()
    assert reply.status_code == 302
    assert reply.headers["Location"] == bench.simulator.foreign_url + bench.file().path
    assert hashlib.sha256(httpx.get(reply.headers["Location"]).content).hexdigest() == bench.file().sha256


@case
def big_file(bench: Bench) -> None:
    bench.on("big_file=40000000000")
    head = bench.files.head(bench.file().path)
    assert head.headers["Content-Length"] == "40000000000"
    tail = bench.get({"Range": "bytes=39999999990-"})
    assert (tail.status_code, len(tail.content)) == (206, 10)
    with bench.files.stream("GET", bench.file().path) as reply:
        assert len(next(reply.iter_bytes(100_000))) == 100_000


@case
def wrong_bytes(bench: Bench) -> None:
    usual = bench.get()
    bench.on("wrong_bytes")
    other = bench.get()
    assert len(other.content) == len(usual.content)
    assert other.content != usual.content
    assert other.headers["ETag"] != usual.headers["ETag"]


@case
def no_range(bench: Bench) -> None:
    usual = bench.get()
    bench.on("no_range")
    reply = bench.get({"Range": "bytes=5-9"})
    assert (reply.status_code, reply.content) == (200, usual.content)


def read_until_cut(bench: Bench) -> tuple[dict[str, str], int, bool]:
    """Headers, number of bytes received, and whether the client detected the truncation."""
    count = 0
    with bench.files.stream("GET", bench.file().path) as reply:
        try:
            for block in reply.iter_raw():
                count += len(block)
        except httpx.RemoteProtocolError:
            return dict(reply.headers), count, True
    return dict(reply.headers), count, False


@case
def short_body(bench: Bench) -> None:
    bench.on("short_body")
    headers, count, noticed = read_until_cut(bench)
    assert (int(headers["content-length"]), count, noticed) == (
        bench.file().size_bytes,
        bench.file().size_bytes // 2,
        True,
    )


@case
def cut_no_length(bench: Bench) -> None:
    bench.on("cut_no_length")
    headers, count, noticed = read_until_cut(bench)
    assert not {"content-length", "transfer-encoding"} & set(headers)
    assert (count, noticed) == (bench.file().size_bytes // 2, False)


@case
def no_length(bench: Bench) -> None:
    bench.on("no_length")
    headers, count, noticed = read_until_cut(bench)
    assert not {"content-length", "transfer-encoding"} & set(headers)
    assert (count, noticed) == (bench.file().size_bytes, False)


@case
def chunked(bench: Bench) -> None:
    bench.on("chunked")
    reply = bench.get()
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert hashlib.sha256(reply.content).hexdigest() == bench.file().sha256
    assert bench.get({"Range": "bytes=1-4"}).content == reply.content[1:5]


@case
def no_head(bench: Bench) -> None:
    """HEAD is refused with 405, and GET is not affected; only HEAD decrements the count."""
    bench.on("no_head=1")
    assert bench.get().status_code == 200
    refused = bench.files.head(bench.file().path)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET")
    assert bench.files.head(bench.file().path).status_code == 200


@case
def redirect_to_http_other(bench: Bench) -> None:
    """With valid credentials a file redirects to plain http under a reserved name."""
    bench.on("redirect_to_http_other")
    reply = bench.get()
    assert (reply.status_code, reply.content) == (302, b"")
    assert reply.headers["Location"] == f"http://files.example.invalid{bench.file().path}"
    assert httpx.get(bench.simulator.files_url + bench.file().path).status_code == 403


@case
def gone_early(bench: Bench) -> None:
    """A file that has not expired returns 404; an expired file does not decrement the count."""
    bench.on("gone_early=1")
    assert bench.get_expired().status_code == 404
    bench.simulator.clock.advance(timedelta(hours=-1))
    assert [bench.files.get(bench.file().path).status_code for _ in range(2)] == [404, 200]


@case
def empty_file(bench: Bench) -> None:
    """200 with the usual type, Content-Length 0 and no body, also for a Range."""
    usual = bench.get()
    bench.on("empty_file")
    for reply in (bench.get(), bench.get({"Range": "bytes=5-"})):
        assert (reply.status_code, reply.headers["Content-Length"], reply.content) == (200, "0", b"")
        assert reply.headers["Content-Type"] == usual.headers["Content-Type"]
        assert reply.headers["ETag"] != usual.headers["ETag"]


@case
def other_kind(bench: Bench) -> None:
    """200 with Content-Type image/png and the signature of a PNG image; the same bytes each time."""
    bench.on("other_kind")
    reply = bench.get()
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "image/png")
    assert reply.content.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    assert len(reply.content) > 4096
    assert bench.get().content == reply.content


@case
def growing(bench: Bench) -> None:
    """Until 30 minutes after its listing half of the file, with consistent headers; then the whole file."""
    file, usual = bench.file(), bench.get()
    half = file.size_bytes // 2
    bench.on("growing")
    bench.simulator.clock.set(file.listed_at + timedelta(minutes=29, seconds=59))
    partial = bench.files.get(file.path)
    assert (partial.status_code, partial.content) == (200, usual.content[:half])
    assert int(partial.headers["Content-Length"]) == half
    assert partial.headers["ETag"] != usual.headers["ETag"]
    some = bench.files.get(file.path, headers={"Range": f"bytes={half - 3}-"})
    assert (some.content, some.headers["Content-Range"]) == (
        usual.content[half - 3 : half],
        f"bytes {half - 3}-{half - 1}/{half}",
    )
    beyond = bench.files.get(file.path, headers={"Range": f"bytes={half}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{half}")
    bench.simulator.clock.set(file.listed_at + timedelta(minutes=30))
    grown = bench.files.get(file.path)
    assert (grown.content, grown.headers["ETag"]) == (usual.content, usual.headers["ETag"])
    assert parsedate_to_datetime(grown.headers["Last-Modified"]) > parsedate_to_datetime(
        partial.headers["Last-Modified"]
    )
    resumed = {"Range": f"bytes={half}-", "If-Range": partial.headers["ETag"]}
    assert bench.files.get(file.path, headers=resumed).status_code == 200


@case
def replaced(bench: Bench) -> None:
    """From 2 hours after its listing the file has other bytes of the same size, and other validators."""
    file, usual = bench.file(), bench.get()
    bench.on("replaced")
    bench.simulator.clock.set(file.listed_at + timedelta(hours=2) - timedelta(seconds=1))
    assert bench.files.get(file.path).headers["ETag"] == usual.headers["ETag"]
    bench.simulator.clock.set(file.listed_at + timedelta(hours=2))
    other = bench.files.get(file.path)
    assert len(other.content) == len(usual.content)
    assert other.content != usual.content
    assert other.headers["ETag"] != usual.headers["ETag"]
    replaced_at = parsedate_to_datetime(other.headers["Last-Modified"])
    assert timedelta() <= file.listed_at + timedelta(hours=2) - replaced_at < timedelta(seconds=1)
    resumed = {"Range": "bytes=10-", "If-Range": usual.headers["ETag"]}
    assert bench.files.get(file.path, headers=resumed).content == other.content


@case
def no_validators(bench: Bench) -> None:
    """Neither ETag nor Last-Modified is sent, and no condition is met."""
    etag = bench.get().headers["ETag"]
    bench.on("no_validators")
    reply = bench.get({"If-None-Match": etag})
    assert (reply.status_code, {"etag", "last-modified"} & set(reply.headers)) == (200, set())
    assert bench.get({"Range": "bytes=5-", "If-Range": etag}).status_code == 200
    assert bench.get({"Range": "bytes=5-"}).status_code == 206


@case
def weak_etag(bench: Bench) -> None:
    """The weak ETag is valid for If-None-Match, not for If-Range."""
    strong = bench.get().headers["ETag"]
    bench.on("weak_etag")
    weak = bench.get().headers["ETag"]
    assert weak == f"W/{strong}"
    assert bench.get({"If-None-Match": weak}).status_code == 304
    assert bench.get({"Range": "bytes=5-", "If-Range": weak}).status_code == 200


@case
def wrong_range(bench: Bench) -> None:
    """206 with a part that was not requested. Content-Range names that part, and its length is the requested one."""
    whole, size = bench.get().content, bench.file().size_bytes
    bench.on("wrong_range")
    for requested, first, last in (
        (f"bytes={size - 100}-", 0, 99),
        ("bytes=50-59", 0, 9),
        ("bytes=0-9", size - 10, size - 1),
        ("bytes=0-", 1, size - 1),
    ):
        reply = bench.get({"Range": requested})
        assert (reply.status_code, reply.headers["Content-Range"]) == (206, f"bytes {first}-{last}/{size}")
        assert reply.content == whole[first : last + 1]
    assert bench.get().content == whole


@case
def lying_range(bench: Bench) -> None:
    """206 with correct headers and the start of the file as its body, as from a faulty proxy."""
    whole, size = bench.get().content, bench.file().size_bytes
    bench.on("lying_range=1")
    assert bench.get({"Range": "bytes=0-99"}).content == whole[:100]
    reply = bench.get({"Range": f"bytes={size - 100}-"})
    assert (reply.status_code, reply.headers["Content-Range"]) == (206, f"bytes {size - 100}-{size - 1}/{size}")
    assert reply.content == whole[:100]
    assert bench.get({"Range": f"bytes={size - 100}-"}).content == whole[-100:]


@case
def cut_anywhere(bench: Bench) -> None:
    """The connection closes at a different byte each time, always before the end, and the client detects it."""
    bench.on("cut_anywhere")
    replies = [read_until_cut(bench) for _ in range(8)]
    size = bench.file().size_bytes
    assert {int(headers["content-length"]) for headers, _, _ in replies} == {size}
    assert all(noticed and count < size for _, count, noticed in replies)
    assert len({count for _, count, _ in replies}) > 4
    assert bench.files.head(bench.file().path).status_code == 200


@case
def bad_length(bench: Bench) -> None:
    """The whole file is sent, but Content-Length is 7 bytes larger."""
    bench.on("bad_length")
    headers, count, noticed = read_until_cut(bench)
    size = bench.file().size_bytes
    assert (int(headers["content-length"]) - size, count, noticed) == (7, size, True)


# All faults


CHECKS = CASES | {answer.name: answer.check for answer in ANSWERS}


def test_every_fault_has_a_case() -> None:
    """Each fault of the simulator has exactly one case, in the table or as a function, and each case a fault."""
    assert sorted([*CASES, *(answer.name for answer in ANSWERS)]) == sorted(FAULTS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_fault_has_its_effect_until_it_is_off(name: str, bench: Bench) -> None:
    """Switched on, the fault has its effect over HTTP; switched off, all replies are as before."""
    routes = [bench.period(), bench.period("archive"), "/rooms", "/cdr/conf/1"]
    usual = [bench.api.get(route).content for route in routes]
    CHECKS[name](bench)
    bench.simulator.faults.off(name)
    assert bench.simulator.faults.active() == ()
    bench.simulator.clock.set(parsedate_to_datetime("Sun, 22 Nov 2026 12:00:00 GMT"))
    assert [bench.api.get(route).content for route in routes] == usual
    assert hashlib.sha256(bench.get().content).hexdigest() == bench.file().sha256


# Texts of faults


def test_a_fault_with_a_count_ends_after_that_number_of_requests(bench: Bench) -> None:
    """`name=3` affects the first three matching requests, then it is inactive."""
    bench.on("api_500=3")
    assert [bench.empty().status_code for _ in range(5)] == [500, 500, 500, 200, 200]
    assert bench.simulator.faults.active() == ()


def test_an_earlier_fault_hides_a_later_one(bench: Bench) -> None:
    """Requests affected by one fault do not decrement the count of a fault after it."""
    bench.on("rate_limit=1")
    bench.on("api_500=2")
    assert [bench.empty().status_code for _ in range(4)] == [500, 500, 429, 200]


def test_a_share_is_the_same_in_every_run() -> None:
    """`name=0.3` affects about that share of requests, and the same ones in every run."""
    runs = [[f.hits("api_500", "/") for _ in range(1000)] for f in (Faults(7, ["api_500=0.3"]) for _ in range(2))]
    assert runs[0] == runs[1]
    assert 250 < sum(runs[0]) < 350
    assert runs[0] != [f.hits("api_500", "/") for f in [Faults(8, ["api_500=0.3"])] for _ in range(1000)]


def test_the_places_of_a_fault_depend_on_seed_path_and_turn() -> None:
    """A body is truncated at the same byte in every run, independent of other requests; another seed changes it."""
    alone = Faults(7, ["cut_anywhere"])
    expected = [alone.place("cut_anywhere", "/a") for _ in range(20)]
    busy = Faults(7, ["cut_anywhere"])
    assert [(busy.place("cut_anywhere", "/a"), busy.place("cut_anywhere", "/b"))[0] for _ in range(20)] == expected
    assert len(set(expected)) == 20
    assert all(place is not None and 0 <= place < 1 for place in expected)
    assert Faults(8, ["cut_anywhere"]).place("cut_anywhere", "/a") != expected[0]
    assert Faults(7, ["cut_anywhere=0"]).place("cut_anywhere", "/a") is None


def test_a_part_restricts_a_fault_to_paths(bench: Bench) -> None:
    """`name@PART` affects only paths that contain PART, and can be switched off separately."""
    path = bench.file().path
    bench.on(f"html_200@{path}=1")
    bench.on("files_500@/other/")
    assert bench.get().text.startswith("<!DOCTYPE")
    assert bench.get().status_code == 200
    assert bench.simulator.faults.active() == ("files_500@/other/",)
    bench.simulator.faults.off("files_500@/other/")
    assert bench.simulator.faults.active() == ()


def test_faults_are_switched_on_off_and_changed() -> None:
    """`on` and `off` switch a fault, a new value replaces the earlier one, and clear removes all."""
    faults = Faults(0, ["api_500=on", "slow", "no_cdr_id=0.5", "html_200@/a"])
    assert faults.active() == ("api_500=on", "slow", "no_cdr_id=0.5", "html_200@/a")
    assert faults.amount("slow", "/") == 1.0
    faults.on("slow=2.5")
    assert faults.amount("slow", "/") == 2.5
    faults.on("api_500=off")
    faults.on("html_200@/a=off")
    assert faults.active() == ("slow=2.5", "no_cdr_id=0.5")
    faults.clear()
    assert faults.active() == ()
    assert faults.amount("slow", "/") is None


def test_an_unknown_fault_gets_a_suggestion() -> None:
    """An unknown name is refused with the nearest name, by on and off."""
    with pytest.raises(UnknownFaultError, match="'api_500'"):
        Faults().on("api_50")
    with pytest.raises(UnknownFaultError, match="'shuffle_rows'"):
        Faults().off("shuffle_row")


@pytest.mark.parametrize("text", ["api_500=often", "api_500=-1", "no_range=1.5", "slow=long", "slow=inf", ""])
def test_an_invalid_value_is_refused(text: str) -> None:
    """A value that is not a count, share or amount is an error, and no fault is switched on."""
    faults = Faults()
    with pytest.raises(UnknownFaultError):
        faults.on(text)
    assert faults.active() == ()
