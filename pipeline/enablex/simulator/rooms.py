"""The rooms, tokens, users and dial-in routes: the only part of the simulator that clients can change."""

from __future__ import annotations

import base64
import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.enablex.simulator import room_rules as rules
from pipeline.enablex.simulator.documents import SERVER_SETTINGS, Document
from pipeline.enablex.simulator.faults import Faults
from pipeline.enablex.simulator.messages import Reply, Request, json_reply, shape_a, shape_b
from pipeline.enablex.simulator.played_session import played_session
from pipeline.enablex.simulator.traffic import Session, timestamp
from pipeline.enablex.simulator.world import World

DONE = json_reply({"result": 0})


@dataclass(frozen=True)
class _Call:
    """One call, with the arguments of every route."""

    method: str
    path: str
    project: str
    body: Document
    now: datetime


@dataclass
class _CreatedRoom:
    """A room that a client created, and the start of the first session that a test played in it."""

    document: Document
    first_used_at: datetime | None = None


class RoomBook:
    """The world's rooms, with the rooms that clients created, changed and deleted.

    Rooms created by clients have no traffic of the world. `start_session` and `end_session` play a session, which the
    CDR routes report.
    """

    def __init__(self, world: World, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._lock = threading.Lock()
        self._created: dict[tuple[str, str], _CreatedRoom] = {}
        self._changed: dict[tuple[str, str], Document] = {}
        self._deleted: set[tuple[str, str]] = set()
        self._played: dict[tuple[str, str], tuple[int, datetime]] = {}
        self._ended: dict[str, list[Session]] = {}
        self._tokens = 0
        self._number = 0

    def start_session(self, project: str, room_id: str, now: datetime, users: int = 1) -> None:
        """Put `users` users into a room from `now` on."""
        with self._lock:
            self._played[project, room_id] = (users, now)
            created = self._created.get((project, room_id))
            if created is not None and created.first_used_at is None:
                created.first_used_at = now

    def end_session(self, project: str, room_id: str, now: datetime | None = None) -> None:
        """Remove all users; with `now`, CDRs report the session. An ad hoc room without a duration is deleted."""
        with self._lock:
            users, began = self._played.pop((project, room_id), (0, None))
            created = self._created.get((project, room_id))
            if created and began and now and began < now:
                ended = self._ended.setdefault(project, [])
                ended.append(played_session(project, created.document, began, now, users, len(ended)))
            settings = created.document["settings"] if created else {}
            if settings.get("adhoc") and not settings.get("duration"):
                del self._created[project, room_id]

    def sessions(self, project: str) -> list[Session]:
        """The played sessions that have ended, sorted by end."""
        with self._lock:
            return list(self._ended.get(project, ()))

    def answer(self, route: str, request: Request, project: str, now: datetime) -> Reply:
        """The reply to a path below the base path, given without a trailing slash."""
        try:
            body = json.loads(request.body) if request.body else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return shape_b(400, "INVALID_PARAM", "The body must be a JSON object")
        method = "GET" if request.method == "HEAD" else request.method
        call = _Call(method, request.path, project, body, now)
        with self._lock:
            return self._routed(route.strip("/").split("/"), call)

    def _routed(self, parts: list[str], call: _Call) -> Reply:  # noqa: PLR0911  # one per route
        match call.method, *parts:
            case "GET", "dialin":
                return self._dialin(call)
            case "GET", "rooms":
                return self._guarded(50002, call, self._list)
            case "POST", "rooms":
                return self._guarded(50001, call, self._create)
            case "PATCH" | "DELETE", "rooms":
                return _refusal(400, 10001)
            case "GET", "rooms", room_id:
                return self._guarded(50003, call, lambda call: self._show(call, room_id))
            case "PATCH", "rooms", room_id:
                return self._guarded(50000, call, lambda call: self._change(call, room_id))
            case "DELETE", "rooms", room_id:
                return self._guarded(50004, call, lambda call: self._delete(call, room_id))
            case "GET", "rooms", room_id, "users":
                return self._users(call, room_id)
            case "POST", "rooms", room_id, "tokens":
                return self._token(call, room_id)
            case _, "rooms" | "dialin", *_:
                return shape_b(405, "METHOD_NOT_ALLOWED", "This method is not supported")
        return shape_b(404, "NOT_FOUND", "No such route")

    def _guarded(self, code: int, call: _Call, route: Callable[[_Call], Reply]) -> Reply:
        return _refusal(500, code) if self._faults.hits("room_failure", call.path) else route(call)

    def _rooms(self, call: _Call) -> dict[str, Document]:
        """The rooms that exist, by id: the world's first, then those created by clients."""
        rooms = {d["room_id"]: d for d in self._world.room_documents(call.project, call.now)}
        rooms |= {i: d for (project, i), d in self._changed.items() if project == call.project and i in rooms}
        rooms |= {
            i: created.document
            for (project, i), created in self._created.items()
            if project == call.project and not _is_expired(created, call.now)
        }
        return {i: d for i, d in rooms.items() if (call.project, i) not in self._deleted}

    def _list(self, call: _Call) -> Reply:
        rooms = list(self._rooms(call).values())
        if self._faults.hits("late_listing", call.path):
            a_minute_ago = timestamp(call.now - timedelta(minutes=1))
            rooms = [room for room in rooms if room["created"] < a_minute_ago]
        return json_reply({"result": 0, "rooms": [self._as_returned(room, call) for room in rooms]})

    def _show(self, call: _Call, room_id: str) -> Reply:
        room = self._rooms(call).get(room_id)
        return json_reply({"result": 0, "room": self._as_returned(room, call)}) if room else _refusal(404, 40001)

    def _as_returned(self, room: Document, call: _Call) -> Document:
        """A room as in a reply: complete, without `data`, or with few settings, depending on faults."""
        if self._faults.hits("no_room_data", call.path):
            room = {key: value for key, value in room.items() if key != "data"}
        if not self._faults.hits("sparse_room", call.path):
            return room
        settings = {key: room["settings"][key] for key in rules.TYPE_KEYS if key in room["settings"]}
        return {key: value for key, value in room.items() if key != "owner_ref"} | {"settings": settings}

    def _create(self, call: _Call) -> Reply:
        plan_is_sd = self._faults.hits("plan_quality_sd", call.path)
        if key := rules.needs_subscription(call.body):
            return shape_b(422, "INVALID_PARAM", f"settings.{key} needs a subscription")
        code = rules.create_fault(call.body, call.now, plan_is_sd=plan_is_sd)
        if code is not None:
            return _refusal(400, code)
        self._number += 1
        number = self._number
        room_id = f"{int(call.now.timestamp()):08x}{self._world.seed % 0xFFFF:04x}{number:012x}"
        app_id = self._world.project(call.project).app_id
        room = _new_room(call.body, app_id, room_id, call.now, number)
        self._created[call.project, room_id] = _CreatedRoom(room)
        return json_reply({"result": 0, "room": self._as_returned(room, call)}, 201 if number % 2 else 200)

    def _change(self, call: _Call, room_id: str) -> Reply:
        room = self._rooms(call).get(room_id)
        if room is None:
            return _refusal(404, 40001)
        if self._present(call, room_id) is not None:
            return _refusal(409, 10030)
        plan_is_sd = self._faults.hits("plan_quality_sd", call.path)
        if key := rules.needs_subscription(call.body):
            return shape_b(422, "INVALID_PARAM", f"settings.{key} needs a subscription")
        code = rules.change_fault(room, call.body, call.now, plan_is_sd=plan_is_sd)
        if code is not None:
            return _refusal(400, code)
        changed = copy.deepcopy(room)
        _merge(changed, {k: v for k, v in call.body.items() if k in ("name", "owner_ref", "settings", "sip", "data")})
        if (call.project, room_id) in self._created:
            self._created[call.project, room_id].document = changed
        else:
            self._changed[call.project, room_id] = changed
        return DONE

    def _delete(self, call: _Call, room_id: str) -> Reply:
        if room_id not in self._rooms(call):
            return _refusal(404, 40001)
        if self._present(call, room_id) is not None:
            # It is not documented which of the three is returned. A room always returns the same one.
            return _refusal(409, (10030, 50004, 50005)[int(room_id[-1], 16) % 3])
        self._deleted.add((call.project, room_id))
        return DONE

    def _present(self, call: _Call, room_id: str) -> list[Document] | None:
        """The users in the room; None if no session is running."""
        if (call.project, room_id) in self._played:
            users, _ = self._played[call.project, room_id]
            return [_user(f"Visitor {n}", f"visitor-{n}", "participant") for n in range(1, users + 1)]
        session = self._world.running(call.project, room_id, call.now)
        if session is None:
            return None
        connected = (c for c in session.connections if c.connected_at <= call.now < c.disconnected_at)
        return [_user(c.user_name, c.user_ref, c.role) for c in connected]

    def _users(self, call: _Call, room_id: str) -> Reply:
        """The users of a room. For an inactive room `users` is null, empty or missing, depending on the room."""
        if room_id not in self._rooms(call):
            return _refusal(404, 40001)
        users = self._present(call, room_id)
        if users is not None:
            return json_reply({"result": 0, "total": len(users), "users": users})
        empty: tuple[Document, ...] = ({"users": None}, {"users": []}, {})
        return json_reply({"result": 0, "total": 0, **empty[int(room_id[-1], 16) % 3]})

    def _token(self, call: _Call, room_id: str) -> Reply:
        if self._faults.hits("server_busy", call.path):
            return _refusal(503, 10105)
        room = self._rooms(call).get(room_id)
        if room is None:
            return _refusal(404, 40001)
        data = call.body.get("data", {})
        if not isinstance(data, dict) or len(data) > 5:
            return shape_b(400, "INVALID_PARAM", "data takes at most 5 keys")
        present = self._present(call, room_id)
        created = self._created.get((call.project, room_id))
        was_used = created is not None and created.first_used_at is not None
        code = rules.token_fault(call.body) or rules.room_fault(
            room, call.now, present=None if present is None else len(present), was_used=was_used
        )
        if code is not None:
            return _refusal(400, code)
        self._tokens += 1
        return json_reply({"result": 0, "token": self._web_token(call, room_id)})

    def _web_token(self, call: _Call, room_id: str) -> str:
        """A token in the form of a JWT without a valid signature."""
        claims = {"room": room_id, "user_ref": call.body["user_ref"], "role": call.body["role"], "jti": self._tokens}
        claims["exp"] = int((call.now + timedelta(minutes=15)).timestamp())
        parts = ({"alg": "HS256", "typ": "JWT"}, claims, {"signed": "by the simulator"})
        return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)

    def _dialin(self, call: _Call) -> Reply:
        """A bare object without `result`. It contains several secrets."""
        project = self._world.project(call.project)
        sip = {
            "server_url": "sip://sip.example.com",
            "username": project.name,
            "password": project.app_key[:12],
            "sig_servers": ["198.51.100.20"],
            "media_servers": ["198.51.100.30"],
        }
        number = {"country": "Singapore", "country_code": "65", "phone": "+65 3158 0000", "toll": False}
        settings = {"sip": True}
        return json_reply(
            {"_id": project.app_id, "app_key": project.app_key, "settings": settings, "sip": sip, "dialin": [number]}
        )


