"""The hosts over real sockets: they serve the world's content, only to its project, in valid HTTP."""

from __future__ import annotations

import hashlib
import threading
import time
import tomllib
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from pipeline.enablex.simulator import RequestSeen, SimFile, Simulator, World

Routes = tuple[str, ...]


def period(now: datetime, days: int = 4) -> str:
    return f"period/{now.date() - timedelta(days=days)}/{now.date()}"


def media_file(simulator: Simulator) -> SimFile:
    """A media file of the first project that can be downloaded now."""
    return next(f for f in simulator.world.files("acme", simulator.clock.now()) if f.text is None)


def test_served_cdrs_are_those_of_the_world(simulator: Simulator, api: httpx.Client, now: datetime) -> None:
    """Each CDR route returns exactly the world's documents of its query, in the same order."""
    first, last = now.date() - timedelta(days=3), now.date()
    world = simulator.world
    truth = world.cdr_documents("acme", now, first, last)
    assert api.get(f"/cdr/period/{first}/{last}").json() == {"result": "0", "cdr": truth}
    conf_num, room_id = truth[0]["conf_num"], truth[0]["room"]["room_id"]
    by_conf = api.get(f"/cdr/conf/{conf_num}").json()["cdr"]
    assert by_conf == [d for d in world.cdr_documents("acme", now) if d["conf_num"] == conf_num]
    by_room = api.get(f"/cdr/room/{room_id}").json()["cdr"]
    assert by_room == [d for d in world.cdr_documents("acme", now) if d["room"]["room_id"] == room_id]
    by_both = api.get(f"/cdr/room-period/{room_id}/{first}/{last}").json()["cdr"]
    assert by_both == [d for d in truth if d["room"]["room_id"] == room_id]


def test_served_archives_are_those_of_the_world(simulator: Simulator, api: httpx.Client, now: datetime) -> None:
    """Each archive route returns exactly the world's records of its query."""
    first, last = now.date() - timedelta(days=3), now.date()
    truth = simulator.world.archive_documents("acme", now, simulator.files_url, first, last)
    assert api.get(f"/archive/period/{first}/{last}/").json() == {"result": "0", "archive": truth}
    record = truth[-1]
    assert api.get(f"/archive/conf/{record['conf_num']}").json()["archive"] == [record]
    assert record in api.get(f"/archive/room/{record['room_id']}").json()["archive"]
    assert record in api.get(f"/archive/room-period/{record['room_id']}/{first}/{last}").json()["archive"]


def test_served_files_are_those_of_the_world(
    simulator: Simulator, api: httpx.Client, files: httpx.Client, now: datetime
) -> None:
    """Every file that has not expired is linked from an archive record and has the world's size and digest."""
    available = simulator.world.files("acme", now)
    linked = urls(api.get(f"/archive/{period(now)}").json()["archive"])
    assert {simulator.files_url + f.path for f in available} <= linked
    for file in available:
        reply = files.get(file.path)
        assert reply.status_code == 200
        assert int(reply.headers["Content-Length"]) == len(reply.content) == file.size_bytes
        assert hashlib.sha256(reply.content).hexdigest() == file.sha256


def urls(records: list[dict[str, object]]) -> set[str]:
    texts_with_url: set[str] = set()
    for record in records:
        for value in record.values():
            entries = value if isinstance(value, list) else [value]
            texts = (entry.get("url") if isinstance(entry, dict) else entry for entry in entries)
            texts_with_url |= {str(text) for text in texts if str(text).startswith("http")}
    return texts_with_url


def test_expired_files_stay_listed_and_return_404(
    simulator: Simulator, api: httpx.Client, files: httpx.Client, now: datetime
) -> None:
    """72 h after its creation a file returns 404, while its record still links to it."""
    file = media_file(simulator)
    simulator.clock.set(file.expires_at - timedelta(seconds=1))
    assert files.get(file.path).status_code == 200
    simulator.clock.set(file.expires_at)
    assert files.get(file.path).status_code == 404
    assert simulator.files_url + file.path in urls(api.get(f"/archive/conf/{file.conf_num}").json()["archive"])


def test_files_do_not_exist_before_they_are_listed(simulator: Simulator, files: httpx.Client) -> None:
    """A file returns 404 until its record links to it."""
    file = media_file(simulator)
    simulator.clock.set(file.listed_at - timedelta(seconds=1))
    assert files.get(file.path).status_code == 404


