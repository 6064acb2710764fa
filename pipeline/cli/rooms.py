"""`postroom rooms …`: rooms one by one, and rooms as a file. Secrets are shown only when asked for.

The same conventions as every command: arguments, flow, printed outcome, exit code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import Options, ProjectName, load_options_settings, open_run, print_json, run_flow
from pipeline.core.errors import ConfigError
from pipeline.core.models import RunResult
from pipeline.enablex.rooms import ROLES, dialin_request, token_request, told_token, told_users, users_request

if TYPE_CHECKING:
    from pipeline.core.context import App

rooms_cli = typer.Typer(
    name="rooms",
    help="Rooms: list, make, change and delete them one by one, or keep them as a file says.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Flow = Callable[["App"], RunResult]
Tell = Callable[[Console, RunResult], None]

RoomId = Annotated[str, typer.Argument(metavar="ROOM_ID", help="The room's id; `postroom rooms list` names them.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field of the room, e.g. auto_recording=true; repeatable."),
]
Data = Annotated[str | None, typer.Option("--data", metavar="JSON", help="A JSON object of your own.")]
File = Annotated[Path | None, typer.Option("--file", help="Rooms file; else rooms.file of the settings.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete rooms that this file made and names no longer.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Delete and make anew rooms whose mode or type is wanted otherwise.")
]
ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Show PINs, passwords and keys as they are.")]


# --- one by one ---


@rooms_cli.command("list", short_help="Every room there is.", epilog="Example: postroom rooms list --project acme")
def list_(ctx: typer.Context, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """Every room of every project, as EnableX tells it now."""
    from pipeline.rooms.apply import list_all_rooms

    def flow(app: App) -> RunResult:
        outcome = RunResult("rooms list")
        listed = list_all_rooms(app, outcome, project)
        outcome.details["rooms"] = [
            {"project": name, **_shown(room, show_secrets)} for name, found in listed.items() for room in found
        ]
        outcome.add_success(len(listed), rooms=len(outcome.details["rooms"]))
        return outcome

    return _read(ctx, flow, lambda console, outcome: _show_rooms(console, outcome.details["rooms"]))


@rooms_cli.command("show", short_help="One room.", epilog="Example: postroom rooms show 65ec60000c3a9e0012ab0001")
def show_(ctx: typer.Context, room_id: RoomId, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """One room with every field; dial-in PINs and stream addresses masked."""
    from pipeline.rooms.apply import find_room

    def flow(app: App) -> RunResult:
        name, room = find_room(app, room_id, project)
        return _told(RunResult("rooms show"), name, _shown(room, show_secrets))

    return _read(ctx, flow, _show_room)


@rooms_cli.command(
    short_help="Make a room.",
    epilog='Example: postroom rooms create --name "Front desk" --owner-ref tenant-42 --participants 10',
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="The room's name.")],
    owner_ref: Annotated[str, typer.Option("--owner-ref", help="Your tenant.")],
    participants: Annotated[str, typer.Option("--participants", help="Most participants; 0 for no limit.")],
    fields: Set = None,
    data: Data = None,
    project: ProjectName = None,
) -> int:
    """Make one room. A lost reply does not make a second one. Times with any zone: 2026-12-01T14:00:00+01:00."""
    from pipeline.rooms.apply import create_single
    from pipeline.rooms.plan import Room

    given = {"name": name, "owner_ref": owner_ref, "participants": participants, **_fields(fields, data)}

    def flow(app: App) -> RunResult:
        chosen = _one_project(app, project)
        room = create_single(app, chosen, Room(**_nested(given)))
        outcome = _told(RunResult("rooms create"), chosen, _shown(room, show_secrets=False))
        outcome.counts.update(created=1)
        return outcome

    return run_flow(ctx, "rooms create", flow, _show_room, project=project)


@rooms_cli.command(
    short_help="Change a room.",
    epilog="Example: postroom rooms update 65ec60000c3a9e0012ab0001 --set participants=15 --set billing_code=CC-7781",
)
def update(
    ctx: typer.Context, room_id: RoomId, fields: Set = None, data: Data = None, project: ProjectName = None
) -> int:
    """Change fields of one room, from its next session on. Mode and type cannot be changed."""
    from pipeline.rooms.apply import find_room, update_single

    given = _fields(fields, data)
    if not given:
        raise ConfigError("nothing to change; name fields with --set FIELD=VALUE")

    def flow(app: App) -> RunResult:
        name, room = find_room(app, room_id, project)
        outcome = _told(
            RunResult("rooms update"),
            name,
            _shown(update_single(app, name, room, given), show_secrets=False),
        )
        outcome.counts.update(updated=1)
        return outcome

    return run_flow(ctx, "rooms update", flow, _show_room, project=project)


@rooms_cli.command(short_help="Delete rooms.", epilog="Example: postroom rooms delete 65ec60000c3a9e0012ab0001")
def delete(
    ctx: typer.Context,
    room_ids: Annotated[list[str], typer.Argument(metavar="ROOM_ID...", help="Ids of rooms.")],
    project: ProjectName = None,
) -> int:
    """Delete rooms. One that is gone already is a success; one with a running session is left, and named as failed."""
    from pipeline.rooms.apply import delete_rooms

    return run_flow(ctx, "rooms delete", lambda app: delete_rooms(app, room_ids, project=project), project=project)


@rooms_cli.command(short_help="Who is in a room now.", epilog="Example: postroom rooms users 65ec60000c3a9e0012ab0001")
def users(ctx: typer.Context, room_id: RoomId, project: ProjectName = None) -> int:
    """Who is in a room now; nobody when no session is running."""
    from pipeline.rooms.apply import find_room

    def flow(app: App) -> RunResult:
        name, _ = find_room(app, room_id, project)
        found = told_users(app.clients[name].call(users_request(room_id)))
        outcome = RunResult("rooms users", details={"project": name, "users": found})
        outcome.add_success(users=len(found))
        return outcome

    return _read(ctx, flow, _show_users)


@rooms_cli.command(
    short_help="One user's way in.",
    epilog="Example: postroom rooms token 65ec60000c3a9e0012ab0001 --name Ada --user-ref staff-7 --role moderator",
)
def token(
    ctx: typer.Context,
    room_id: RoomId,
    name: Annotated[str, typer.Option("--name", help="The user's name, as others see it.")],
    user_ref: Annotated[str, typer.Option("--user-ref", help="Your id of the user; CDRs have it as user.ref.")],
    role: Annotated[str, typer.Option("--role", help=f"{', '.join(ROLES)}.")] = "participant",
    data: Data = None,
    project: ProjectName = None,
) -> int:
    """Print a token for one entry within 15 minutes. It is printed here, and kept and logged nowhere."""
    from pipeline.rooms.apply import find_room

    request = token_request(room_id, name=name, role=role, user_ref=user_ref, data=_json_object(data))

    def flow(app: App) -> RunResult:
        chosen, _ = find_room(app, room_id, project)
        actual = told_token(app.clients[chosen].call(request))
        outcome = RunResult("rooms token", details={"project": chosen, "room_id": room_id, "token": actual})
        outcome.add_success(tokens=1)
        return outcome

    return _read(ctx, flow, lambda console, outcome: console.print(Text(outcome.details["token"]), soft_wrap=True))


@rooms_cli.command(short_help="Telephone numbers and SIP.", epilog="Example: postroom rooms dialin --project acme")
def dialin(ctx: typer.Context, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """Telephone numbers and the SIP account of every project; keys and passwords masked."""

    def flow(app: App) -> RunResult:
        from pipeline.core.context import chosen_projects

        outcome = RunResult("rooms dialin", details={"dialin": {}})
        for name in chosen_projects(app.settings, project):
            actual = app.clients[name].call(dialin_request())
            outcome.details["dialin"][name] = _shown(actual, show_secrets)
            outcome.add_success()
        return outcome

    return _read(ctx, flow, _show_dialin)


# --- as a file ---


@rooms_cli.command(
    short_help="What the rooms file asks for.", epilog="Example: postroom rooms plan --file config/rooms.toml --prune"
)
def plan(
    ctx: typer.Context, file: File = None, project: ProjectName = None, prune: Prune = False, replace: Replace = False
) -> int:
    """Compare the rooms file with the rooms there are: create, update, delete, unchanged; change nothing."""
    from pipeline.rooms.apply import plan_rooms

    return _read(ctx, lambda app: plan_rooms(app, file, project=project, prune=prune, replace=replace), _show_changes)


@rooms_cli.command(
    short_help="Make rooms as the file says.", epilog="Example: postroom --json rooms apply --file config/rooms.toml"
)
def apply(
    ctx: typer.Context, file: File = None, project: ProjectName = None, prune: Prune = False, replace: Replace = False
) -> int:
    """Make, change and (with --prune) delete rooms as the rooms file says. It may be interrupted, and run again."""
    from pipeline.rooms.apply import apply_rooms

    return run_flow(
        ctx,
        "rooms apply",
        lambda app: apply_rooms(app, file, project=project, prune=prune, replace=replace),
        project=project,
    )


@rooms_cli.command(short_help="Rooms worth a look.", epilog="Example: postroom rooms audit --unused-days 30")
def audit(
    ctx: typer.Context,
    file: File = None,
    project: ProjectName = None,
    unused_days: Annotated[int, typer.Option(min=1, help="A room without a session for so many days is unused.")] = 90,
) -> int:
    """Rooms with sessions but no owner or billing code, rooms nobody uses, and recording against the file's policy."""
    from pipeline.rooms.apply import audit_rooms

    return _read(ctx, lambda app: audit_rooms(app, file, project=project, unused_days=unused_days), _show_findings)