def _is_expired(created: _CreatedRoom, now: datetime) -> bool:
    """Whether the duration of an ad hoc room has elapsed since the start of its first session."""
    settings = created.document["settings"]
    minutes = rules.whole(settings.get("duration"))
    if not settings.get("adhoc") or not minutes or created.first_used_at is None:
        return False
    return now >= created.first_used_at + timedelta(minutes=minutes)


def _new_room(body: Document, app_id: str, room_id: str, now: datetime, number: int) -> Document:
    """A new room as the server returns it: with keys that were not sent, and numbers as text in some rooms."""
    settings: Document = {"mode": "group", "scheduled": False, "adhoc": False, "moderators": "1", "viewers": 0}
    settings |= SERVER_SETTINGS | copy.deepcopy(body.get("settings", {}))
    for key in ("duration", "participants", "moderators", "max_active_talkers"):
        value = rules.whole(settings.get(key))
        if value is not None:
            settings[key] = str(value) if number % 2 else value
    sip = body.get("sip") if isinstance(body.get("sip"), dict) else {"enabled": False}
    return {
        "name": body["name"],
        "service_id": app_id,
        "owner_ref": body["owner_ref"],
        "settings": settings,
        "sip": sip,
        "data": copy.deepcopy(body.get("data", {})),
        "created": timestamp(now),
        "room_id": room_id,
    }


def _merge(target: Document, change: Document) -> None:
    """Deep merge: objects key by key, other values replaced. Keys are never removed."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _user(name: str, ref: str, role: str) -> dict[str, Any]:
    permissions = {"publish": role != "audience", "subscribe": True, "record": False, "stats": True}
    permissions["controlhandlers"] = role == "moderator"
    return {"name": name, "user_ref": ref, "role": role, "permissions": permissions}


def _refusal(status: int, code: int) -> Reply:
    return shape_a(status, code, rules.CODES[code])