@pytest.mark.parametrize(
    "route", ["/cdr/period/2026-11-21/2026-11-22", "/archive/conf/1", "/rooms", "/dialin/", "/rooms/x/users"]
)
def test_the_api_requires_the_projects_credentials(simulator: Simulator, route: str) -> None:
    """No credentials, wrong ones and an extra space get 401 UNAUTHORIZED; those of the project are accepted."""
    project = simulator.world.project("globex")
    for auth in (
        None,
        ("x", "y"),
        (project.app_id, f"{project.app_key} "),
        (project.files_user, project.files_password),
    ):
        reply = httpx.get(simulator.base_url + route, auth=auth)
        assert (reply.status_code, reply.json()["error_code"]) == (401, "UNAUTHORIZED")
    assert httpx.get(simulator.base_url + route, auth=(project.app_id, project.app_key)).status_code in (200, 404)


def test_files_require_the_portal_credentials(simulator: Simulator) -> None:
    """Without credentials, with those of the API or of another project, a file is refused with 403, not 401."""
    acme, other = simulator.world.project("acme"), simulator.world.project("globex")
    url = simulator.files_url + media_file(simulator).path
    assert "@" in acme.files_user
    for auth in (None, (acme.app_id, acme.app_key), (other.files_user, other.files_password)):
        assert httpx.get(url, auth=auth).status_code == 403
    assert httpx.get(url, auth=(acme.files_user, acme.files_password)).status_code == 200


def test_projects_see_only_their_own_records(simulator: Simulator, api: httpx.Client, now: datetime) -> None:
    """Another project's session or room gives an empty list."""
    other = simulator.world.cdr_documents("globex", now, now.date() - timedelta(days=1), now.date())[0]
    assert api.get(f"/cdr/conf/{other['conf_num']}").json()["cdr"] == []
    assert api.get(f"/archive/room/{other['room']['room_id']}").json()["archive"] == []


@pytest.mark.parametrize(
    ("route", "status", "code"),
    [
        ("/cdr/period/2026-11-1/2026-11-22", 400, "INVALID_PARAM"),
        ("/cdr/period/2026-02-30/2026-11-22", 400, "INVALID_PARAM"),
        ("/archive/period/2026-11-22/2026-11-21", 400, 10203),
        ("/cdr/period/2026-11-22", 400, 10203),
        ("/cdr/conf", 400, 10201),
        ("/cdr/room/", 400, 10202),
        ("/cdr/room-period", 400, 10204),
        ("/archive/room-period/x/2026-11-22", 400, 10203),
        ("/cdr/elsewhere/1", 404, "NOT_FOUND"),
        ("/nowhere", 404, "NOT_FOUND"),
        ("/cdr/room-period/x/period/2026-11-21/2026-11-22", 404, "NOT_FOUND"),
    ],
)
def test_invalid_queries_are_refused(api: httpx.Client, route: str, status: int, code: object) -> None:
    """Invalid dates, missing parts and unknown routes get JSON with a status and a code."""
    reply = api.get(route)
    document = reply.json()
    assert (reply.status_code, document.get("error_code", document.get("result"))) == (status, code)


def test_extreme_dates_are_accepted(api: httpx.Client) -> None:
    """The first and last date and the longest period are accepted, and reports support GET only."""
    assert api.get("/cdr/period/0001-01-01/0001-01-02").json()["cdr"] == []
    assert api.get("/archive/period/9999-12-30/9999-12-31").json()["archive"] == []
    assert api.get("/cdr/period/0001-01-01/9999-12-31").status_code == 200
    assert api.post("/cdr/period/2026-11-21/2026-11-22").status_code == 405


