"""Billing export of a month: read from the lake, compared with the previous revision, written once.

`controls.json` is written last; a revision without it does not count. A revision is a function of the tables, the
settings and the previous revision, not of the clock. An export without changes makes no new revision.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.billing import corrections, focus, line_items
from pipeline.billing.csv_files import csv_bytes
from pipeline.billing.line_items import ITEMS, LINES, MEASURES
from pipeline.billing.month import RECORD_REACH_DAYS, BillingMonth
from pipeline.billing.month_reader import _BATCH_ROWS, _ITEMS_PARQUET, _PARQUET, MonthTotals, _batches, read_month
from pipeline.billing.pricing import prices_differ, prices_in_month, rate
from pipeline.billing.readiness import TABLES_READ, unsettled_days, unsettled_text
from pipeline.billing.suspense import SuspenseTotal, read_suspense, suspense_text, suspense_totals
from pipeline.core.context import App, chosen_projects
from pipeline.core.errors import ConfigError, FixityError, ObjectDiffers, PipelineError, StoreUnavailable
from pipeline.core.models import RunResult
from pipeline.core.settings.prices import AMOUNTS
from pipeline.core.settings.sections import BillingCsv
from pipeline.core.tempfiles import disk_errors, temp_folder
from pipeline.storage.base import READ_BYTES, Checksums, ObjectStore, read_bytes
from pipeline.storage.keys import billing_key, billing_prefix, parse_billing_key
from pipeline.tables import parquet
from pipeline.tables.build import builder_for
from pipeline.tables.normalize.arrow_ops import mask

CONTROLS, ITEMS_FILE, USAGE = "controls.json", "items.parquet", "usage.parquet"
PRICES = "prices"
"""Key of the prices in the settings of `controls.json`; missing when nothing has a price."""


class WrittenFile(msgspec.Struct):
    """One file of a revision."""

    size_bytes: int
    sha256: str


class ControlTotals(msgspec.Struct, kw_only=True):
    """`controls.json`: the inputs and sums of an export; times and decimals as text.

    `suspense`: open records by project and reasons; `accepts_suspense`: exported in spite of them.
    `compared_revision`: the revision that `corrections.csv` starts from; controls of earlier releases have none.
    """

    format: int = 1
    month: str
    projects: list[str]
    revision: int
    previous_revision: int | None
    compared_revision: int | None = None
    is_provisional: bool
    unsettled: dict[str, dict[str, list[date]]]
    settings: dict[str, Any]
    suspense: dict[str, dict[str, SuspenseTotal]] = {}
    accepts_suspense: bool = False
    known_until: dict[str, datetime | None]
    stage_totals: dict[str, dict[str, dict[str, Any]]] = msgspec.field(name="hops")
    corrections: dict[str, int]
    inputs: dict[str, dict[str, str]]
    files: dict[str, WrittenFile]


_CONTROLS = msgspec.json.Decoder(ControlTotals)


@dataclass(frozen=True)
class ExportSeries:
    """The revisions of a month, of all projects or of one."""

    lake: ObjectStore
    month: BillingMonth
    project: str = ""

    def key(self, revision: int, name: str) -> str:
        return billing_key(self.month.first, revision, name, self.project)

    def last(self) -> ControlTotals | None:
        """The newest complete revision."""
        names = (
            parse_billing_key(stored.key) for stored in self.lake.list(billing_prefix(self.month.first, self.project))
        )
        complete = [name.revision for name in names if name and name.name == CONTROLS]
        if not complete:
            return None
        return self.controls(max(complete))

    def controls(self, revision: int) -> ControlTotals:
        key = self.key(revision, CONTROLS)
        try:
            return _CONTROLS.decode(read_bytes(self.lake, key))
        except msgspec.DecodeError as error:
            raise FixityError(key, "the controls of a billing export", f"something else ({error})") from None

    def history(self, newest: ControlTotals | None) -> Iterator[ControlTotals]:
        """A revision and those before it, newest first."""
        while newest is not None:
            yield newest
            earlier = newest.previous_revision
            newest = None if earlier is None else self.controls(earlier)

    def compared(self, previous: ControlTotals | None) -> ControlTotals | None:
        """The revision that the one after `previous` is compared with: the last final one, because it was invoiced,
        else `previous`.
        """
        return next((each for each in self.history(previous) if not each.is_provisional), previous)

    def lines(self, revision: int) -> pa.Table:
        """The exported lines of a revision."""
        with self.lake.open(self.key(revision, USAGE)) as stream:
            return line_items.with_all_measures(pq.read_table(stream))

    def items(self, revision: int) -> Iterator[pa.Table]:
        """The items of a revision, in batches of about 262,144 rows."""
        with self.lake.open(self.key(revision, ITEMS_FILE)) as stream:
            for items in _batches(stream):
                yield line_items.with_all_measures(items).select(ITEMS.names)


@dataclass(frozen=True)
class Export:
    """Result of an export; `is_new` if it made a revision."""

    controls: ControlTotals
    is_new: bool


def export_month(
    app: App,
    month: BillingMonth,
    projects: list[str],
    unsettled: dict[str, dict[str, list[date]]],
    *,
    series: str = "",
    suspense: dict[str, dict[str, SuspenseTotal]] | None = None,
    accepts_suspense: bool = False,
) -> Export:
    """Export a month of these projects as a new revision, unless it equals the last revision.

    It is provisional if days are not settled, or if open records in suspense were not accepted.

    Memory: 262,144 connections, the lines of the month, and the items of changed lines.

    Raises:
        StoreUnavailable: a table was built again while it was read.
        PipelineError: the stage totals differ; nothing was written.
    """
    numbered = ExportSeries(app.lake, month, series)
    previous = numbered.last()
    inputs = {project: _inputs(app.lake, project, month) for project in projects}
    settings = _settings(app, projects, month)
    is_provisional = bool(unsettled) or (bool(suspense) and not accepts_suspense)
    is_same = previous and (previous.inputs, previous.settings, previous.unsettled) == (inputs, settings, unsettled)
    if previous and is_same and (is_provisional or not previous.is_provisional):
        return Export(previous, is_new=False)
    with temp_folder() as folder:
        months = [read_month(app, folder, project, month) for project in projects]
        if inputs != {project: _inputs(app.lake, project, month) for project in projects}:
            raise StoreUnavailable("tables were built again while the export read them; run again")
        lines = line_items.aggregate_lines(pa.concat_tables([LINES.empty_table(), *(each.lines for each in months)]))
        if PRICES in settings:
            lines = rate(lines, app.settings.billing.prices, month)
        usage = line_items.with_provisional_flag(lines, is_provisional=is_provisional)
        if previous and usage.equals(numbered.lines(previous.revision)):
            return Export(previous, is_new=False)
        owners = line_items.summary(lines)
        compared = numbered.compared(previous)
        corrected = _corrections(numbered, compared, lines, [each.path for each in months], settings)
        controls = ControlTotals(
            month=str(month),
            projects=projects,
            revision=previous.revision + 1 if previous else 1,
            previous_revision=previous.revision if previous else None,
            compared_revision=compared.revision if compared else None,
            is_provisional=is_provisional,
            unsettled=unsettled,
            suspense=suspense or {},
            accepts_suspense=accepts_suspense,
            settings=settings,
            known_until={each.project: each.known_until for each in months},
            stage_totals={each.project: _stage_totals(each, lines, owners) for each in months},
            corrections={cause["values"]: cause["counts"] for cause in corrected["cause"].value_counts().to_pylist()},
            inputs=inputs,
            files={},
        )
        _require_balance(controls)
        flag = partial(line_items.with_provisional_flag, is_provisional=is_provisional)
        for_people = {"usage": usage, "summary": flag(owners), "corrections": flag(corrected)}

        def csv(rows: pa.Table) -> Iterator[bytes]:
            yield csv_bytes(rows, app.settings.billing.csv)

        contents: dict[str, Callable[[], Iterator[bytes]]] = {
            USAGE: lambda: iter([_parquet(usage)]),
            **{f"{name}.csv": partial(csv, rows) for name, rows in for_people.items()},
            ITEMS_FILE: lambda: _merged(folder, [each.path for each in months]),
        }
        return Export(_write(numbered, controls, contents), is_new=True)


def write_focus(numbered: ExportSeries, controls: ControlTotals, form: BillingCsv) -> dict[str, int]:
    """Write a revision also as FOCUS, in Parquet and CSV; returns the number of rows: `usage` and `corrections`.

    Source: the usage of every final revision with amounts, and of this one. Other provisional revisions, and revisions
    without amounts, were not invoiced: they neither end nor change the history. A file that exists stays as it is.
    """
    invoiced = [each.revision for each in numbered.history(controls) if not each.is_provisional]
    usage = [(each, numbered.lines(each)) for each in sorted({*invoiced, controls.revision})]
    revisions = [(each, lines) for each, lines in usage if "amount" in lines.schema.names]
    rows = focus.focus_rows(revisions, numbered.month, is_provisional=controls.is_provisional)
    contents = {"focus.parquet": _parquet(rows), "focus.csv": csv_bytes(focus.as_text(rows), form)}
    for name, content in contents.items():
        if numbered.lake.head(key := numbered.key(controls.revision, name)) is None:
            numbered.lake.put_if_absent(key, [content])
    charges = rows["ChargeClass"].null_count
    return {"usage": charges, "corrections": rows.num_rows - charges}


@dataclass(frozen=True)
class ExportSummary:
    """A revision as the outcome contains it.

    `unsettled`: days by project and state; `path`: folder in the lake; `corrections`: number by cause; `projects`: sums
    of the lines; `focus`: rows by class, with `--format focus`.
    """

    month: str
    revision: int
    is_new: bool
    is_provisional: bool
    unsettled: dict[str, dict[str, list[date]]]
    suspense: dict[str, dict[str, SuspenseTotal]]
    path: str
    corrections: dict[str, int]
    projects: dict[str, dict[str, Any]]
    focus: dict[str, int] | None = None


def export_summary(export: Export, series: str, focus: dict[str, int] | None) -> ExportSummary:
    controls = export.controls
    return ExportSummary(
        month=controls.month,
        revision=controls.revision,
        is_new=export.is_new,
        is_provisional=controls.is_provisional,
        unsettled=controls.unsettled,
        suspense=controls.suspense,
        path=billing_key(date.fromisoformat(f"{controls.month}-01"), controls.revision, "", series),
        corrections=controls.corrections,
        projects={project: totals["lines"] for project, totals in controls.stage_totals.items()},
        focus=focus,
    )


# --- reading a month ----------------------------------------------------------------------------------------------


def _inputs(lake: ObjectStore, project: str, month: BillingMonth) -> dict[str, str]:
    """SHA-256 of every partition that the export reads, from the build records."""
    media = [day for day in parquet.list_partitions(lake, "media", project) if day <= month.ends_at.date()]
    near = {day + timedelta(days=away) for day in media for away in range(-RECORD_REACH_DAYS, RECORD_REACH_DAYS + 1)}
    digests: dict[str, str] = {}
    for day in sorted(near.union(month.partition_days)):
        tables = TABLES_READ if day in month.partition_days else ("sessions", "media")
        built = parquet.read_build_record(lake, project, day).tables
        digests |= {f"{name}/{day}": built[name].sha256 for name in tables if name in built}
    return digests


def _settings(app: App, projects: list[str], month: BillingMonth) -> dict[str, Any]:
    """The settings that affect an export, and the prices in force in the month, if there are any."""
    settings: dict[str, Any] = app.settings.billing.model_dump(mode="json", exclude={PRICES, "csv", "sweep"})
    prices = prices_in_month(app.settings.billing.prices, projects, month)
    lookback_days = app.settings.collect.lookback_days
    return {**settings, "lookback_days": lookback_days, **({PRICES: prices} if prices else {})}


# --- comparing and writing ----------------------------------------------------------------------------------------


def _corrections(
    numbered: ExportSeries, compared: ControlTotals | None, lines: pa.Table, now: list[Path], settings: dict[str, Any]
) -> pa.Table:
    """Signed differences from the compared revision, by item and of amounts; empty for the first revision."""
    if compared is None:
        return corrections.with_amounts(corrections.CORRECTIONS.empty_table(), lines, lines, ())
    lines_before = numbered.lines(compared.revision)
    differing = line_items.key_text(corrections.line_differences(lines_before, lines))
    before = [_of_lines(items, differing) for items in numbered.items(compared.revision)]
    after = []
    for path in now:
        with path.open("rb") as stream:
            after += [_of_lines(items, differing) for items in _batches(stream, ITEMS.names)]
    empty = ITEMS.empty_table()
    corrected = corrections.item_corrections(
        pa.concat_tables([empty, *before]), pa.concat_tables([empty, *after]), compared.known_until
    )
    repriced = prices_differ(compared.settings.get(PRICES, {}), settings.get(PRICES, {}))
    return corrections.with_amounts(corrected, lines_before, lines, repriced)


def _of_lines(items: pa.Table, keys: pa.Array) -> pa.Table:
    return items.filter(mask(pc.is_in(line_items.key_text(items).combine_chunks(), keys.combine_chunks())))


def _stage_totals(read: MonthTotals, lines: pa.Table, owners: pa.Table) -> dict[str, dict[str, Any]]:
    """Sums at every stage, from the raw responses to the billed lines."""
    billed = [rows.filter(pc.equal(rows["project"], read.project)) for rows in (lines, owners)]
    cdr_s = Decimal(read.cdr_ms).scaleb(-3)
    return {
        "collected": read.collected,
        "rejects": {"rows": read.rejects},
        "cdr": {"rows": read.cdr_rows, "participant_s": cdr_s},
        "other_months": {
            "rows": read.cdr_rows - read.items["connections"],
            "participant_s": cdr_s - read.items["participant_s"],
        },
        "items": read.items,
        **{
            name: {"rows": rows.num_rows, **line_items.totals(rows, (*MEASURES, *AMOUNTS))}
            for name, rows in zip(("lines", "summary"), billed, strict=True)
        },
    }


def _require_balance(controls: ControlTotals) -> None:
    for project, totals in controls.stage_totals.items():
        sums = [{name: totals[stage][name] for name in MEASURES} for stage in ("items", "lines", "summary")]
        amounts = [{name: totals[stage].get(name) for name in AMOUNTS} for stage in ("lines", "summary")]
        if any(stage != sums[0] for stage in sums) or amounts[0] != amounts[1]:
            raise PipelineError(
                f"{project} {controls.month}: the sums of items, lines and summary differ; nothing was exported;"
                " report this as a bug"
            )


def _write(
    numbered: ExportSeries, controls: ControlTotals, contents: dict[str, Callable[[], Iterator[bytes]]]
) -> ControlTotals:
    """Write a revision, `controls.json` last. A number under which an interrupted export left other bytes is skipped.

    Raises StoreUnavailable if another process has written this revision.
    """
    while True:
        try:
            for name, content in contents.items():
                checksums = Checksums()
                chunks = _with_checksums(content(), checksums)
                numbered.lake.put_if_absent(numbered.key(controls.revision, name), chunks)
                controls.files[name] = WrittenFile(checksums.size_bytes, checksums.sha256)
            encoded = msgspec.json.encode(controls, enc_hook=str)
            numbered.lake.put_if_absent(
                numbered.key(controls.revision, CONTROLS), msgspec.json.format(encoded, indent=1)
            )
        except ObjectDiffers as error:
            if numbered.lake.head(numbered.key(controls.revision, CONTROLS)) is not None:
                raise StoreUnavailable(
                    f"another export wrote revision {controls.revision} of {controls.month} meanwhile; run again",
                    key=error.key,
                ) from None
            controls.revision += 1
        else:
            return controls


def _with_checksums(chunks: Iterator[bytes], checksums: Checksums) -> Iterator[bytes]:
    for chunk in chunks:
        checksums.feed(chunk)
        yield chunk


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, **_PARQUET)
    return sink.getvalue()


def _merged(folder: Path, paths: list[Path]) -> Iterator[bytes]:
    """The items of all projects in one file; with one project, its own file."""
    path = paths[0] if len(paths) == 1 else folder / ITEMS_FILE
    if not path.exists():
        with pq.ParquetWriter(path, ITEMS, **_ITEMS_PARQUET) as writer:
            for part in paths:
                with part.open("rb") as stream:
                    for items in _batches(stream, ITEMS.names):
                        writer.write_table(items, row_group_size=_BATCH_ROWS)
    with disk_errors(), path.open("rb") as stream:
        while chunk := stream.read(READ_BYTES):
            yield chunk


def export_billing(
    app: App,
    month: BillingMonth,
    *,
    project: str | None = None,
    provisional: bool = False,
    accept_suspense: bool = False,
    focus: bool = False,
) -> RunResult[ExportSummary | None]:
    """Export a month as the next revision, unless nothing changed; a month that is not settled only if `provisional`.

    With open records in suspense, a month is exported only if `provisional` or `accept_suspense`.

    With `focus` the revision is also written as FOCUS, which needs prices (ConfigError without).
    """
    outcome = RunResult[ExportSummary | None]("billing export")
    names = chosen_projects(app.settings, project)
    if focus and not prices_in_month(app.settings.billing.prices, names, month):
        raise ConfigError(
            f"--format focus: FOCUS contains costs, but {month} has no prices; set [billing.prices] with a currency and"
            ' a price, such as currency = "USD" and participant_min = "0.004" (docs/guide/billing.md)'
        )
    by_project = {name: unsettled_days(app, builder_for(app), name, month) for name in names}
    unsettled = {name: days for name, days in by_project.items() if days}
    if unsettled and not provisional:
        for name, days in unsettled.items():
            outcome.add_failure(f"{name} {month}", unsettled_text(days, month))
        return outcome
    totals = {name: suspense_totals(read_suspense(app.lake, name, month)) for name in names}
    suspense = {name: by_reason for name, by_reason in totals.items() if by_reason}
    if suspense and not provisional and not accept_suspense:
        for name, by_reason in suspense.items():
            outcome.add_failure(f"{name} {month}", suspense_text(by_reason, month))
        return outcome
    accepts = bool(suspense) and accept_suspense
    export = export_month(
        app, month, names, unsettled, series=project or "", suspense=suspense, accepts_suspense=accepts
    )
    outcome.add_success(1, revisions=int(export.is_new))
    written = (
        write_focus(ExportSeries(app.lake, month, project or ""), export.controls, app.settings.billing.csv)
        if focus
        else None
    )
    outcome.details = export_summary(export, project or "", written)
    return outcome
