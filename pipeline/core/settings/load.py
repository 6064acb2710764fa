"""Read settings from a TOML file and the environment, and record the origin of every value.

Precedence: environment (`POSTROOM_COLLECT__LOOKBACK_DAYS`, secrets also from a file named by `…_FILE`), then the TOML
file, then the defaults in `sections`. An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from pipeline.core.errors import ConfigError
from pipeline.core.settings.sections import _PREFIX, Project, Settings, mask_url

DEFAULT_CONFIG = Path("config/default.toml")
_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TYPED_NAME = re.compile(
    r"[\d_-]+|\d[\d_]*(e-?\d*)?[dfl]?|0[box][\da-f_]+"
    r"|y|yes|n|no|t|true|f|false|on|off|null|none|nil|na|nan|inf|infinity|epoch|now|today|tomorrow|yesterday"
)
"""A name is a folder `project=NAME`, and DuckDB, Polars, Spark and pandas infer the type of this column from its names:
2026, 007, 1e5, 2026-11-20 or null would be another value there."""


@dataclass(frozen=True)
class Loaded:
    """Settings, and the origin of every dotted key that is not a default."""

    settings: Settings
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """The file or variable that set a dotted key, or `default`."""
        return self.origins.get(key, "default")

    def rows(self) -> list[tuple[str, str, str]]:
        """(key, value, origin) for every setting, secrets masked."""
        return [
            (key, _display(value), self.origin(key))
            for key, value in _flat(self.settings.model_dump())
            if not (key == "projects" and value == {})
        ]


def load(config: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the TOML file and the environment.

    Raises:
        ConfigError: names the key, its origin, and valid values.
    """
    path = config or (Path(environ["POSTROOM_CONFIG"]) if environ.get("POSTROOM_CONFIG") else None)
    values, origins = _read_toml(path)
    overrides, names = _read_environment(environ)
    _check_known(values, origins, Settings)
    _check_known(overrides, names, Settings)
    merged = _merge(values, overrides)
    origins = {**origins, **names}
    for name in merged["projects"] if isinstance(merged.get("projects"), Mapping) else ():
        _check_project_name(name, origins.get(f"projects.{name}", "settings"))
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, origins)) from None
    if settings.privacy.pseudonymise and not settings.privacy.key.get_secret_value():
        raise ConfigError(
            "privacy.key: needed to pseudonymise; set POSTROOM_PRIVACY__KEY or POSTROOM_PRIVACY__KEY_FILE"
        )
    for unit, prices in settings.billing.prices.lists():
        for price in prices:
            if price.project is not None and price.project not in settings.projects:
                configured = ", ".join(settings.projects) or "none"
                raise ConfigError(f"billing.prices.{unit}: no project {price.project}; configured: {configured}")
    if settings.media.delivery_url and not settings.vault.url.startswith("s3:"):
        raise ConfigError(
            f"media.delivery_url: copies stay inside S3, but the vault is {settings.vault.url}; use an s3:// vault"
        )
    return Loaded(settings, origins)


