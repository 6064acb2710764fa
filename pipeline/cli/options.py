"""Shared by all commands: the root Typer app, global options, and parsing of days, periods and choices."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import __version__
from pipeline.core.errors import ConfigError
from pipeline.core.models import Details_co, Period, RunResult

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.billing.month import BillingMonth
    from pipeline.core.context import App
    from pipeline.core.progress import Progress
    from pipeline.core.settings.load import Loaded


cli = typer.Typer(
    name="postroom",
    help="Collect EnableX call records and recordings; archive, report and bill from them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class Options:
    """Global options."""

    config: Path | None
    now: datetime | None
    as_json: bool
    verbose: bool


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"postroom {__version__}")
        raise typer.Exit


@cli.callback(epilog="Example: postroom demo")
def options(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; default: POSTROOM_CONFIG, then config/default.toml.")
    ] = None,
    now: Annotated[
        str | None, typer.Option(help="Use this time as the current time, e.g. 2026-11-23T02:15:00Z.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
    verbose: Annotated[bool, typer.Option(help="Log every step; show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Options(config, parse_moment(now), as_json, verbose)


From = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")]
To = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last UTC day, inclusive; default: today.")]
ProjectName = Annotated[str | None, typer.Option("--project", metavar="NAME", help="Only this project.")]
RowsForm = Annotated[
    str | None, typer.Option("--format", help="table, csv, json or parquet; default: the extension of --output.")
]


def output_format(form: str | None, output: Path | None, *, as_json: bool) -> str:
    """The output format of a query: `--format`, else the extension of the output file."""
    from pipeline.cli.output import FORMS

    if as_json and not output:
        allowed: tuple[str, ...] = ("json",)
    elif output:
        allowed = tuple(FORMS)
        form = form or output.suffix.removeprefix(".")
    else:
        allowed = ("table", *FORMS)
        if form == "parquet":
            raise ConfigError("--format parquet: requires --output FILE")
    chosen: str = parse_choice("--format", form or allowed[0], allowed)[0]
    return chosen


def run_flow(
    ctx: typer.Context,
    command: str,
    flow: Callable[[App], RunResult[Details_co]],
    show: Callable[[Console, RunResult[Details_co]], None] | None = None,
    *,
    project: str | None = None,
) -> int:
    """Open the app, run a flow for one or all projects, record the run, print the result; returns the exit code."""
    from jobs.run import record_run
    from pipeline.cli import render

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        only = [project] if project in app.settings.projects else None
        outcome = record_run(app, command, flow, is_unattended=not sys.stderr.isatty(), projects=only)
    if given.as_json:
        print_json(outcome.to_dict())
    else:
        (show or render.show_outcome)(render.console_for(), outcome)
    return outcome.exit_code


def load_options_settings(given: Options) -> Loaded:
    from jobs.runtime import load_settings

    return load_settings(given.config, os.environ)


@contextmanager
def open_run(given: Options, loaded: Loaded) -> Iterator[App]:
    from jobs.runtime import open_app
    from pipeline.core.tracing import export_spans

    configure_logging(given, secrets=tuple(loaded.settings.secrets()))
    with open_app(loaded.settings, now=given.now, progress=choose_progress(given)) as app, export_spans(app.redact):
        yield app


def configure_logging(given: Options, *, secrets: tuple[str, ...] = (), quiet: bool = False) -> None:
    from pipeline.core.log import set_up_logging

    level = logging.DEBUG if given.verbose else logging.ERROR if quiet else logging.WARNING
    set_up_logging(level=level, secrets=secrets)


def choose_progress(given: Options) -> Progress:
    from pipeline.cli import render
    from pipeline.core.progress import Bars, Lines, Silent

    if given.as_json:
        return Silent()
    return Bars(render.console_for(sys.stderr)) if sys.stderr.isatty() else Lines()


def print_json(outcome: Any) -> None:
    import msgspec

    encoded = msgspec.json.encode(outcome, enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def parse_choice(option: str, chosen: str | None, allowed: tuple[Any, ...]) -> tuple[Any, ...]:
    if chosen is not None and chosen not in allowed:
        raise ConfigError(f"{option} {chosen}: unknown; use one of {', '.join(allowed)}")
    return allowed if chosen is None else (chosen,)


def optional_period(from_: str | None, to: str | None, app: App) -> Period | None:
    if from_ is None:
        if to is not None:
            raise ConfigError("--to requires --from")
        return None
    return required_period(from_, to, app)


def required_period(from_: str, to: str | None, app: App) -> Period:
    first = parse_day("--from", from_)
    last = parse_day("--to", to) if to else max(first, app.clock().date())
    try:
        return Period(first, last)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def parse_day(option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise ConfigError(f"{option} {text}: not a date; use the form 2026-11-22") from None


def parse_month(app: App, text: str) -> BillingMonth:
    """A month `YYYY-MM` in `billing.time_zone`."""
    from pipeline.billing.month import billing_month

    try:
        return billing_month(text, app.settings.billing.time_zone)
    except ValueError as error:
        raise ConfigError(f"--month {error}") from None


def parse_moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--now {text}: not a time; use the form 2026-11-22T02:15:00Z") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