def test_ranges_have_exact_bytes(simulator: Simulator, files: httpx.Client) -> None:
    """Every form of a single range gives 206 with its bytes, an invalid one the file, one after the end 416."""
    file = media_file(simulator)
    whole, size = files.get(file.path).content, file.size_bytes
    for requested, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        (f"bytes={size - 7}-", size - 7, size - 1),
        ("bytes=-10", size - 10, size - 1),
        (f"bytes=6000-{size * 2}", 6000, size - 1),
    ):
        reply = files.get(file.path, headers={"Range": requested})
        assert reply.status_code == 206
        assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert reply.content == whole[first : last + 1]
    for requested in ("bytes=", "bytes=9-3", "lines=1-2", "bytes=1-2,4-5"):
        assert files.get(file.path, headers={"Range": requested}).content == whole
    beyond = files.get(file.path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_if_range_guards_a_resumed_download(simulator: Simulator, files: httpx.Client) -> None:
    """A Range applies only if the ETag of If-Range is the current one."""
    file = media_file(simulator)
    head = files.head(file.path)
    assert head.content == b""
    assert int(head.headers["Content-Length"]) == file.size_bytes
    assert parsedate_to_datetime(head.headers["Last-Modified"]) <= file.created_at
    ranged = {"Range": "bytes=5-", "If-Range": head.headers["ETag"]}
    assert files.get(file.path, headers=ranged).status_code == 206
    assert files.get(file.path, headers={**ranged, "If-Range": '"other"'}).status_code == 200


def test_an_unchanged_file_is_not_sent_again(simulator: Simulator, files: httpx.Client) -> None:
    """If-None-Match with the current ETag gives 304 without a body, with another one the file."""
    file = media_file(simulator)
    etag = files.get(file.path).headers["ETag"]
    for matching in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        for method in ("GET", "HEAD"):
            reply = files.request(method, file.path, headers={"If-None-Match": matching, "Range": "bytes=1-2"})
            assert (reply.status_code, reply.content, reply.headers["ETag"]) == (304, b"", etag)
    for other in ('"other"', etag.strip('"'), ""):
        assert len(files.get(file.path, headers={"If-None-Match": other}).content) == file.size_bytes
    assert httpx.get(simulator.files_url + file.path, headers={"If-None-Match": etag}).status_code == 403


def test_the_foreign_host_has_another_name_and_requires_no_credentials(simulator: Simulator) -> None:
    """The file is served without credentials, and credentials that are sent are recorded."""
    file = media_file(simulator)
    assert simulator.foreign_url.startswith("http://localhost:")
    reply = httpx.get(simulator.foreign_url + file.path, auth=("leaked", "secret"))
    assert hashlib.sha256(reply.content).hexdigest() == file.sha256
    assert simulator.requests[-1].host == "foreign"
    assert simulator.requests[-1].authorization == "Basic bGVha2VkOnNlY3JldA=="


def test_the_date_header_follows_the_clock(simulator: Simulator, api: httpx.Client, now: datetime) -> None:
    """Date is the virtual time, and visibility follows it."""
    assert parsedate_to_datetime(api.get("/cdr/conf/1").headers["Date"]) == now
    today = f"/cdr/period/{now.date()}/{now.date()}"
    before = len(api.get(today).json()["cdr"])
    simulator.clock.advance(timedelta(hours=11))
    assert len(api.get(today).json()["cdr"]) > before
    assert parsedate_to_datetime(api.get("/cdr/conf/1").headers["Date"]) == now + timedelta(hours=11)


def test_by_default_the_clock_follows_the_real_one() -> None:
    """Without a given time the clock has the real time, and can be advanced."""
    with Simulator() as simulator:
        real = datetime.now(UTC)
        assert abs(simulator.clock.now() - real) < timedelta(seconds=5)
        simulator.clock.advance(timedelta(days=3))
        assert abs(simulator.clock.now() - real - timedelta(days=3)) < timedelta(seconds=5)


def test_small_replies_are_fast_on_one_connection(api: httpx.Client) -> None:
    """100 small replies over one connection take less than 2 s: they do not wait for delayed acknowledgements."""
    started = time.perf_counter()
    for _ in range(100):
        assert api.get("/cdr/conf/1").status_code == 200
    assert time.perf_counter() - started < 2.0


def test_concurrent_clients(simulator: Simulator, now: datetime) -> None:
    """8 concurrent clients get identical replies."""
    project = simulator.world.project("acme")
    bodies: list[bytes] = []

    def request() -> None:
        with httpx.Client(auth=(project.app_id, project.app_key)) as client:
            bodies.extend(client.get(f"{simulator.base_url}/cdr/{period(now)}").content for _ in range(5))

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies) == 40
    assert len(set(bodies)) == 1


def test_it_stops_within_a_second_with_clients_connected(world: World) -> None:
    """Leaving the context closes idle connections of clients and frees the ports."""
    with httpx.Client() as client:
        with Simulator(world) as simulator:
            client.get(f"{simulator.base_url}/rooms")
            port = int(simulator.files_url.rpartition(":")[2])
            started = time.perf_counter()
        assert time.perf_counter() - started < 1.0
        with pytest.raises(httpx.TransportError):
            client.get(f"{simulator.base_url}/rooms")
    with Simulator(world, files_port=port) as simulator:
        assert simulator.files_url == f"http://127.0.0.1:{port}"


