"""Commands that require no EnableX account: demo, simulate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Options, choose_progress, configure_logging, print_json
from pipeline.core.errors import ConfigError

simulation_cli = typer.Typer()


@simulation_cli.command(short_help="Run seven simulated nights.", epilog="Example: postroom demo")
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="Output folder; an earlier demo in it is replaced.")] = Path(
        "data/demo"
    ),
) -> int:
    """Start the bundled EnableX simulator, run the pipeline over seven days of its traffic, and print a summary."""
    from pipeline.cli import render
    from pipeline.cli.demo import run_demo

    given: Options = ctx.obj
    configure_logging(given, quiet=True)
    now = given.now or datetime.now(UTC)
    console = None if given.as_json else render.console_for()
    outcome = run_demo(folder, now, choose_progress(given), console)
    if given.as_json:
        print_json(outcome.to_dict())
    return outcome.exit_code


@simulation_cli.command(
    short_help="Run the EnableX simulator.",
    epilog="Example: postroom simulate --write-config data/sim.toml --fault rate_limit=3",
)
def simulate(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(help="Port of the API; the file host and the foreign host use the next two.")
    ] = 8640,
    seed: Annotated[int, typer.Option(help="Seed of the simulated data.")] = 7,
    sessions_per_day: Annotated[int, typer.Option(min=1, help="Sessions per project and day.")] = 12,
    fault: Annotated[list[str] | None, typer.Option(help="Switch on a fault: NAME or NAME=VALUE; repeatable.")] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="List every fault and its effect.")] = False,
    write_config: Annotated[Path | None, typer.Option(help="Write matching Postroom settings to this file.")] = None,
) -> int:
    """Run the bundled EnableX simulator on loopback until Ctrl-C, to test outages without an account."""
    from pipeline.cli import render
    from pipeline.enablex.simulator.faults import FAULTS
    from pipeline.enablex.simulator.server import Simulator
    from pipeline.enablex.simulator.world import World

    given: Options = ctx.obj
    console = render.console_for()
    if list_faults:
        for name, fault_kind in FAULTS.items():
            console.print(f"{name:<26} {fault_kind.meaning}", markup=False)
        return 0
    world = World(seed=seed, sessions_per_day=sessions_per_day)
    simulator = Simulator(
        world, now=given.now, api_port=port, files_port=port + 1, foreign_port=port + 2, faults=fault or ()
    )
    try:
        with simulator:
            if write_config:
                write_config.parent.mkdir(parents=True, exist_ok=True)
                write_config.write_text(simulator.settings_toml("data/simulated"), encoding="utf-8")
            render.show_simulator(console, simulator.base_url, simulator.files_url, fault or [], write_config)
            simulator.wait()
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        raise ConfigError(f"--fault: {error}; see postroom simulate --list-faults") from None
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror or error}; use another port") from None
    return 0
