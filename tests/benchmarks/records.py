"""CDRs by the million: a third of the older shape, the rest of the newer, about 1.4 kB each; the same every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

DAY = date(2026, 11, 20)
APP_ID = "61aa00bb22cc33dd44ee55ff"
_ROOMS_PER_THOUSAND = 25
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
    "okhttp/3.5.0",
)
_MEASURES = '{"avg_bitrate":%d,"avg_bitrate_quality":"Good","max_bitrate":%d,"min_bitrate":88%s}'


def records(count: int, seed: int = 7) -> Iterator[bytes]:
    """So many CDRs of one day, each as JSON, in no order of time; sessions have one to nine connections."""
    dice = random.Random(seed)
    rooms = max(1, count * _ROOMS_PER_THOUSAND // 1000)
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    session, left = 0, 0
    for number in range(count):
        if left == 0:
            session, left = session + 1, dice.randint(1, 9)
            room, began = dice.randrange(rooms), midnight + timedelta(milliseconds=dice.randrange(78_000_000))
        left -= 1
        start = began + timedelta(milliseconds=dice.randrange(60_000))
        end = start + timedelta(milliseconds=dice.randrange(60_000, 3_600_000))
        shape = _old if dice.random() < 1 / 3 else _new
        yield shape(dice, number, f"{session:012d}", room, start, end).encode()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _old(dice: random.Random, number: int, conf_num: str, room: int, start: datetime, end: datetime) -> str:
    stay_s = (end - start).total_seconds()
    first, last = _text(start), _text(end)
    return (
        f'{{"trans_date":"{last}","conf_num":"{conf_num}","call_num":"{number % 9}","call_log_id":"{number:024x}",'
        f'"room":{{"room_id":"{room:024x}","connect_dt":"{first}","disconnect_dt":"{last}","duration":{stay_s:.3f}}},'
        f'"user":{{"ip":"203.0.113.{number % 250}","name":"Ada Huang","role":"moderator",'
        f'"ref":"user-{dice.randrange(200_000)}","agent":"{_AGENTS[number % 3]}","token":"","confName":""}},'
        f'"sigserver":{{"connect_dt":"{first}","ip":"","disconnect_dt":"{last}","duration":{stay_s + 0.3:.3f},'
        '"hold_duration":0.120},"published_track":{"audio":"true","data":"true","video":"true","screen":"false",'
        f'"url":"false"}},"usage":{{"subscribed_minutes":{stay_s * 0.98 / 60:.3f},'
        f'"published_minutes":{stay_s / 60:.3f}}},"app_id":"{APP_ID}","cdr_id":"{_id(dice, end)}"}}'
    )


def _new(dice: random.Random, number: int, conf_num: str, room: int, start: datetime, end: datetime) -> str:
    stay_s = (end - start).total_seconds()
    first, last, minutes = _text(start), _text(end), -int(-stay_s // 60)
    video, audio = dice.randrange(300, 600), dice.randrange(28, 37)
    sent = f'"video":{_MEASURES % (video, video * 3 // 2, "")},"audio":{_MEASURES % (audio, audio * 3 // 2, "")}'
    good = f',"bitrate_good_percent":{dice.randrange(60, 101)}'
    got = f'"video":{_MEASURES % (video, video * 3 // 2, good)},"audio":{_MEASURES % (audio, audio * 3 // 2, "")}'
    return (
        f'{{"cdr_id":"{_id(dice, end)}","app_id":"{APP_ID}","parent_partner_id":"{APP_ID[::-1]}",'
        f'"trans_date":"{last}","conf_num":"{conf_num}","sip":false,"call_num":"{number % 9}",'
        f'"call_log_id":"{number:024x}","room":{{"room_id":"{room:024x}","connect_dt":"{first}",'
        f'"disconnect_dt":"{last}","duration":{int(stay_s)},"sip":false,"room_details":{{'
        f'"name":"Consultation {room}","owner_ref":"tenant-{room % 97}","settings":{{"mode":"group","scheduled":true,'
        '"scheduled_time":"2026-11-20 14:00:00","duration":"30","participants":"2","moderators":"1",'
        f'"billing_code":"CC-{room % 31}","auto_recording":true,"quality":"SD"}},"data":{{"custom_key":""}},'
        f'"created":"2024-03-08T09:10:11.012Z","room_id":"{room:024x}"}}}},"user":{{"role":"participant",'
        f'"ip":"203.0.113.{number % 250}","name":"A. Patient","ref":"user-{dice.randrange(200_000)}",'
        f'"agent":"{_AGENTS[number % 3]}"}},"sigserver":{{"connect_dt":"{first}","disconnect_dt":"{last}",'
        f'"ip":"198.51.100.20","duration":{stay_s + 0.3:.2f},"hold_duration":0.44}},"published_track":{{"audio":true,'
        f'"video":true,"data":false,"screen":false,"url":false}},"usage":{{"subscribed_minutes":{minutes - 1},'
        f'"published_minutes":{minutes},"screen_minutes":0,"connect_minutes":{minutes},'
        f'"connect_minutes_cal":{minutes},"room_connect_minutes":{minutes}}},"stats_quality":{{"send":{{{sent},'
        f'"sharing":{{}}}},"receive":{{{got},"sharing":{{}}}}}},"price":{{"connect_duration":{minutes * 0.004:.3f}}}}}'
    )


def _id(dice: random.Random, end: datetime) -> str:
    """Begins with the second of its making, as EnableX's ids do."""
    return f"{int(end.timestamp()):08x}{dice.getrandbits(64):016x}"
