"""The day report: usage, sessions by hour, lateness, media and audits of one day. Only `report` reads stores.

The page is one HTML file without network access or scripts. Charts are SVG, each with its numbers as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from pipeline.cli.day_report.html import Bar, Html, bars, columns, el, join, number_text, table
from pipeline.cli.day_report.style import CSS
from pipeline.core.context import App, chosen_projects
from pipeline.core.models import AT_RISK, Row
from pipeline.ingest.settlement import is_settled
from pipeline.storage import raw
from pipeline.tables.query import run_query

_LATE_H = (
    ("within 1 h", 0),
    ("1 to 6 h", 1),
    ("6 to 24 h", 6),
    ("1 to 2 days", 24),
    ("2 to 3 days", 48),
    ("later", 72),
)
"""Steps of lateness: label, and hours at which the step begins."""

_STATES = {"stored": "good", "malformed": "odd", "pending": "soon", "lost": "bad"}
_MAX_OWNERS = 12
_MAX_ROWS = 25

DAY_SQL = {
    "usage": """
        SELECT owner_ref, sum(sessions)::BIGINT AS sessions, sum(connections)::BIGINT AS connections,
               sum(participant_min) AS participant_min, sum(recording_min) AS recording_min
        FROM usage_daily WHERE day = DATE '{day}' GROUP BY owner_ref ORDER BY participant_min DESC, owner_ref""",
    "hours": """
        SELECT hour(first_connected_at) AS hour, count(*) AS sessions FROM sessions
        WHERE day = DATE '{day}' AND first_connected_at IS NOT NULL GROUP BY ALL ORDER BY ALL""",
    "lateness": """
        SELECT greatest(0, epoch(first_seen_at - coalesce(trans_at, signal_disconnected_at, room_disconnected_at)))
               / 3600 AS late_h, revision > 1 AS is_corrected, count(*) AS rows
        FROM cdr WHERE day = DATE '{day}' GROUP BY ALL ORDER BY ALL""",
    "rejects": """
        SELECT source, reason, count(*) AS rows FROM rejects WHERE day = DATE '{day}' GROUP BY ALL ORDER BY ALL""",
    "suspense": """
        SELECT * FROM (
            SELECT reasons, decision, count(*) AS records, sum(at_stake_min) AS at_stake_min
            FROM suspense WHERE day = DATE '{day}' GROUP BY ALL)
        ORDER BY decision <> 'open', records DESC, reasons, decision""",
    "drift": """
        SELECT path, documents, documents_total, example, first_day
        FROM (SELECT *, min(day) OVER (PARTITION BY project, source, path) AS first_day FROM drift)
        WHERE day = DATE '{day}' ORDER BY project, source, path""",
    "media": """
        SELECT state, count(*) AS files, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes
        FROM media WHERE day = DATE '{day}' GROUP BY state""",
    "open_files": """
        SELECT project, conf_num, kind, name, state, expires_at, lost_reason FROM media
        WHERE state = 'pending' OR day = DATE '{day}' AND state IN ('lost', 'malformed')
        ORDER BY state <> 'pending', state, expires_at, project, conf_num, kind, name""",
    "audits": """
        SELECT audited_at, key, kind, verdict, is_content_verified, detail FROM audits WHERE media_day = DATE '{day}'
        QUALIFY row_number() OVER (PARTITION BY project, key ORDER BY audited_at DESC) = 1
        ORDER BY verdict = 'ok', key""",
}
"""Queries on the tables; the rows of each are the field of `DayFacts` with the same name."""


@dataclass(frozen=True)
class DayFacts:
    """Content of the page: the rows of `DAY_SQL`. `settled`: by project, None if the day was never collected."""

    day: date
    now: datetime
    settled: Mapping[str, bool | None]
    usage: Sequence[Row]
    hours: Sequence[Row]
    lateness: Sequence[Row]
    rejects: Sequence[Row]
    suspense: Sequence[Row]
    drift: Sequence[Row]
    media: Sequence[Row]
    open_files: Sequence[Row]
    audits: Sequence[Row]


def day_page(facts: DayFacts) -> str:
    """The whole page."""
    title = f"Postroom: {facts.day:%A}, {facts.day.day} {facts.day:%B %Y}"
    head = el(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"),
        Html('<meta name="color-scheme" content="light dark">'),
        el("title", title),
        el("style", Html(CSS)),
    )
    sections = (_usage, _hours, _late, _suspense, _drift, _audits, _media)
    main = el("main", [section(facts) for section in sections])
    footer = el("footer", f"Generated from the tables at {_moment(facts.now)}. Days and hours are UTC.")
    return f"<!DOCTYPE html>\n{el('html', head, el('body', _header(facts), main, footer), lang='en')}\n"


def _header(facts: DayFacts) -> Html:
    names = ("sessions", "connections", "participant_min", "recording_min")
    totals = {name: sum(row[name] or 0 for row in facts.usage) for name in names}
    files = {row["state"]: row["files"] for row in facts.media}
    at_risk = sum(_is_at_risk(row, facts.now) for row in facts.open_files)
    problems = sum(row["verdict"] != "ok" for row in facts.audits)
    suspended = sum(row["records"] for row in facts.suspense if row["decision"] == "open")
    tiles = [
        ("sessions", totals["sessions"], ""),
        ("connections", totals["connections"], ""),
        ("participant minutes", totals["participant_min"], ""),
        ("recorded minutes", totals["recording_min"], ""),
        ("records in suspense", suspended, "soon" if suspended else ""),
        ("files in the vault", files.get("stored", 0) + files.get("malformed", 0), ""),
        ("files at risk", at_risk, "soon" if at_risk else ""),
        ("files lost", files.get("lost", 0), "bad" if files.get("lost") else ""),
        ("audit problems", problems, "bad" if problems else ""),
    ]
    return el(
        "header",
        el("p", "Postroom, day report", class_="kicker"),
        el("h1", f"{facts.day:%A}, {facts.day.day} {facts.day:%B %Y}"),
        el(
            "p",
            [
                el("span", f"{name}: ", _settled(is_settled), class_="project")
                for name, is_settled in facts.settled.items()
            ],
            class_="settled",
        ),
        el(
            "dl",
            [
                el("div", el("dt", label), el("dd", number_text(value)), class_=f"tile {tone}")
                for label, value, tone in tiles
            ],
            class_="tiles",
        ),
    )


def _settled(is_settled: bool | None) -> Html:
    if is_settled is None:
        return el("strong", "never collected", class_="soon")
    return el("strong", "settled", class_="good") if is_settled else el("strong", "provisional", class_="soon")


def _section(title: str, lead: str, *parts: Html | None) -> Html:
    name = title.lower().replace(" ", "-")
    return el("section", el("h2", title, id=name), el("p", lead, class_="lead"), parts, aria_labelledby=name)


def _numbers(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> Html:
    return el("details", el("summary", "Numbers"), table(headings, rows, numbers=numbers))


def _usage(facts: DayFacts) -> Html:
    shown, rest = facts.usage[:_MAX_OWNERS], facts.usage[_MAX_OWNERS:]
    rows = [_usage_bar(_owner(row), row["participant_min"]) for row in shown]
    if rest:
        rows.append(_usage_bar(f"{len(rest)} more", sum(row["participant_min"] or 0 for row in rest), "quiet"))
    numbers = [
        [
            _owner(row),
            *(number_text(row[name] or 0) for name in ("sessions", "connections", "participant_min", "recording_min")),
        ]
        for row in facts.usage
    ]
    headings = ("owner", "sessions", "connections", "participant min", "recorded min")
    lead = f"Participant minutes of {_count(len(facts.usage), 'owner')}, largest first."
    return _section(
        "Usage by owner",
        lead if rows else "No connections.",
        bars(("owner", "minutes"), rows) if rows else None,
        _numbers(headings, numbers, (1, 2, 3, 4)) if rows else None,
    )


def _usage_bar(label: str, minutes: Decimal | float | None, tone: str = "plain") -> Bar:
    return Bar(label, float(minutes or 0), number_text(minutes or 0), tone)


def _hours(facts: DayFacts) -> Html:
    started = {row["hour"]: row["sessions"] for row in facts.hours}
    values = [started.get(hour, 0) for hour in range(24)]
    if not any(values):
        return _section("Sessions by hour", "No session started on this day.")
    busiest = max(range(24), key=lambda hour: values[hour])
    return _section(
        "Sessions by hour",
        f"{_count(sum(values), 'session')} started on this day, most in the hour from {busiest:02d}:00 UTC.",
        columns("Sessions started, by hour (UTC)", values, [f"{hour:02d}" for hour in range(24)], label_every=3),
        _numbers(("hour (UTC)", "sessions"), [[f"{hour:02d}:00", str(values[hour])] for hour in range(24)], (1,)),
    )


def _late(facts: DayFacts) -> Html:
    dated = [row for row in facts.lateness if row["late_h"] is not None]
    starts = [hours for _, hours in _LATE_H]
    ends = [*starts[1:], float("inf")]
    counts = [
        sum(row["rows"] for row in dated if start <= row["late_h"] < end)
        for start, end in zip(starts, ends, strict=True)
    ]
    total = sum(row["rows"] for row in facts.lateness)
    corrected = sum(row["rows"] for row in facts.lateness if row["is_corrected"])
    rejected = sum(row["rows"] for row in facts.rejects)
    rows = [
        Bar(label, count, f"{count:,} ({count / sum(counts):.0%})", "plain" if start < 24 else "soon")
        for (label, start), count in zip(_LATE_H, counts, strict=True)
        if sum(counts)
    ]
    summary = f"{_count(total, 'row')}: {corrected:,} corrected after first collection, {rejected:,} rejected."
    return _section(
        "Late rows",
        f"Time between writing by EnableX and first collection. {summary}",
        bars(("collected", "rows"), rows) if rows else None,
        table(
            ("source", "reason of rejection", "rows"),
            [(row["source"], row["reason"], f"{row['rows']:,}") for row in facts.rejects[:_MAX_ROWS]],
            numbers=(2,),
        )
        if facts.rejects
        else None,
    )


def _suspense(facts: DayFacts) -> Html:
    rows = [
        (
            row["reasons"].replace("_", " "),
            row["decision"],
            f"{row['records']:,}",
            "unknown" if row["at_stake_min"] is None else number_text(row["at_stake_min"]),
        )
        for row in facts.suspense
    ]
    return _section(
        "Suspense",
        "Records that are not believed or cannot be rated. Those that are open need a decision before a final export:"
        " `postroom billing suspense list`."
        if rows
        else "No record of this day is in suspense.",
        table(("reasons", "decision", "records", "minutes at stake"), rows, numbers=(2, 3)) if rows else None,
    )


def _drift(facts: DayFacts) -> Html | None:
    if not facts.drift:
        return None
    rows = [
        (
            row["path"],
            str(row["first_day"]),
            f"{row['documents']:,} ({row['documents'] / row['documents_total']:.1%})",
            row["example"] or "",
        )
        for row in facts.drift[:_MAX_ROWS]
    ]
    return _section(
        "Undocumented fields",
        f"{_count(len(facts.drift), 'field')} of CDRs without a column; the values are in extra.",
        table(("field", "first day", "CDRs", "example"), rows, numbers=(2,)),
    )


def _media(facts: DayFacts) -> Html:
    by_state = {row["state"]: row for row in facts.media}
    rows = [
        Bar(state, row["files"], f"{row['files']:,} ({_size(row['size_bytes'])})", tone)
        for state, tone in _STATES.items()
        if (row := by_state.get(state))
    ]
    shown = [
        (
            el("strong", row["state"], class_=_STATES.get(row["state"], "odd")),
            f"{row['project']}/{row['conf_num']}/{row['kind']}/{row['name']}",
            _deadline_or_reason(row, facts.now),
        )
        for row in facts.open_files[:_MAX_ROWS]
    ]
    more = len(facts.open_files) - len(shown)
    return _section(
        "Media and deadlines",
        f"{_count(sum(row['files'] for row in facts.media), 'file')} of this day's sessions. The table lists pending"
        " files of all days, and lost and malformed files of this day."
        if rows or shown
        else "EnableX listed no files for this day, and no file is pending.",
        bars(("state", "files"), rows) if rows else None,
        table(("state", "file", "deadline"), shown) if shown else None,
        el("p", f"and {more:,} more; `postroom status` lists files at risk", class_="lead") if more > 0 else None,
    )


def _deadline_or_reason(row: Row, now: datetime) -> Html:
    if row["state"] != "pending":
        return join([row["lost_reason"] or "stored completely, but it cannot be opened"])
    if row["expires_at"] is None:
        return join(["unknown"])
    hours = (row["expires_at"] - now) / timedelta(hours=1)
    left = f"{hours:.0f} h left" if hours >= 0 else f"passed {-hours:.0f} h ago"
    return el("span", f"{left}, {_moment(row['expires_at'])}", class_="bad" if _is_at_risk(row, now) else None)


def _audits(facts: DayFacts) -> Html:
    if not facts.audits:
        return _section("Audits", "This day's files are not audited yet; run `postroom media audit`.")
    counts: dict[str, int] = {}
    for row in facts.audits:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    rows = [
        Bar(verdict.replace("_", " "), count, f"{count:,}", "good" if verdict == "ok" else "bad")
        for verdict, count in sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0]))
    ]
    problems = [
        (row["verdict"].replace("_", " "), row["key"], row["detail"]) for row in facts.audits if row["verdict"] != "ok"
    ]
    verified = sum(bool(row["is_content_verified"]) for row in facts.audits)
    last = max(row["audited_at"] for row in facts.audits)
    return _section(
        "Audits",
        f"{_count(len(facts.audits), 'object')} of this day compared with the manifests, the last at {_moment(last)};"
        f" {verified:,} read completely.",
        bars(("verdict", "objects"), rows),
        table(("verdict", "object", "problem"), problems[:_MAX_ROWS]) if problems else None,
    )


def _is_at_risk(row: Row, now: datetime) -> bool:
    return row["state"] == "pending" and row["expires_at"] is not None and row["expires_at"] - now < AT_RISK


def _owner(row: Row) -> str:
    return row["owner_ref"] or "(no owner)"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(size_bytes: int) -> str:
    unit, name = next(
        (unit, name)
        for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
        if size_bytes >= unit or unit == 1
    )
    return f"{number_text(size_bytes / unit)} {name}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def report(app: App, day: date) -> str:
    """The HTML report of one day, for all projects."""
    lookback_days = app.settings.collect.lookback_days
    settled: dict[str, bool | None] = {}
    for name in chosen_projects(app.settings, None):
        collected_at = raw.last_collected(app.vault, "cdr", name).get(day)
        settled[name] = is_settled(day, collected_at, lookback_days) if collected_at else None
    rows = {name: run_query(app.lake, sql.format(day=day)).to_pylist() for name, sql in DAY_SQL.items()}
    return day_page(DayFacts(day, app.clock(), settled, **rows))
