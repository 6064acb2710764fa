"""Tables of one build must agree: each connection is in one session and in one row of usage (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import PipelineError

_MOST_NAMED = 3


class Balance:
    """Connections and whole minutes of each day, by table."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[date, tuple[int, Decimal]]] = defaultdict(dict)

    def add(self, table: str, day: date, rows: pa.Table) -> None:
        """Add rows of `cdr` or `usage_daily` of a day; other tables are ignored."""
        if table in {"cdr", "usage_daily"}:
            connections = rows.num_rows if table == "cdr" else pc.sum(rows["connections"], min_count=0).as_py()
            minutes = pc.sum(rows["participant_min"], min_count=0).as_py()
            before = self._sums[table].get(day, (0, Decimal(0)))
            self._sums[table][day] = (before[0] + connections, before[1] + minutes)

    def require(self, project: str) -> None:
        """Raises PipelineError if the tables of a day disagree; it names the day and the sums."""
        for day, counted in self._sums["cdr"].items():
            used = self._sums["usage_daily"].get(day)
            if used not in {None, counted}:
                raise _broken(project, f"{day}: cdr has {_text(counted)}, usage_daily {_text(used)}")


def require_whole_sessions(project: str, connections: pa.Table, sessions: pa.Table) -> None:
    """Raises PipelineError if sessions have other connections or minutes than these; it names some `conf_num`."""
    columns = ("connections", "participant_min")
    if _totals(sessions, columns) == (connections.num_rows, *_totals(connections, columns[1:])):
        return
    mine = connections.group_by("conf_num").aggregate([("cdr_id", "count"), ("participant_min", "sum")])
    theirs = sessions.group_by("conf_num").aggregate([("connections", "sum"), ("participant_min", "sum")])
    sums = [
        {name: (count, minutes or 0) for name, count, minutes in zip(*table.to_pydict().values(), strict=True)}
        for table in (mine, theirs)
    ]
    names = sorted(name for name in {*sums[0], *sums[1]} if sums[0].get(name) != sums[1].get(name))
    raise _broken(project, f"sessions differ from cdr for conf_num {', '.join(names[:_MOST_NAMED])}")


def _totals(rows: pa.Table, columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(pc.sum(rows[name], min_count=0).as_py() for name in columns)


def _text(sums: tuple[int, Decimal] | None) -> str:
    return f"{sums[0]:,} connections and {sums[1]:,} minutes" if sums else "none"


def _broken(project: str, what: str) -> PipelineError:
    return PipelineError(f"{project}: {what}; the tables were not written; report this as a bug")
