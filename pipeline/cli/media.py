"""`postroom media …`: copy files to the vault, and audit the vault (docs/guide/vault.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import From, ProjectName, To, optional_period, run_flow
from pipeline.core.errors import ConfigError

media_cli = typer.Typer(
    name="media",
    help="Archive files in the vault and audit them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@media_cli.command(short_help="Copy listed files to the vault.", epilog="Example: postroom media copy --limit 100")
def copy(
    ctx: typer.Context,
    limit: Annotated[int | None, typer.Option(min=1, help="Copy at most N files.")] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh/--no-refresh", help="Collect fresh archive listings first.")
    ] = True,
) -> int:
    """Copy every pending file to the vault, earliest deadline first, and verify it."""
    from pipeline.media.copy import copy_media

    return run_flow(ctx, "media copy", lambda app: copy_media(app, limit=limit, refresh_listings=refresh))


@media_cli.command(
    short_help="Compare the vault with its manifests.",
    epilog="Example: postroom media audit --from 2026-11-01 --to 2026-11-30 --sample 5",
)
def audit(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    sample: Annotated[
        float, typer.Option(metavar="PCT", help="Percentage of the files to read completely (0 to 100).")
    ] = 1,
    project: ProjectName = None,
) -> int:
    """Check every manifest and file of the period (default: all); read and hash a sample of the files."""
    from pipeline.media.audit import audit_media

    if not 0 <= sample <= 100:
        raise ConfigError(f"--sample {sample:g}: not a percentage; use 0 to 100")
    return run_flow(
        ctx,
        "media audit",
        lambda app: audit_media(app, optional_period(from_, to, app), sample_percent=sample, project=project),
        project=project,
    )
