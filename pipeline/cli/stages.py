"""Commands that run a stage or a whole run: collect, build, nightly, backfill, schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import (
    From,
    Options,
    ProjectName,
    To,
    cli,
    load_options_settings,
    optional_period,
    parse_choice,
    required_period,
    run_flow,
)
from pipeline.core.errors import ConfigError
from pipeline.core.models import SOURCES


@cli.command(
    short_help="API to raw.", epilog="Example: postroom collect --from 2026-11-20 --to 2026-11-22 --project acme"
)
def collect(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    project: ProjectName = None,
    source: Annotated[str | None, typer.Option(help=f"Only this source: {' or '.join(SOURCES)}.")] = None,
) -> int:
    """API to raw: ask for each day (by default lookback and today) and land every reply as received."""
    from pipeline.ingest.collect import collect as collect_flow

    sources = parse_choice("--source", source, SOURCES)
    return run_flow(
        ctx,
        "collect",
        lambda app: collect_flow(app, optional_period(from_, to, app), project=project, sources=sources),
        project=project,
    )


@cli.command(
    short_help="Raw to tables.", epilog="Example: postroom build --from 2026-11-01 --to 2026-11-30 --table usage_daily"
)
def build(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    table: Annotated[str | None, typer.Option(help="Only this table; another word names them all.")] = None,
    project: ProjectName = None,
) -> int:
    """Raw to tables: rebuild every day whose inputs changed (by default of all that was ever landed)."""
    from pipeline.tables.build import build as build_flow
    from pipeline.tables.schemas import TABLES

    wanted = parse_choice("--table", table, tuple(TABLES))
    return run_flow(
        ctx,
        "build",
        lambda app: build_flow(app, optional_period(from_, to, app), wanted=wanted, project=project),
        project=project,
    )


@cli.command(short_help="What a cron runs: all of it.", epilog="Example: postroom --json nightly")
def nightly(ctx: typer.Context) -> int:
    """All of it, as a cron runs it: collect what is missing or may change, build, copy media, build again."""
    from jobs.nightly import nightly as nightly_flow

    return run_flow(ctx, "nightly", nightly_flow)


@cli.command(
    short_help="Months or years, with a plan first.", epilog="Example: postroom backfill --from 2024-01-01 --dry-run"
)
def backfill(
    ctx: typer.Context,
    from_: Annotated[str, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")],
    to: To = None,
    project: ProjectName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing and what it will take.")] = False,
) -> int:
    """Months or years: collect every day that is missing, at the usual pace, and build; run it again to go on."""
    from jobs.backfill import backfill as backfill_flow
    from jobs.backfill import plan_backfill as plan_backfill_flow
    from pipeline.cli import render

    if dry_run:
        return run_flow(
            ctx,
            "backfill plan",
            lambda app: plan_backfill_flow(app, required_period(from_, to, app), project=project),
            render.show_backfill_plan,
            project=project,
        )
    return run_flow(
        ctx,
        "backfill",
        lambda app: backfill_flow(app, required_period(from_, to, app), project=project),
        project=project,
    )


@cli.command(
    short_help="Do all of it by itself, until stopped.",
    epilog="Example: postroom --config /etc/postroom.toml schedule",
)
def schedule(ctx: typer.Context) -> int:
    """The scheduler, until SIGTERM or Ctrl-C: jobs as [schedule] of the settings says, what is overdue at once.

    The same as `python -m jobs`. Several schedulers may share a ledger on PostgreSQL: no job runs twice.
    """
    given: Options = ctx.obj
    if given.now or given.as_json:
        raise ConfigError("schedule goes by the clock and has no outcome: leave --now and --json out")
    from jobs.scheduler import run_scheduler

    return run_scheduler(load_options_settings(given).settings)
