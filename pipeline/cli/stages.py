"""Commands that run a stage or a whole run: collect, build, nightly, backfill, schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import (
    From,
    Options,
    ProjectName,
    To,
    load_options_settings,
    optional_period,
    parse_choice,
    required_period,
    run_flow,
)
from pipeline.core.errors import ConfigError
from pipeline.core.models import SOURCES

stages_cli = typer.Typer()


@stages_cli.command(
    short_help="Collect call records, archive listings and rooms.",
    epilog="Example: postroom collect --from 2026-11-20 --to 2026-11-22 --project acme",
)
def collect(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    project: ProjectName = None,
    source: Annotated[str | None, typer.Option(help=f"Only this source: {' or '.join(SOURCES)}.")] = None,
) -> int:
    """Request each day (default: lookback and today) and store every response as received."""
    from pipeline.ingest.collect import collect as collect_flow

    sources = parse_choice("--source", source, SOURCES)
    return run_flow(
        ctx,
        "collect",
        lambda app: collect_flow(app, optional_period(from_, to, app), project=project, sources=sources),
        project=project,
    )


@stages_cli.command(
    short_help="Build tables from raw responses.",
    epilog="Example: postroom build --from 2026-11-01 --to 2026-11-30 --table usage_daily",
)
def build(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
    project: ProjectName = None,
) -> int:
    """Build every day whose inputs changed (default: all days that were ever collected)."""
    from pipeline.tables.build import build as build_flow
    from pipeline.tables.schemas import TABLES

    tables = parse_choice("--table", table, tuple(TABLES))
    return run_flow(
        ctx,
        "build",
        lambda app: build_flow(app, optional_period(from_, to, app), wanted=tables, project=project),
        project=project,
    )


@stages_cli.command(
    short_help="Collect, build and copy everything that is due.", epilog="Example: postroom --json nightly"
)
def nightly(ctx: typer.Context) -> int:
    """Collect missing and provisional days, build, copy media, and rebuild the days that the copies changed.

    Once after each month, every day of the month is collected again (see `billing sweep`).
    """
    from jobs.nightly import nightly as nightly_flow

    return run_flow(ctx, "nightly", nightly_flow)


@stages_cli.command(
    short_help="Collect and build months or years.", epilog="Example: postroom backfill --from 2024-01-01 --dry-run"
)
def backfill(
    ctx: typer.Context,
    from_: Annotated[str, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")],
    to: To = None,
    project: ProjectName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print missing days and the estimated cost; send no request.")
    ] = False,
) -> int:
    """Collect every missing day of a period within the rate limit, and build it. Run it again to resume."""
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


@stages_cli.command(
    short_help="Run the scheduler until stopped.",
    epilog="Example: postroom --config /etc/postroom.toml schedule",
)
def schedule(ctx: typer.Context) -> int:
    """Run every job of [schedule] when it is due, and overdue jobs immediately, until SIGTERM or Ctrl-C.

    Same as `python -m jobs`. Several schedulers can share a run store on PostgreSQL; each job runs on one of them.
    """
    given: Options = ctx.obj
    if given.now or given.as_json:
        raise ConfigError("schedule does not support --now or --json")
    from jobs.scheduler import run_scheduler

    return run_scheduler(load_options_settings(given).settings)
