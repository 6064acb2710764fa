"""What a person types and reads: commands, rendering, doctor, demo and the day page.

Whole runs belong in `jobs`, stages in their rooms: a command parses, runs one of them and shows the outcome.
"""

from pipeline.cli import simulation, stages, queries  # noqa: F401, I001 - each registers its commands, in the order of `--help`
from pipeline.cli.billing import billing_cli
from pipeline.cli.main import main
from pipeline.cli.media import media_cli
from pipeline.cli.options import cli
from pipeline.cli.rooms import rooms_cli

cli.add_typer(media_cli)
cli.add_typer(rooms_cli)
cli.add_typer(billing_cli)

__all__ = ["main"]
