"""The command line: one command per flow."""

from pipeline.cli.commands import main

__all__ = ["main"]