def _read_toml(path: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    if path is None and not DEFAULT_CONFIG.exists():
        return {}, {}
    path = path or DEFAULT_CONFIG
    values = read_toml(path, "settings file; name one with --config or POSTROOM_CONFIG")
    return values, {key: str(path) for key, _ in _flat(values, branches=True)}


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Parse a TOML file. `what` describes the file and how to name another one, for the error if it does not exist.

    Raises:
        ConfigError: the file does not exist or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Nested values of all `POSTROOM_…` variables, and the variable that set each dotted key."""
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(_PREFIX) or name.upper() == "POSTROOM_CONFIG":
            continue
        key = name[len(_PREFIX) :].lower().replace("__", ".")
        if key.endswith("_file"):
            key = key.removesuffix("_file")
            try:
                text = Path(text).read_text(encoding="utf-8").strip()  # noqa: PLW2901 - the file contains the value
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{name}: cannot read {text}: {error}") from None
        texts[_PREFIX.lower() + key.replace(".", "__")] = text
        names[key] = name
    source = EnvSettingsSource(Settings)
    source.env_vars = texts
    try:
        values = source()
    except ValueError as error:
        raise ConfigError(f"environment: {error}; lists and tables are written as JSON") from None
    for key, name in list(names.items()):
        inside = _flat({key: value}) if isinstance(value := _at(values, key), Mapping) else ()
        names |= dict.fromkeys((dotted for dotted, _ in inside), name)  # one JSON text can set a whole section
        section = key.split(".")[0]
        if section not in Settings.model_fields:
            raise ConfigError(_unknown(section, name, Settings.model_fields))
    return values, names


def _check_project_name(name: str, where: str) -> None:
    if not _PROJECT_NAME.fullmatch(name):
        raise ConfigError(f'projects.{name} ({where}): a project name is lower-case letters, digits, "-" and "_"')
    if _TYPED_NAME.fullmatch(name):
        raise ConfigError(
            f"projects.{name} ({where}): other readers of the tables take this name for a number, a date, a boolean or"
            f" null; choose one that begins with a word, such as project-{name}"
        )


def _check_known(values: Mapping[str, Any], origins: Mapping[str, str], model: type[BaseModel], at: str = "") -> None:
    """Raise ConfigError for an unknown key, with the nearest known one."""
    for key, value in values.items():
        dotted = f"{at}{key}"
        if key not in model.model_fields:
            raise ConfigError(_unknown(dotted, origins.get(dotted, "settings"), model.model_fields))
        if dotted == "projects" and isinstance(value, Mapping):
            for name, project in value.items():
                if not isinstance(project, Mapping):
                    raise ConfigError(f"projects.{name}: must be a table: [projects.{name}]")
                _check_known(project, origins, Project, f"projects.{name}.")
        else:
            inside = model.model_fields[key].annotation
            section = get_args(inside)[0] if get_args(inside) else inside
            if isinstance(section, type) and issubclass(section, BaseModel):
                for entry in value if isinstance(value, list) else [value]:
                    if isinstance(entry, Mapping):
                        _check_known(
                            entry, {**origins, **_origins_inside(entry, dotted, origins)}, section, f"{dotted}."
                        )


def _origins_inside(values: Mapping[str, Any], dotted: str, origins: Mapping[str, str]) -> dict[str, str]:
    """Origins of a table in a list, which has no dotted keys of its own: those of the list."""
    return {f"{dotted}.{key}": origins.get(f"{dotted}.{key}", origins.get(dotted, "settings")) for key in values}


def _unknown(dotted: str, origin: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(dotted.rsplit(".", 1)[-1], fields, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(fields)}"
    return f"{dotted} ({origin}): unknown setting; {hint}"


def _first_problem(error: ValidationError, origins: Mapping[str, str]) -> str:
    problems = error.errors()
    dotted = ".".join(str(part) for part in problems[0]["loc"])
    if problems[0]["type"] == "missing":
        variable = _PREFIX + dotted.replace(".", "__").upper()
        message = f"{dotted}: missing; set it in the settings file or as {variable}"
    else:
        branches = [dotted.rsplit(".", up)[0] for up in range(dotted.count(".") + 1)]
        origin = next((origins[branch] for branch in branches if branch in origins), "settings")
        message = f"{dotted} ({origin}): {problems[0]['msg'].removeprefix('Value error, ')}"
    return message if len(problems) == 1 else f"{message} (and {len(problems) - 1} more)"


def _at(values: Mapping[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        values = values.get(key, {}) if isinstance(values, Mapping) else {}
    return values


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _flat(values: Mapping[str, Any], at: str = "", *, branches: bool = False) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            if branches:
                yield f"{at}{key}", value
            yield from _flat(value, f"{at}{key}.", branches=branches)
        else:
            yield f"{at}{key}", value


def _display(value: object) -> str:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else "(not set)"
    if isinstance(value, tuple):
        return ", ".join(map(_display, value)) or "(none)"
    if isinstance(value, Mapping):
        entries = [f"{key} = {_display(entry)}" for key, entry in value.items() if entry not in (None, ())]
        return f"{{ {', '.join(entries)} }}"
    if value is None:
        return "(not set)"
    return mask_url(str(value))
