"""Reference pages of the documentation that are written from the code.

python -m tests.support.reference_pages     write docs/reference/{cli,settings,tables}.md
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import typer.main
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from pipeline.cli import cli
from pipeline.core.settings.prices import Price, Tier
from pipeline.core.settings.sections import Project, Settings
from pipeline.tables.schemas import document_tables
from tests.support.paths import ROOT

_WRITTEN_BY = "Written by `python -m tests.support.reference_pages`; do not edit."
_EXIT_CODES = """
| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: nothing worked |
| 2 | wrong arguments or settings |
| 3 | some items failed, others worked |
| 4 | files at risk or newly lost; more urgent than 1 and 3 |
| 130 | interrupted; run the command again to resume |
"""


_SETTINGS_INTRODUCTION = """
The settings file is `--config`, else `POSTROOM_CONFIG`, else `config/default.toml`. An environment variable overrides
the file: `POSTROOM_` and the names of the levels, with `__` between them, as in `POSTROOM_COLLECT__LOOKBACK_DAYS`. A
secret can be in a file, whose path is in the variable with `_FILE` at its end. `postroom settings` prints every
effective value and its origin.
"""


def cli_page() -> str:
    """docs/reference/cli.md: every command with its arguments and options."""
    lines = ["# Commands", "", _WRITTEN_BY, "", "`postroom [GLOBAL OPTIONS] COMMAND [OPTIONS]`", _EXIT_CODES]
    root = typer.main.get_command(cli)
    lines += ["## Global options", "", *_parameters(root), ""]
    for name, command in _commands(root, "postroom"):
        usage = " ".join([name, "[OPTIONS]", *_arguments(command)])
        lines += [f"## `{name}`", "", _joined(command.help), "", "```sh", usage, "```", "", *_parameters(command)]
        if command.epilog:
            lines += ["", "```sh", command.epilog.removeprefix("Example: "), "```"]
        lines.append("")
    return "\n".join(lines)


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for child in group.commands.values():
        if hasattr(child, "commands"):
            yield from _commands(child, f"{name} {child.name}")
        else:
            yield f"{name} {child.name}", child


def _arguments(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = (parameter.metavar or parameter.name).upper()
            yield name if parameter.required else f"[{name}]"


def _parameters(command: Any) -> Iterator[str]:
    rows = [parameter for parameter in command.params if parameter.name not in {"help", "ctx"}]
    if rows:
        yield from ("| parameter | default | meaning |", "|---|---|---|")
    for parameter in rows:
        is_option = parameter.param_type_name == "option"
        names = (
            [*parameter.opts, *parameter.secondary_opts]
            if is_option
            else [(parameter.metavar or parameter.name).upper()]
        )
        default = "" if parameter.default in (None, False) or callable(parameter.default) else f"`{parameter.default}`"
        text = "required" if parameter.required else default
        yield f"| {', '.join(f'`{name}`' for name in names)} | {text} | {_cell(getattr(parameter, 'help', None))} |"


def settings_page() -> str:
    """docs/reference/settings.md: every key with its type, limits, default and environment variable."""
    lines = ["# Settings", "", _WRITTEN_BY, "", *_SETTINGS_INTRODUCTION.strip().splitlines(), ""]
    for name, info in Settings.model_fields.items():
        if name == "projects":
            lines += _section("projects.NAME", Project)
        else:
            lines += _section(name, info.annotation, values=info.default)
    lines += _section("billing.prices.participant_min", Price, "An entry of a unit's list of prices.")
    lines += _section("billing.prices.participant_min.tiers", Tier)
    return "\n".join(lines)


def _section(path: str, model: Any, text: str = "", *, values: BaseModel | None = None) -> Iterator[str]:
    fields, meanings = model.model_fields, _attribute_docstrings(model)
    plain = {name: info for name, info in fields.items() if not _is_section(info)}
    yield from (f"## `[{path}]`", "", text or _joined(model.__doc__), "")
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for name, info in plain.items():
        yield f"| `{name}` | {_type_text(info)} | {_default_text(info, name, values)} | {_cell(meanings[name])} |"
    yield ""
    for name, info in fields.items():
        if _is_section(info):
            yield from _section(f"{path}.{name}", info.annotation, values=info.default)


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field, by name; of inherited fields too. The program itself never needs them."""
    found: dict[str, str] = {}
    for base in reversed([one for one in model.__mro__ if one.__module__.startswith("pipeline.")]):
        [definition] = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                found[field.target.id] = str(text.value) if isinstance(text, ast.Constant) else ""
    return found | dict.fromkeys(model.model_fields.keys() - found.keys(), "")


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _type_text(info: FieldInfo) -> str:
    choices = get_args(info.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [
        *(f"≥ {limit.ge}" for limit in info.metadata if isinstance(limit, Ge)),
        *(f"> {limit.gt}" for limit in info.metadata if isinstance(limit, Gt)),
        *(f"≤ {limit.le}" for limit in info.metadata if isinstance(limit, Le)),
    ]
    return ", ".join([_name_of(info.annotation), *limits])


def _name_of(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    for pattern, name in _TYPE_NAMES.items():
        text = re.sub(pattern, name, text)
    return text


_TYPE_NAMES = {
    r".*SecretStr.*": "secret",
    r".*(tuple|Sequence).*str.*": "list of text",
    r".*tuple.*(float|int).*": "list of numbers",
    r".*tuple.*": "number or list of tables",
    r".*Decimal.*": "decimal",
    r".*date.*": "date",
    r".*bool.*": "true or false",
    r".*float.*": "number",
    r".*int\b.*": "integer",
    r".*str.*": "text",
}


def _default_text(info: FieldInfo, name: str, values: BaseModel | None) -> str:
    if values is None and info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True) if values is None else getattr(values, name)
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in (None, "", ()):
        return ""
    return f"`{list(default) if isinstance(default, tuple) else default}`".replace("'", '"').replace(
        "`False`", "`false`"
    )


def _joined(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": cli_page,
    "docs/reference/settings.md": settings_page,
    "docs/reference/tables.md": document_tables,
}

if __name__ == "__main__":
    for place, page in PAGES.items():
        Path(ROOT / place).write_text(page(), encoding="utf-8")
