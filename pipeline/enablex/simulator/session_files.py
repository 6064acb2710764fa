"""Files of a simulated session: recordings, transcoded video, chat and metadata, each with its size or text (pure)."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta

from pipeline.enablex.simulator import media
from pipeline.enablex.simulator.traffic import Session, SimFile, timestamp

_CHAT = (
    "Good morning",
    "Can you hear me?",
    "One moment",
    "Sending the form now",
    "Thank you, goodbye 👋",
)


def session_files(seed: int, session: Session, app_id: str, file_bytes: int) -> tuple[SimFile, ...]:
    """Every file of a session, in the order in which its archive record names them.

    A file is created when its recording starts (chat and metadata: when the session ends), and expires by
    that. Listed: chat and metadata within minutes of the end, recordings after about ten, transcoded ones
    2 to 8 h later.
    """
    dice = random.Random(f"{seed}/{session.project}/{session.conf_num}")
    folder = f"/path/{app_id}/{session.conf_num}"
    recording = "webm" if session.room.single_file else dice.choice(("mkv", "mkv", "mov"))
    ended = session.ended_at
    files: list[SimFile] = []

    def add(kind: str, name: str, created_at: datetime, listed_at: datetime, text: bytes | None = None) -> None:
        ending = name.rpartition(".")[2]
        size = len(text) if text is not None else media.media_size(ending, _size(dice, file_bytes))
        ids = session.project, session.conf_num, session.room.room_id
        files.append(SimFile(*ids, kind, f"{folder}/{name}", ending, size, created_at, listed_at, text))

    listed = ended + timedelta(minutes=8, seconds=dice.randint(0, 300))
    starts = [segment.started_at for segment in session.segments for _ in range(segment.streams)]
    for number, started in enumerate(starts, 1):
        add("recording", f"a{number}.{recording}", started, listed)
    for number, segment in enumerate(session.segments if session.transcoded else (), 1):
        done = ended + timedelta(seconds=dice.randint(2 * 3600, 8 * 3600))
        add("transcoded", f"t{number}.mp4", segment.started_at, done)
    listed = ended + timedelta(seconds=dice.randint(30, 240))
    if session.chat:
        add("chat", "chatdata.json", ended, listed, _chat_text(dice, session))
    if session.metadata:
        add("metadata", "metadata.json", ended, listed, _metadata_text(dice, session))
    return tuple(files)


def _size(dice: random.Random, typical: int) -> int:
    """Half to one and a half times the typical size."""
    return typical // 2 + dice.randrange(max(1, typical))


def _chat_text(dice: random.Random, session: Session) -> bytes:
    """A list of messages; in some sessions an object around it, nothing at all, or a truncated text."""
    talkers = [c for c in session.connections if not c.sip]
    messages = []
    for number in range(dice.randint(1, 12)):
        talker = dice.choice(talkers)
        said_at = talker.connected_at + (talker.disconnected_at - talker.connected_at) * dice.random()
        message = {
            "sender": talker.user_name,
            "senderId": talker.user_ref,
            "message": _CHAT[number % len(_CHAT)],
            "timestamp": timestamp(said_at),
        }
        messages.append(message)
    messages.sort(key=lambda m: m["timestamp"])
    return _odd_text(dice, json.dumps(messages, ensure_ascii=False), json.dumps({"messages": messages}))


def _metadata_text(dice: random.Random, session: Session) -> bytes:
    events = [
        {"type": kind, "ts": timestamp(at), "user": c.user_ref}
        for c in session.connections
        for kind, at in (("user-connected", c.connected_at), ("user-disconnected", c.disconnected_at))
    ]
    events.sort(key=lambda e: e["ts"])
    document = {"conf_num": session.conf_num, "events": events}
    return _odd_text(dice, json.dumps(document, ensure_ascii=False), json.dumps([document]))


def _odd_text(dice: random.Random, usual: str, other_form: str) -> bytes:
    """Mostly the usual form; no schema is published, so nobody may come to depend on it."""
    throw = dice.random()
    if throw < 0.06:
        return other_form.encode()
    if throw < 0.10:
        return b""
    if throw < 0.15:
        return usual.encode()[: len(usual) * 2 // 3]
    return usual.encode()
