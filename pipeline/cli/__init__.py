"""Commands and their output: arguments, rendering, doctor, demo, day report.

Whole runs belong to `jobs`, stages to their rooms: a command parses arguments, calls one of them and prints the result.
"""

from pipeline.cli.billing import billing_cli
from pipeline.cli.main import main
from pipeline.cli.media import media_cli
from pipeline.cli.options import cli
from pipeline.cli.queries import queries_cli
from pipeline.cli.rooms import rooms_cli
from pipeline.cli.simulation import simulation_cli
from pipeline.cli.stages import stages_cli

for commands in (simulation_cli, stages_cli, queries_cli):  # the order of `--help`
    cli.registered_commands += commands.registered_commands
for group in (media_cli, rooms_cli, billing_cli):
    cli.add_typer(group)

__all__ = ["cli", "main"]
