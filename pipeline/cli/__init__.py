"""The command line: one command per flow."""

from pipeline.cli.billing import billing_cli
from pipeline.cli.commands import cli, main
from pipeline.cli.rooms import rooms_cli

cli.add_typer(rooms_cli)
cli.add_typer(billing_cli)

__all__ = ["main"]
