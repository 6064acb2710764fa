"""The rooms, tokens, users and dial-in routes: the only part of the simulator that callers can change."""

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
class _Asked:
    """One question, with what every route needs to know."""

    method: str
    path: str
    project: str
    body: Document
    now: datetime


@dataclass
class _Made:
    """A room that a caller made, and its sessions as far as tests play them."""

    document: Document
    first_used_at: datetime | None = None


class RoomBook:
    """The world's rooms, and on top of them what callers made, changed and deleted.

    Nobody joins a room that a caller made; `start_session` and `end_session` play it, and the CDR routes report it.
    """

    def __init__(self, world: World, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str], _Made] = {}
        self._changed: dict[tuple[str, str], Document] = {}
        self._deleted: set[tuple[str, str]] = set()
        self._played: dict[tuple[str, str], tuple[int, datetime]] = {}
        self._over: dict[str, list[Session]] = {}
        self._tokens = 0
        self._number = 0

    def start_session(self, project: str, room_id: str, now: datetime, users: int = 1) -> None:
        """Put N users into a room, from now on."""
        with self._lock:
            self._played[project, room_id] = (users, now)
            made = self._made.get((project, room_id))
            if made is not None and made.first_used_at is None:
                made.first_used_at = now

    def end_session(self, project: str, room_id: str, now: datetime | None = None) -> None:
        """Let everybody leave; with `now`, CDRs report the session. An ad hoc room without a duration goes with it."""
        with self._lock:
            users, began = self._played.pop((project, room_id), (0, None))
            made = self._made.get((project, room_id))
            if made and began and now and began < now:
                over = self._over.setdefault(project, [])
                over.append(played_session(project, made.document, began, now, users, len(over)))
            settings = made.document["settings"] if made else {}
            if settings.get("adhoc") and not settings.get("duration"):
                del self._made[project, room_id]

    def sessions(self, project: str) -> list[Session]:
        """The sessions that were played to their end, in that order."""
        with self._lock:
            return list(self._over.get(project, ()))

    def answer(self, route: str, request: Request, project: str, now: datetime) -> Reply:
        """The reply to a path below the base path, without its trailing slash."""
        try:
            body = json.loads(request.body) if request.body else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return shape_b(400, "INVALID_PARAM", "The body must be a JSON object")
        method = "GET" if request.method == "HEAD" else request.method
        asked = _Asked(method, request.path, project, body, now)
        with self._lock:
            return self._routed(route.strip("/").split("/"), asked)

    def _routed(self, parts: list[str], asked: _Asked) -> Reply:  # noqa: PLR0911  # one per route
        match asked.method, *parts:
            case "GET", "dialin":
                return self._dialin(asked)
            case "GET", "rooms":
                return self._guarded(50002, asked, self._list)
            case "POST", "rooms":
                return self._guarded(50001, asked, self._create)
            case "PATCH" | "DELETE", "rooms":
                return _refusal(400, 10001)
            case "GET", "rooms", room_id:
                return self._guarded(50003, asked, lambda a: self._show(a, room_id))
            case "PATCH", "rooms", room_id:
                return self._guarded(50000, asked, lambda a: self._change(a, room_id))
            case "DELETE", "rooms", room_id:
                return self._guarded(50004, asked, lambda a: self._delete(a, room_id))
            case "GET", "rooms", room_id, "users":
                return self._users(asked, room_id)
            case "POST", "rooms", room_id, "tokens":
                return self._token(asked, room_id)
            case _, "rooms" | "dialin", *_:
                return shape_b(405, "METHOD_NOT_ALLOWED", "This method is not known here")
        return shape_b(404, "NOT_FOUND", "No such route")

    def _guarded(self, code: int, asked: _Asked, route: Callable[[_Asked], Reply]) -> Reply:
        return _refusal(500, code) if self._faults.hits("room_failure", asked.path) else route(asked)

    def _rooms(self, asked: _Asked) -> dict[str, Document]:
        """The rooms that exist, by id: the world's first, then those that callers made."""
        rooms = {d["room_id"]: d for d in self._world.room_documents(asked.project, asked.now)}
        rooms |= {i: d for (project, i), d in self._changed.items() if project == asked.project and i in rooms}
        rooms |= {
            i: made.document
            for (project, i), made in self._made.items()
            if project == asked.project and not _worn_out(made, asked.now)
        }
        return {i: d for i, d in rooms.items() if (asked.project, i) not in self._deleted}

    def _list(self, asked: _Asked) -> Reply:
        rooms = list(self._rooms(asked).values())
        if self._faults.hits("late_listing", asked.path):
            a_minute_ago = timestamp(asked.now - timedelta(minutes=1))
            rooms = [room for room in rooms if room["created"] < a_minute_ago]
        return json_reply({"result": 0, "rooms": [self._reported(room, asked) for room in rooms]})

    def _show(self, asked: _Asked, room_id: str) -> Reply:
        room = self._rooms(asked).get(room_id)
        return json_reply({"result": 0, "room": self._reported(room, asked)}) if room else _refusal(404, 40001)

    def _reported(self, room: Document, asked: _Asked) -> Document:
        """A room as it is reported: everything, without `data`, or with little more than its type."""
        if self._faults.hits("no_room_data", asked.path):
            room = {key: value for key, value in room.items() if key != "data"}
        if not self._faults.hits("sparse_room", asked.path):
            return room
        settings = {key: room["settings"][key] for key in rules.TYPE_KEYS if key in room["settings"]}
        return {key: value for key, value in room.items() if key != "owner_ref"} | {"settings": settings}

    def _create(self, asked: _Asked) -> Reply:
        plan_is_sd = self._faults.hits("plan_quality_sd", asked.path)
        if key := rules.needs_subscription(asked.body):
            return shape_b(422, "INVALID_PARAM", f"settings.{key} needs a subscription")
        code = rules.create_fault(asked.body, asked.now, plan_is_sd=plan_is_sd)
        if code is not None:
            return _refusal(400, code)
        self._number += 1
        number = self._number
        room_id = f"{int(asked.now.timestamp()):08x}{self._world.seed % 0xFFFF:04x}{number:012x}"
        app_id = self._world.project(asked.project).app_id
        room = _echo(asked.body, app_id, room_id, asked.now, number)
        self._made[asked.project, room_id] = _Made(room)
        return json_reply({"result": 0, "room": self._reported(room, asked)}, 201 if number % 2 else 200)

    def _change(self, asked: _Asked, room_id: str) -> Reply:
        room = self._rooms(asked).get(room_id)
        if room is None:
            return _refusal(404, 40001)
        if self._present(asked, room_id) is not None:
            return _refusal(409, 10030)
        plan_is_sd = self._faults.hits("plan_quality_sd", asked.path)
        if key := rules.needs_subscription(asked.body):
            return shape_b(422, "INVALID_PARAM", f"settings.{key} needs a subscription")
        code = rules.change_fault(room, asked.body, asked.now, plan_is_sd=plan_is_sd)
        if code is not None:
            return _refusal(400, code)
        changed = copy.deepcopy(room)
        _merge(changed, {k: v for k, v in asked.body.items() if k in ("name", "owner_ref", "settings", "sip", "data")})
        if (asked.project, room_id) in self._made:
            self._made[asked.project, room_id].document = changed
        else:
            self._changed[asked.project, room_id] = changed
        return DONE

    def _delete(self, asked: _Asked, room_id: str) -> Reply:
        if room_id not in self._rooms(asked):
            return _refusal(404, 40001)
        if self._present(asked, room_id) is not None:
            # Which of the three it is, nobody documents; a room always gives the same.
            return _refusal(409, (10030, 50004, 50005)[int(room_id[-1], 16) % 3])
        self._deleted.add((asked.project, room_id))
        return DONE

    def _present(self, asked: _Asked, room_id: str) -> list[Document] | None:
        """Who is in the room; None when no session is running."""
        if (asked.project, room_id) in self._played:
            people, _ = self._played[asked.project, room_id]
            return [_user(f"Visitor {n}", f"visitor-{n}", "participant") for n in range(1, people + 1)]
        session = self._world.running(asked.project, room_id, asked.now)
        if session is None:
            return None
        inside = (c for c in session.connections if c.connected_at <= asked.now < c.disconnected_at)
        return [_user(c.user_name, c.user_ref, c.role) for c in inside]

    def _users(self, asked: _Asked, room_id: str) -> Reply:
        """Of a room that is not active: `users` is null, empty or missing, by room."""
        if room_id not in self._rooms(asked):
            return _refusal(404, 40001)
        users = self._present(asked, room_id)
        if users is not None:
            return json_reply({"result": 0, "total": len(users), "users": users})
        empty: tuple[Document, ...] = ({"users": None}, {"users": []}, {})
        return json_reply({"result": 0, "total": 0, **empty[int(room_id[-1], 16) % 3]})

    def _token(self, asked: _Asked, room_id: str) -> Reply:
        if self._faults.hits("server_busy", asked.path):
            return _refusal(503, 10105)
        room = self._rooms(asked).get(room_id)
        if room is None:
            return _refusal(404, 40001)
        data = asked.body.get("data", {})
        if not isinstance(data, dict) or len(data) > 5:
            return shape_b(400, "INVALID_PARAM", "data takes at most 5 keys")
        present = self._present(asked, room_id)
        made = self._made.get((asked.project, room_id))
        used = made is not None and made.first_used_at is not None
        code = rules.token_fault(asked.body) or rules.room_fault(
            room, asked.now, present=None if present is None else len(present), was_used=used
        )
        if code is not None:
            return _refusal(400, code)
        self._tokens += 1
        return json_reply({"result": 0, "token": self._web_token(asked, room_id)})

    def _web_token(self, asked: _Asked, room_id: str) -> str:
        """It looks like a JWT, and nobody checks its signature."""
        claims = {"room": room_id, "user_ref": asked.body["user_ref"], "role": asked.body["role"], "jti": self._tokens}
        claims["exp"] = int((asked.now + timedelta(minutes=15)).timestamp())
        parts = ({"alg": "HS256", "typ": "JWT"}, claims, {"signed": "by the simulator"})
        return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)

    def _dialin(self, asked: _Asked) -> Reply:
        """A bare object without `result`, full of secrets."""
        project = self._world.project(asked.project)
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


def _worn_out(made: _Made, now: datetime) -> bool:
    """Whether an ad hoc room with a duration has outlived it: it counts from its first session's start."""
    settings = made.document["settings"]
    minutes = rules.whole(settings.get("duration"))
    if not settings.get("adhoc") or not minutes or made.first_used_at is None:
        return False
    return now >= made.first_used_at + timedelta(minutes=minutes)


def _echo(body: Document, app_id: str, room_id: str, now: datetime, number: int) -> Document:
    """A new room as the server gives it back: with keys nobody sent, and types that drift."""
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


def _merge(into: Document, change: Document) -> None:
    """Deep merge: objects key by key, everything else replaced. Keys cannot be removed."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _user(name: str, ref: str, role: str) -> dict[str, Any]:
    permissions = {"publish": role != "audience", "subscribe": True, "record": False, "stats": True}
    permissions["controlhandlers"] = role == "moderator"
    return {"name": name, "user_ref": ref, "role": role, "permissions": permissions}


def _refusal(status: int, code: int) -> Reply:
    return shape_a(status, code, rules.CODES[code])
