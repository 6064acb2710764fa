"""The entry point: runs one command line and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 some items failed, 4 files at risk or newly lost.
"""

from __future__ import annotations

import sys

import typer

from pipeline.cli.options import cli, print_json
from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.models import Failure, RunResult

_INTERRUPTED = 130
_INTERRUPTED_TEXT = "interrupted; no partial writes. Run again to resume"


def main() -> None:
    """The `postroom` command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line. An expected error is printed as one line on standard error; returns the exit code."""
    verbose = "--verbose" in arguments
    try:
        return _exit_code(arguments, cli(args=arguments, prog_name="postroom", standalone_mode=False))
    except typer.TyperException as error:
        return _report_error(arguments, error.format_message(), 2)
    except ConfigError as error:
        return _report_error(arguments, str(error), 2)
    except PipelineError as error:
        if verbose:
            raise
        return _report_error(arguments, str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _report_error(arguments, _INTERRUPTED_TEXT, _INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return _report_error(arguments, f"unexpected error: {text}; run again with --verbose and report it", 1)


def _exit_code(arguments: list[str], code: object) -> int:
    if code == _INTERRUPTED:  # typer returns this after Ctrl-C and prints nothing
        return _report_error(arguments, _INTERRUPTED_TEXT, _INTERRUPTED)
    return code if isinstance(code, int) else 0


def _report_error(arguments: list[str], message: str, code: int) -> int:
    """Print one line on standard error; with `--json` also a result on standard output."""
    print(f"postroom: {message}", file=sys.stderr)
    if "--json" in arguments:
        commands = {info.name or info.callback.__name__ for info in cli.registered_commands if info.callback}
        groups = {group.typer_instance.info.name for group in cli.registered_groups if group.typer_instance}
        command = next((argument for argument in arguments if argument in commands | groups), "postroom")
        if command in groups:
            command = " ".join(arguments[arguments.index(command) :][:2])
        print_json(RunResult(command, failed=[Failure(command, message)]).to_dict())
    return code