def test_a_port_in_use_is_an_error_and_leaves_nothing_open(simulator: Simulator) -> None:
    """A port in use raises OSError, and the ports bound before it are released."""
    taken = int(simulator.foreign_url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        Simulator(foreign_port=taken)


def test_requests_are_recorded_before_the_reply(simulator: Simulator, files: httpx.Client) -> None:
    """`on_request` receives each request with its status and headers before the reply is sent."""
    records: list[RequestSeen] = []
    simulator.on_request = records.append
    file = media_file(simulator)
    files.get(f"{file.path}?a=b", headers={"Range": "bytes=0-9"})
    assert records == simulator.requests
    (seen,) = records
    assert (seen.host, seen.method, seen.path, seen.status) == ("files", "GET", file.path, 206)
    assert seen.range == "bytes=0-9"
    assert seen.authorization
    assert seen.authorization.startswith("Basic ")


def test_settings_are_a_complete_configuration() -> None:
    """The TOML has every project with credentials, one data folder, and `start_date` only with `begin`."""
    with Simulator(World(begin=date(2026, 11, 1))) as simulator:
        settings = tomllib.loads(simulator.settings_toml("/data dir"))
        assert settings["lake"] == {"url": "file:/data dir/lake"}
        assert settings["run_store"] == {"url": "sqlite:////data dir/ledger.db"}
        project = settings["projects"]["globex"]
        assert project["base_url"] == simulator.base_url
        assert project["app_key"] == simulator.world.project("globex").app_key
        assert project["start_date"] == date(2026, 11, 1)
    with Simulator() as simulator:
        assert "start_date" not in tomllib.loads(simulator.settings_toml("d"))["projects"]["acme"]


def test_fifty_thousand_rows_in_one_day_are_served() -> None:
    """A reply of 50,000 documents is complete."""
    world = World(seed=33, sessions_per_day=11_400)
    with Simulator(world, now=datetime(2026, 11, 30, tzinfo=UTC)) as simulator:
        project = world.project("acme")
        reply = httpx.get(
            f"{simulator.base_url}/cdr/period/2026-11-20/2026-11-20",
            auth=(project.app_id, project.app_key),
            timeout=60.0,
        )
        assert reply.content.count(b'"trans_date"') > 50_000
        assert reply.content.endswith(b"}]}")


def test_the_control_plane_changes_clock_faults_and_sessions(simulator: Simulator, api: httpx.Client) -> None:
    """Clock and faults are read, set and cleared over HTTP, without credentials and without being recorded."""
    port = simulator.base_url.removesuffix("/video/v2")
    with httpx.Client(base_url=f"{port}/_simulator") as control:
        overview = control.get("").json()
        assert overview["projects"] == ["acme", "globex"]
        assert overview["base_url"] == simulator.base_url
        assert control.put("/clock", json={"now": "2026-12-01T00:00:00Z"}).json() == {"now": "2026-12-01T00:00:00.000Z"}
        assert control.put("/clock", json={"advance_s": 90}).json() == {"now": "2026-12-01T00:01:30.000Z"}
        assert control.get("/clock").json() == {"now": "2026-12-01T00:01:30.000Z"}
        assert control.put("/faults", json={"faults": ["api_500=1", "no_range"]}).json()["faults"] == [
            "api_500=1",
            "no_range",
        ]
        assert api.get("/rooms").status_code == 500
        assert control.get("/faults").json() == {"faults": ["no_range"]}
        assert control.delete("/faults").json() == {"faults": []}
        assert [seen["path"] for seen in control.get("/requests").json()["requests"]] == ["/video/v2/rooms"]
        room_id = api.get("/rooms").json()["rooms"][0]["room_id"]
        control.put("/sessions", json={"project": "acme", "room_id": room_id, "users": 3})
        assert api.get(f"/rooms/{room_id}/users").json()["total"] == 3


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("/faults", {"faults": ["api_50"]}, 400),
        ("/clock", {"now": "tomorrow"}, 400),
        ("/clock", ["now"], 400),
        ("/sessions", {"room_id": "x"}, 400),
        ("/elsewhere", {}, 404),
    ],
)
def test_the_control_plane_refuses_invalid_requests(
    simulator: Simulator, route: str, body: object, status: int
) -> None:
    """An invalid request is refused with JSON that contains the reason, and changes nothing."""
    url = simulator.base_url.removesuffix("/video/v2") + "/_simulator" + route
    before = simulator.clock.now()
    reply = httpx.put(url, json=body)
    assert reply.status_code == status
    assert reply.json()["message"]
    assert (simulator.clock.now(), simulator.faults.active()) == (before, ())
