"""`postroom rooms …`: manage single rooms or a rooms file. Secrets are masked unless `--show-secrets` is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import Options, ProjectName, load_options_settings, open_run, print_json, run_flow
from pipeline.core.errors import ConfigError
from pipeline.core.models import Details_co, Row, RunResult
from pipeline.enablex.rooms import ROLES, dialin_request, parse_token, parse_users, token_request, users_request

if TYPE_CHECKING:
    from pipeline.core.context import App
    from pipeline.rooms.audit import RoomFindings
    from pipeline.rooms.plan import RoomsDiff


@dataclass(frozen=True)
class RoomList:
    """Rooms of all chosen projects, each with its project."""

    rooms: list[Row]


@dataclass(frozen=True)
class OneRoom:
    """One room of a project."""

    project: str
    room: Row


@dataclass(frozen=True)
class RoomUsers:
    """Users who are in a room now."""

    project: str
    users: list[Row]


@dataclass(frozen=True)
class RoomToken:
    """A token for one entry into a room."""

    project: str
    room_id: str
    token: str


@dataclass(frozen=True)
class DialIn:
    """Telephone numbers and SIP accounts by project."""

    dialin: dict[str, Row]


rooms_cli = typer.Typer(
    name="rooms",
    help="Manage rooms individually or from a file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


RoomId = Annotated[str, typer.Argument(metavar="ROOM_ID", help="Id of the room; see `postroom rooms list`.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Field of the room, e.g. auto_recording=true; repeatable."),
]
Data = Annotated[str | None, typer.Option("--data", metavar="JSON", help="Custom data, a JSON object.")]
File = Annotated[Path | None, typer.Option("--file", help="Rooms file; default: rooms.file of the settings.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete rooms that this file created and no longer contains.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Recreate rooms whose mode or type differs, then delete the old ones.")
]
ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Show PINs, passwords and keys unmasked.")]


# --- single rooms ---


@rooms_cli.command("list", short_help="List rooms.", epilog="Example: postroom rooms list --project acme")
def list_(ctx: typer.Context, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """List every room of every project, as EnableX returns it now."""
    from pipeline.rooms.apply import list_all_rooms

    def flow(app: App) -> RunResult[RoomList]:
        outcome = RunResult("rooms list")
        listed = list_all_rooms(app, outcome, project)
        rooms = [{"project": name, **_shown(room, show_secrets)} for name, each in listed.items() for room in each]
        outcome.add_success(len(listed), rooms=len(rooms))
        return outcome.with_details(RoomList(rooms))

    return _read(ctx, flow, _show_rooms)


@rooms_cli.command("show", short_help="Show one room.", epilog="Example: postroom rooms show 65ec60000c3a9e0012ab0001")
def show_(ctx: typer.Context, room_id: RoomId, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """Show every field of one room; dial-in PINs and stream addresses are masked."""
    from pipeline.rooms.apply import find_room

    def flow(app: App) -> RunResult[OneRoom]:
        name, room = find_room(app, room_id, project)
        return _room_result("rooms show", name, _shown(room, show_secrets))

    return _read(ctx, flow, _show_room)


@rooms_cli.command(
    short_help="Create a room.",
    epilog='Example: postroom rooms create --name "Front desk" --owner-ref tenant-42 --participants 10',
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Name of the room.")],
    owner_ref: Annotated[str, typer.Option("--owner-ref", help="Id of your tenant.")],
    participants: Annotated[str, typer.Option("--participants", help="Maximum number of participants; 0 is no limit.")],
    fields: Set = None,
    data: Data = None,
    project: ProjectName = None,
) -> int:
    """Create one room; safe to retry after a lost response. Times need a zone: 2026-12-01T14:00:00+01:00."""
    from pipeline.rooms.apply import create_single
    from pipeline.rooms.plan import Room

    given = {"name": name, "owner_ref": owner_ref, "participants": participants, **_fields(fields, data)}

    def flow(app: App) -> RunResult[OneRoom]:
        chosen = _one_project(app, project)
        room = create_single(app, chosen, Room(**_nested(given)))
        return _room_result("rooms create", chosen, _shown(room, show_secrets=False), created=1)

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
        raise ConfigError("nothing to change; use --set FIELD=VALUE or --data JSON")

    def flow(app: App) -> RunResult[OneRoom]:
        name, room = find_room(app, room_id, project)
        changed = update_single(app, name, room, given)
        return _room_result("rooms update", name, _shown(changed, show_secrets=False), updated=1)

    return run_flow(ctx, "rooms update", flow, _show_room, project=project)


@rooms_cli.command(short_help="Delete rooms.", epilog="Example: postroom rooms delete 65ec60000c3a9e0012ab0001")
def delete(
    ctx: typer.Context,
    room_ids: Annotated[list[str], typer.Argument(metavar="ROOM_ID...", help="Ids of rooms.")],
    project: ProjectName = None,
) -> int:
    """Delete rooms. A missing room counts as deleted; a room with a running session is not deleted and fails."""
    from pipeline.rooms.apply import delete_rooms

    return run_flow(ctx, "rooms delete", lambda app: delete_rooms(app, room_ids, project=project), project=project)


@rooms_cli.command(
    short_help="List the users in a room.", epilog="Example: postroom rooms users 65ec60000c3a9e0012ab0001"
)
def users(ctx: typer.Context, room_id: RoomId, project: ProjectName = None) -> int:
    """List the users who are in a room now."""
    from pipeline.rooms.apply import find_room

    def flow(app: App) -> RunResult[RoomUsers]:
        name, _ = find_room(app, room_id, project)
        users = parse_users(app.clients[name].call(users_request(room_id)))
        outcome = RunResult("rooms users", details=RoomUsers(name, users))
        outcome.add_success(users=len(users))
        return outcome

    return _read(ctx, flow, _show_users)


@rooms_cli.command(
    short_help="Create a token for one user.",
    epilog="Example: postroom rooms token 65ec60000c3a9e0012ab0001 --name Ada --user-ref staff-7 --role moderator",
)
def token(
    ctx: typer.Context,
    room_id: RoomId,
    name: Annotated[str, typer.Option("--name", help="Display name of the user.")],
    user_ref: Annotated[str, typer.Option("--user-ref", help="Your id of the user; user.ref in CDRs.")],
    role: Annotated[str, typer.Option("--role", help=f"Role: {', '.join(ROLES)}.")] = "participant",
    data: Data = None,
    project: ProjectName = None,
) -> int:
    """Print a token for one entry, valid for 15 minutes. It is neither stored nor logged."""
    from pipeline.rooms.apply import find_room

    request = token_request(room_id, name=name, role=role, user_ref=user_ref, data=_json_object(data))

    def flow(app: App) -> RunResult[RoomToken]:
        chosen, _ = find_room(app, room_id, project)
        created = parse_token(app.clients[chosen].call(request))
        outcome = RunResult("rooms token", details=RoomToken(chosen, room_id, created))
        outcome.add_success(tokens=1)
        return outcome

    return _read(ctx, flow, lambda console, outcome: console.print(Text(outcome.details.token), soft_wrap=True))


@rooms_cli.command(
    short_help="Show telephone numbers and SIP accounts.", epilog="Example: postroom rooms dialin --project acme"
)
def dialin(ctx: typer.Context, project: ProjectName = None, show_secrets: ShowSecrets = False) -> int:
    """Show telephone numbers and the SIP account of every project; keys and passwords are masked."""

    def flow(app: App) -> RunResult[DialIn]:
        from pipeline.core.context import chosen_projects

        outcome = RunResult("rooms dialin", details=DialIn({}))
        for name in chosen_projects(app.settings, project):
            outcome.details.dialin[name] = _shown(app.clients[name].call(dialin_request()), show_secrets)
            outcome.add_success()
        return outcome

    return _read(ctx, flow, _show_dialin)


# --- rooms file ---


@rooms_cli.command(
    short_help="Show what the rooms file would change.",
    epilog="Example: postroom rooms plan --file config/rooms.toml --prune",
)
def plan(
    ctx: typer.Context, file: File = None, project: ProjectName = None, prune: Prune = False, replace: Replace = False
) -> int:
    """Compare the rooms file with the actual rooms and print the differences; changes nothing."""
    from pipeline.rooms.apply import plan_rooms

    return _read(ctx, lambda app: plan_rooms(app, file, project=project, prune=prune, replace=replace), _show_changes)


@rooms_cli.command(
    short_help="Apply the rooms file.", epilog="Example: postroom --json rooms apply --file config/rooms.toml"
)
def apply(
    ctx: typer.Context, file: File = None, project: ProjectName = None, prune: Prune = False, replace: Replace = False
) -> int:
    """Create, update and (with --prune) delete rooms according to the rooms file. Can be repeated."""
    from pipeline.rooms.apply import apply_rooms

    return run_flow(
        ctx,
        "rooms apply",
        lambda app: apply_rooms(app, file, project=project, prune=prune, replace=replace),
        project=project,
    )


@rooms_cli.command(short_help="Audit rooms.", epilog="Example: postroom rooms audit --unused-days 30")
def audit(
    ctx: typer.Context,
    file: File = None,
    project: ProjectName = None,
    unused_days: Annotated[int, typer.Option(min=1, help="Days without a session after which a room is unused.")] = 90,
) -> int:
    """Report sessions without owner or billing code, unused rooms, and recording against the file's policy."""
    from pipeline.rooms.apply import audit_rooms

    return _read(ctx, lambda app: audit_rooms(app, file, project=project, unused_days=unused_days), _show_findings)