# --- arguments ---


def _fields(pairs: Iterable[str] | None, data: str | None) -> dict[str, Any]:
    """`--set` and `--data` as named fields."""
    from pipeline.rooms.fields import FIELDS, from_text, unknown

    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: write it as FIELD=VALUE")
        if name not in FIELDS:
            raise ConfigError(f"--set {name}: {unknown(name)}")
        found[name] = from_text(name, text)
    given = _json_object(data)
    return found if given is None else {**found, "data": given}


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--data: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError('--data: must be a JSON object such as {"custom_key": 1}')
    return found


def _nested(named: dict[str, Any]) -> dict[str, Any]:
    from pipeline.rooms.fields import nested

    data = named.get("data")
    found = nested({tuple(name.split(".")): value for name, value in named.items() if name != "data"})
    return found if data is None else {**found, "data": data}


def _one_project(app: App, project: str | None) -> str:
    from pipeline.core.context import chosen_projects

    names = chosen_projects(app.settings, project)
    if len(names) > 1:
        raise ConfigError(f"--project: needed, for there are several: {', '.join(names)}")
    return names[0]


# --- running and showing ---


def _read(ctx: typer.Context, flow: Flow, tell: Tell) -> int:
    """A command that changes nothing, and leaves no run in the ledger."""
    from pipeline.cli import render

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        outcome = flow(app)
    if given.as_json:
        print_json(outcome.to_dict())
    else:
        console = render.console_for()
        tell(console, outcome)
        render.show_failures(console, outcome)
    return outcome.exit_code


