"""Tests on other Pythons and other dependencies than CI has: `.venv/bin/nox`, or `.venv/bin/nox -s lowest`.

A Python that is not installed is skipped. Every session runs the unit tests; `make check` runs all tests on one Python.
"""

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lowest", "no_compiler", "no_extras"]

EXTRAS = "dask,notebooks,otel,postgres"
UNIT = ("python", "-m", "pytest", "-n", "2", "-m", "unit")


def install(session: nox.Session, *options: str, extras: str = EXTRAS, env: dict[str, str] | None = None) -> None:
    session.run_install(
        *("uv", "pip", "install", "--python", session.virtualenv.location, "--group", "dev", *options, f".[{extras}]"),
        external=True,
        env=env or {},
    )


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The versions of constraints.txt."""
    install(session, "--constraint", "constraints.txt")
    session.run(*UNIT)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows."""
    install(session, "--resolution", "lowest-direct")
    session.run(*UNIT)


@nox.session(python="3.11")
def no_compiler(session: nox.Session) -> None:
    """Without the compiled scanner: its replacement does the work."""
    install(session, "--constraint", "constraints.txt", env={"CC": "false"})
    session.run(*UNIT)


@nox.session(python="3.11")
def no_extras(session: nox.Session) -> None:
    """The program alone, as users install it: the demo runs."""
    session.run_install(
        *("uv", "pip", "install", "--python", session.virtualenv.location, "--constraint", "constraints.txt", "."),
        external=True,
    )
    session.run("postroom", "demo", "--dir", f"{session.create_tmp()}/demo")