# --- arguments ---


def _fields(pairs: Iterable[str] | None, data: str | None) -> dict[str, Any]:
    """Fields by name, from `--set` and `--data`."""
    from pipeline.rooms.fields import FIELDS, from_text, unknown

    fields: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: use the form FIELD=VALUE")
        if name not in FIELDS:
            raise ConfigError(f"--set {name}: {unknown(name)}")
        fields[name] = from_text(name, text)
    custom_data = _json_object(data)
    return fields if custom_data is None else {**fields, "data": custom_data}


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--data: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError('--data: must be a JSON object such as {"custom_key": 1}')
    return value


def _nested(named: dict[str, Any]) -> dict[str, Any]:
    from pipeline.rooms.fields import nested

    data = named.get("data")
    document = nested({tuple(name.split(".")): value for name, value in named.items() if name != "data"})
    return document if data is None else {**document, "data": data}


def _one_project(app: App, project: str | None) -> str:
    from pipeline.core.context import chosen_projects

    names = chosen_projects(app.settings, project)
    if len(names) > 1:
        raise ConfigError(f"--project is required; use one of {', '.join(names)}")
    return names[0]


# --- execution and output ---


def _read(
    ctx: typer.Context,
    flow: Callable[[App], RunResult[Details_co]],
    show: Callable[[Console, RunResult[Details_co]], None],
) -> int:
    """Run a read-only command, which is not recorded in the run store."""
    from pipeline.cli import render

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        outcome = flow(app)
    if given.as_json:
        print_json(outcome.to_dict())
    else:
        console = render.console_for()
        show(console, outcome)
        render.show_failures(console, outcome)
    return outcome.exit_code


