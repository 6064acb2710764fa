"""A night: collect what is missing or may still change, build, copy media, build what that changed."""

from __future__ import annotations

from pipeline.core.context import App, chosen_projects
from pipeline.core.models import Outcome, Period
from pipeline.ingest.backfill import nightly_asks
from pipeline.ingest.collect import collect_tasks
from pipeline.media.copy import copy_media, older_waiting
from pipeline.tables.build import AFFECTED_DAYS, build


def nightly(app: App) -> Outcome:
    """What a cron runs: collect what is missing or may still change, build, copy media, build what that changed."""
    outcome = Outcome("nightly")
    asks = [ask for name in chosen_projects(app.settings, None) for ask in nightly_asks(app, name)]
    outcome.absorb(collect_tasks(app, sorted(asks, key=lambda ask: (ask.day, ask.project, ask.source))))
    collected = Period(min(ask.day for ask in asks), max(ask.day for ask in asks)).widened(AFFECTED_DAYS)
    older = {period for name in app.settings.projects for period in older_waiting(app, name)}
    outcome.absorb(build(app, collected))
    outcome.absorb(copy_media(app, fresh=False))
    for period in (collected, *sorted(older)):
        outcome.absorb(build(app, period))
    return outcome
