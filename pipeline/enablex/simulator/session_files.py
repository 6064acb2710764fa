"""Files of a simulated session: recordings, transcoded video, chat and metadata, with size or text (pure)."""

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
    """Every file of a session, in the order of its archive record.

    Created: recordings and transcoded files when the recording starts, chat and metadata when the session ends. Listed
    after the session's end: chat and metadata after 30 to 240 s, recordings after 8 to 13 min, transcoded files after
    2 to 8 h.
    """
    rng = random.Random(f"{seed}/{session.project}/{session.conf_num}")
    folder = f"/path/{app_id}/{session.conf_num}"
    recording = "webm" if session.room.single_file else rng.choice(("mkv", "mkv", "mov"))
    ended = session.ended_at
    files: list[SimFile] = []

    def add(kind: str, name: str, created_at: datetime, listed_at: datetime, text: bytes | None = None) -> None:
        ending = name.rpartition(".")[2]
        size = len(text) if text is not None else media.media_size(ending, _size(rng, file_bytes))
        ids = session.project, session.conf_num, session.room.room_id
        files.append(SimFile(*ids, kind, f"{folder}/{name}", ending, size, created_at, listed_at, text))

    listed = ended + timedelta(minutes=8, seconds=rng.randint(0, 300))
    starts = [segment.started_at for segment in session.segments for _ in range(segment.streams)]
    for number, started in enumerate(starts, 1):
        add("recording", f"a{number}.{recording}", started, listed)
    for number, segment in enumerate(session.segments if session.transcoded else (), 1):
        transcoded_at = ended + timedelta(seconds=rng.randint(2 * 3600, 8 * 3600))
        add("transcoded", f"t{number}.mp4", segment.started_at, transcoded_at)
    listed = ended + timedelta(seconds=rng.randint(30, 240))
    if session.chat:
        add("chat", "chatdata.json", ended, listed, _chat_text(rng, session))
    if session.metadata:
        add("metadata", "metadata.json", ended, listed, _metadata_text(rng, session))
    return tuple(files)


def _size(rng: random.Random, typical: int) -> int:
    """0.5 to 1.5 times the typical size, in bytes."""
    return typical // 2 + rng.randrange(max(1, typical))


def _chat_text(rng: random.Random, session: Session) -> bytes:
    """A list of messages; in some sessions an object that contains it, an empty text, or a truncated text."""
    senders = [c for c in session.connections if not c.sip]
    messages = []
    for number in range(rng.randint(1, 12)):
        sender = rng.choice(senders)
        sent_at = sender.connected_at + (sender.disconnected_at - sender.connected_at) * rng.random()
        message = {
            "sender": sender.user_name,
            "senderId": sender.user_ref,
            "message": _CHAT[number % len(_CHAT)],
            "timestamp": timestamp(sent_at),
        }
        messages.append(message)
    messages.sort(key=lambda m: m["timestamp"])
    return _varied_text(rng, json.dumps(messages, ensure_ascii=False), json.dumps({"messages": messages}))


def _metadata_text(rng: random.Random, session: Session) -> bytes:
    events = [
        {"type": kind, "ts": timestamp(at), "user": c.user_ref}
        for c in session.connections
        for kind, at in (("user-connected", c.connected_at), ("user-disconnected", c.disconnected_at))
    ]
    events.sort(key=lambda e: e["ts"])
    document = {"conf_num": session.conf_num, "events": events}
    return _varied_text(rng, json.dumps(document, ensure_ascii=False), json.dumps([document]))


def _varied_text(rng: random.Random, usual: str, other_form: str) -> bytes:
    """The usual form in 85 % of files, else another one: EnableX publishes no schema (enablex-api.md)."""
    share = rng.random()
    if share < 0.06:
        return other_form.encode()
    if share < 0.10:
        return b""
    if share < 0.15:
        return usual.encode()[: len(usual) * 2 // 3]
    return usual.encode()