def _shown(document: dict[str, Any], show_secrets: bool) -> dict[str, Any]:
    from pipeline.rooms.plan import masked

    return document if show_secrets else masked(document)


def _room_result(command: str, project: str, room: Row, **counts: int) -> RunResult[OneRoom]:
    outcome = RunResult(command, details=OneRoom(project, room))
    outcome.add_success(**counts)
    return outcome


def _table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(table)


def _show_rooms(console: Console, outcome: RunResult[RoomList]) -> None:
    from pipeline.rooms import spec
    from pipeline.rooms.fields import FIELDS
    from pipeline.rooms.plan import external_key_of

    headings = ("project", "room_id", "name", "owner_ref", "billing_code", "type", "recording", "key")
    names = ("name", "owner_ref", "billing_code")
    rows = [
        (
            room["project"],
            room["room_id"],
            *(FIELDS[name].value_in(room) for name in names),
            _when(room),
            {True: "auto", False: "manual"}.get(FIELDS["auto_recording"].value_in(room), ""),
            external_key_of(room) if not str(external_key_of(room)).startswith(f"{spec.ONCE}/") else None,
        )
        for room in outcome.details.rooms
    ]
    _table(console, headings, rows)
    console.print(f"{len(rows):,} rooms", style="dim")


def _when(room: dict[str, Any]) -> str:
    from pipeline.rooms.fields import FIELDS
    from pipeline.rooms.plan import room_type

    begins_at = FIELDS["scheduled_time"].value_in(room)
    kind = room_type(room)
    return f"{kind} {begins_at:%Y-%m-%d %H:%M}" if kind == "scheduled" and begins_at else kind


def _show_room(console: Console, outcome: RunResult[OneRoom]) -> None:
    from pipeline.rooms.fields import leaves

    room = {"project": outcome.details.project, **outcome.details.room}
    _table(console, ("field", "value"), [(".".join(path), value) for path, value in leaves(room, ())])


def _show_users(console: Console, outcome: RunResult[RoomUsers]) -> None:
    users = outcome.details.users
    _table(
        console,
        ("name", "user_ref", "role"),
        [(user.get("name"), user.get("user_ref"), user.get("role")) for user in users],
    )
    console.print(f"{len(users)} users in the room" if users else "no users in the room", style="dim")


def _show_dialin(console: Console, outcome: RunResult[DialIn]) -> None:
    for name, response in outcome.details.dialin.items():
        numbers = [
            (
                name,
                number.get("country"),
                number.get("phone"),
                "toll-free" if number.get("toll") is False else "toll",
            )
            for number in response.get("dialin") or []
        ]
        _table(console, ("project", "country", "phone", "toll"), numbers)
        sip = response.get("sip") or {}
        rows = [(f"sip.{key}", value if isinstance(value, str) else json.dumps(value)) for key, value in sip.items()]
        _table(console, ("field", "value"), [*rows, ("app_key", response.get("app_key"))])


def _show_changes(console: Console, outcome: RunResult[RoomsDiff]) -> None:
    for change in outcome.details.changes:
        line = Text.assemble(
            (f"{change.action:<10}", _STYLES.get(change.action, "bold")), f"{change.project}/{change.key}"
        )
        console.print(line + Text(f"  {change.why}" if change.why else ""))
        for difference in change.differences:
            if "data.postroom_" not in difference.field:
                console.print(Text(f"           {difference}"))
    counts = [f"{number:,} {action}" for action, number in outcome.counts.items()]
    console.print(Text(f"rooms plan: {', '.join(counts) or 'nothing to do'}"))


_STYLES = {"create": "green", "update": "yellow", "replace": "yellow", "delete": "red", "blocked": "bold red"}


def _show_findings(console: Console, outcome: RunResult[RoomFindings]) -> None:
    findings = outcome.details.findings
    headings = ("kind", "project", "room_id", "name", "why")
    _table(console, headings, [[getattr(finding, heading) for heading in headings] for finding in findings])
    console.print(f"{len(findings):,} findings" if findings else "no findings", style="dim")