def _shown(document: dict[str, Any], show_secrets: bool) -> dict[str, Any]:
    from pipeline.rooms.plan import masked

    return document if show_secrets else masked(document)


def _told(outcome: RunResult, project: str, room: dict[str, Any]) -> RunResult:
    outcome.add_success()
    outcome.details.update(project=project, room=room)
    return outcome


def _table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(table)


def _show_rooms(console: Console, found: Iterable[dict[str, Any]]) -> None:
    from pipeline.rooms import spec
    from pipeline.rooms.fields import FIELDS
    from pipeline.rooms.plan import external_key_of

    headings = ("project", "room_id", "name", "owner_ref", "billing_code", "type", "recording", "key")
    actual = FIELDS
    names = ("name", "owner_ref", "billing_code")
    rows = [
        (
            room["project"],
            room["room_id"],
            *(actual[name].value_in(room) for name in names),
            _when(room),
            {True: "auto", False: "by hand"}.get(actual["auto_recording"].value_in(room), ""),
            external_key_of(room) if not str(external_key_of(room)).startswith(f"{spec.ONCE}/") else None,
        )
        for room in found
    ]
    _table(console, headings, rows)
    console.print(f"{len(rows):,} rooms", style="dim")


def _when(room: dict[str, Any]) -> str:
    from pipeline.rooms.fields import FIELDS
    from pipeline.rooms.plan import room_type

    begins_at = FIELDS["scheduled_time"].value_in(room)
    kind = room_type(room)
    return f"{kind} {begins_at:%Y-%m-%d %H:%M}" if kind == "scheduled" and begins_at else kind


def _show_room(console: Console, outcome: RunResult) -> None:
    from pipeline.rooms.fields import leaves

    room = {"project": outcome.details["project"], **outcome.details["room"]}
    _table(console, ("field", "value"), [(".".join(path), value) for path, value in leaves(room, ())])


def _show_users(console: Console, outcome: RunResult) -> None:
    found = outcome.details["users"]
    _table(
        console,
        ("name", "user_ref", "role"),
        [(user.get("name"), user.get("user_ref"), user.get("role")) for user in found],
    )
    console.print(f"{len(found)} in the room" if found else "nobody is in the room", style="dim")


def _show_dialin(console: Console, outcome: RunResult) -> None:
    for name, actual in outcome.details["dialin"].items():
        numbers = [
            (
                name,
                number.get("country"),
                number.get("phone"),
                "toll-free" if number.get("toll") is False else "toll",
            )
            for number in actual.get("dialin") or []
        ]
        _table(console, ("project", "country", "phone", "toll"), numbers)
        sip = actual.get("sip") or {}
        rows = [(f"sip.{key}", value if isinstance(value, str) else json.dumps(value)) for key, value in sip.items()]
        _table(console, ("field", "value"), [*rows, ("app_key", actual.get("app_key"))])


def _show_changes(console: Console, outcome: RunResult) -> None:
    from pipeline.rooms.plan import Difference

    for change in outcome.details["changes"]:
        name = f"{change['project']}/{change['key']}"
        line = Text.assemble((f"{change['action']:<10}", _STYLES.get(change["action"], "bold")), name)
        console.print(line + Text(f"  {change['why']}" if change["why"] else ""))
        actual = [difference for difference in change["differences"] if "data.postroom_" not in difference["field"]]
        for difference in actual:
            console.print(Text(f"           {Difference(**difference)}"))
    counts = [f"{number:,} {action}" for action, number in outcome.counts.items()]
    console.print(Text(f"rooms plan: {', '.join(counts) or 'nothing to do'}"))


_STYLES = {"create": "green", "update": "yellow", "replace": "yellow", "delete": "red", "blocked": "bold red"}


def _show_findings(console: Console, outcome: RunResult) -> None:
    found = outcome.details["findings"]
    headings = ("kind", "project", "room_id", "name", "why")
    _table(console, headings, [[finding[heading] for heading in headings] for finding in found])
    console.print(f"{len(found):,} findings" if found else "nothing to report", style="dim")
