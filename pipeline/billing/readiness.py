"""Whether a month can be exported finally: its days that are not settled, and the error text."""

from __future__ import annotations

from datetime import date

from pipeline.billing.month import BillingMonth
from pipeline.billing.sweep import sweep_date, unswept
from pipeline.core.context import App
from pipeline.core.models import DAILY_SOURCES
from pipeline.ingest.settlement import is_settled
from pipeline.storage import raw
from pipeline.tables.build import Builder

TABLES_READ = ("cdr", "sessions", "media", "rejects", "suspense")
"""Tables that an export reads."""


def unsettled_days(app: App, builder: Builder, project: str, month: BillingMonth) -> dict[str, list[date]]:
    """Days that prevent a final export of a month, by state: `missing`, `provisional`, `unswept`, `unbuilt`; empty
    states omitted. An unswept day has settled, but was not collected again after the month (`pipeline.billing.sweep`).

    Days before the project's `start_date` are not required.
    """
    start_date = app.settings.projects[project].start_date or date.min
    days = [day for day in month.required_days if day >= start_date]
    collected = {source: raw.last_collected(app.vault, source, project) for source in DAILY_SOURCES}
    lookback_days = app.settings.collect.lookback_days
    missing = [day for day in days if any(day not in times for times in collected.values())]
    provisional = [
        day
        for day in days
        if day not in missing
        and not all(is_settled(day, times.get(day), lookback_days) for times in collected.values())
    ]
    batches = builder.stale(project, month.partition_days, TABLES_READ)
    unbuilt = sorted(day for batch in batches for day in batch.days)
    settled = [day for day in days if day not in {*missing, *provisional}]
    before_sweep = unswept(settled, collected["cdr"], sweep_date(month, lookback_days))
    by_state = {
        "missing": missing,
        "provisional": provisional,
        "unswept": before_sweep if app.settings.billing.sweep else [],
        "unbuilt": unbuilt,
    }
    return {state: in_state for state, in_state in by_state.items() if in_state}


def unsettled_text(days: dict[str, list[date]], month: BillingMonth) -> str:
    """Error text: why a month is not final, and the next step."""
    meanings = {
        "missing": "never collected; `postroom nightly` collects them, or set `start_date` if the project began later",
        "provisional": "may still change",
        "unswept": (
            "not collected again after the month; `postroom nightly` collects them in the month after, or run"
            f" `postroom billing sweep --month {month}`"
        ),
        "unbuilt": "not built from the collected responses; run `postroom build`",
    }
    parts = [
        f"{len(in_state)} days {meanings[state]} ({in_state[0]} to {in_state[-1]})" for state, in_state in days.items()
    ]
    return f"month not settled: {'; '.join(parts)}; use --provisional to export anyway"
