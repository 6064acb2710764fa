"""Settings: the origin of each value, precedence, and messages for invalid values."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote_plus

import duckdb
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.errors import ConfigError
from pipeline.core.settings.load import Loaded, load
from pipeline.core.settings.sections import Settings, mask_url
from tests.support.paths import ROOT

PROJECT = '[projects.acme]\napp_id = "61aa"\napp_key = "k3y"\n'

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without any config/default.toml."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a settings file and return its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "postroom.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def refusal(config: Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shown(loaded: Loaded) -> dict[str, tuple[str, str]]:
    return {key: (value, origin) for key, value, origin in loaded.rows()}


# --- where values come from ---


def test_without_anything_the_defaults_hold() -> None:
    """No file and no variables: embedded stores under ./data, three days of lookback, no project."""
    settings = load(None, {}).settings
    assert settings == Settings()
    assert (settings.lake.url, settings.vault.url) == ("file:./data/lake", "file:./data/vault")
    assert (settings.collect.lookback_days, settings.media.retention_hours) == (3, 72)
    assert settings.projects == {}


def test_the_shipped_file_has_the_defaults() -> None:
    """config/default.toml contains every default; reading it changes nothing."""
    assert load(ROOT / "config" / "default.toml", {}).settings == Settings()


def test_the_default_file_is_read_where_it_stands(tmp_path: Path) -> None:
    """config/default.toml below the working directory is used if no other file is named."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text("[collect]\nlookback_days = 9\n")
    assert load(None, {}).settings.collect.lookback_days == 9


def test_a_file_may_be_named_by_the_environment(write: Write) -> None:
    """POSTROOM_CONFIG names the file; --config takes precedence."""
    path = write("[collect]\nlookback_days = 9\n")
    other = path.with_name("other.toml")
    other.write_text("[collect]\nlookback_days = 8\n")
    assert load(None, {"POSTROOM_CONFIG": str(path)}).settings.collect.lookback_days == 9
    assert load(other, {"POSTROOM_CONFIG": str(path)}).settings.collect.lookback_days == 8


def test_the_environment_goes_before_the_file(write: Write) -> None:
    """A variable overrides its key and no other; the rows show both origins."""
    path = write(f"{PROJECT}[collect]\nlookback_days = 9\nconcurrency = 7\n")
    loaded = load(path, {"POSTROOM_COLLECT__LOOKBACK_DAYS": "5", "UNRELATED": "x"})
    rows = shown(loaded)
    assert loaded.settings.collect.lookback_days == 5
    assert rows["collect.lookback_days"] == ("5", "POSTROOM_COLLECT__LOOKBACK_DAYS")
    assert rows["collect.concurrency"] == ("7", str(path))
    assert rows["collect.max_attempts"] == ("5", "default")


def test_a_secret_may_stand_in_a_file(write: Write, tmp_path: Path) -> None:
    """…_FILE names a file whose trimmed text is the secret, as in Docker and Kubernetes."""
    secret = tmp_path / "app_key"
    secret.write_text(" fr0m-file \n")
    variable = "POSTROOM_PROJECTS__ACME__APP_KEY_FILE"
    loaded = load(write('[projects.acme]\napp_id = "61aa"\n'), {variable: str(secret)})
    assert loaded.settings.projects["acme"].app_key.get_secret_value() == "fr0m-file"
    assert shown(loaded)["projects.acme.app_key"] == ("********", variable)


def test_a_secret_file_that_is_missing_is_named(write: Write) -> None:
    """The message names the variable and the unreadable path."""
    message = refusal(write(PROJECT), {"POSTROOM_PROJECTS__ACME__APP_KEY_FILE": "/no/such/file"})
    assert "POSTROOM_PROJECTS__ACME__APP_KEY_FILE" in message
    assert "/no/such/file" in message


def test_a_project_may_come_from_the_environment_alone() -> None:
    """A container needs no file: variables define a complete project; lists are JSON."""
    loaded = load(
        None,
        {
            "POSTROOM_PROJECTS__ACME__APP_ID": "61aa",
            "POSTROOM_PROJECTS__ACME__APP_KEY": "k3y",
            "POSTROOM_PROJECTS__ACME__START_DATE": "2026-01-01",
            "POSTROOM_PROJECTS__ACME__FILE_HOSTS": '["files.example"]',
        },
    )
    project = loaded.settings.projects["acme"]
    assert (project.start_date, project.file_hosts) == (date(2026, 1, 1), ("files.example",))


@pytest.mark.parametrize("text", ["0.004", '"0.004"', '{ price = "0.004" }', "[{ price = 0.004 }]"])
def test_a_price_is_what_was_written(write: Write, text: str) -> None:
    """A number, a text, a table or a list of tables gives the decimal of the file, and is shown unchanged."""
    path = write(f'[billing.prices]\ncurrency = "USD"\nparticipant_min = {text}\n')
    loaded = load(path, {})
    (price,) = loaded.settings.billing.prices.participant_min
    assert price.price == Decimal("0.004")
    assert shown(loaded)["billing.prices.participant_min"] == ("{ price = 0.004 }", str(path))
    variable = {"POSTROOM_BILLING__PRICES__CURRENCY": "USD", "POSTROOM_BILLING__PRICES__PARTICIPANT_MIN": "0.004"}
    assert load(None, variable).settings.billing.prices == loaded.settings.billing.prices


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "[collect]\nlookback_day = 3\n",
            'collect.lookback_day (FILE): unknown setting; did you mean "lookback_days"?',
        ),
        ("[colect]\nlookback_days = 3\n", 'colect (FILE): unknown setting; did you mean "collect"?'),
        ("[s3]\nqqq = 1\n", "s3.qqq (FILE): unknown setting; known here: endpoint_url, region"),
        (f"{PROJECT}app_secret = 1\n", "projects.acme.app_secret (FILE): unknown setting"),
        ("[projects]\nacme = 1\n", "projects.acme: must be a table: [projects.acme]"),
        ('[projects."Acme Ltd"]\napp_id="1"\napp_key="2"\n', "projects.Acme Ltd (FILE): a project name is lower-case"),
        ("[collect]\nlookback_days = -1\n", "collect.lookback_days (FILE): "),
        ("[collect]\nrequests_per_second = 0\n", "collect.requests_per_second (FILE): "),
        ('[lake]\nurl = "/data"\n', 'lake.url (FILE): must be "file:PATH" or "s3://BUCKET/PREFIX"'),
        ('[billing]\ntime_zone = "Calcutta/India"\n', "billing.time_zone (FILE): must be an IANA time zone"),
        (
            '[projects.acme]\napp_key = "k"\n',
            "projects.acme.app_id: missing; set it in the settings file or as POSTROOM_",
        ),
        ('[projects.acme]\napp_id = "1"\napp_key = ""\n', "projects.acme.app_key (FILE): "),
        ('[privacy]\npseudonymise = ["user_name"]\n', "privacy.key: needed to pseudonymise; set POSTROOM_PRIVACY__KEY"),
        (
            '[billing.prices]\nparticipant_min = "0.004"\n',
            'billing.prices (FILE): prices need a currency, such as currency = "USD"',
        ),
        (
            '[billing.prices]\ncurrency = "USD"\n[[billing.prices.sip_min]]\nprice = 1\nvalid_form = 2026-01-01\n',
            'billing.prices.sip_min.valid_form (FILE): unknown setting; did you mean "valid_from"?',
        ),
        (
            '[billing.prices]\ncurrency = "USD"\nsip_min = [{price = 1}, {price = 2, valid_from = 2026-01-01}]\n',
            "billing.prices.sip_min (FILE): two prices of all projects are valid on 2026-01-01",
        ),
        (
            f'{PROJECT}[billing.prices]\ncurrency = "USD"\nsip_min = {{project = "acm", price = 1}}\n',
            "billing.prices.sip_min: no project acm; configured: acme",
        ),
        (
            '[billing.csv]\ndecimal = "comma"\n',
            'billing.csv (FILE): decimal = "comma" needs separator = ";" or "tab"',
        ),
        ('[billing.prices]\ncurrency = "usd"\n', "billing.prices.currency (FILE): must be the three letters"),
        ("[collect\n", "FILE: cannot be read as TOML"),
        ("collect = 3\n", "collect (FILE): "),
    ],
)
def test_a_wrong_file_is_one_line_with_the_cure(write: Write, text: str, named: str) -> None:
    """The message names the key, its file, and a valid value."""
    path = write(text)
    assert named.replace("FILE", str(path)) in refusal(path)


@pytest.mark.parametrize(
    "name",
    ["2026", "007", "7", "1e5", "1_000", "0x1f", "1d", "2026-11-20", "2026-11", "true", "no", "null", "nan", "epoch"],
)
def test_a_project_name_is_text_for_every_reader(write: Write, name: str) -> None:
    """A name that another reader takes for a number, a date, a boolean or null is refused with the reason and a name
    that is accepted."""
    path = write(f'[projects."{name}"]\napp_id = "1"\napp_key = "k"\n')
    message = refusal(path)
    assert message.startswith(f"projects.{name} ({path}): other readers of the tables take this name for a number")
    assert message.endswith(f"such as project-{name}")
    assert load(write(f'[projects."project-{name}"]\napp_id = "1"\napp_key = "k"\n'), {}).settings.projects


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True)
    | st.from_regex(r"[0-9][0-9_]{0,3}[-ebxdfl]?[0-9]{0,2}[-_]?[0-9]{0,2}[a-z]?", fullmatch=True)
)
def test_an_accepted_name_is_no_other_value(name: str) -> None:
    """DuckDB reads no accepted name as a number, a date, a time stamp or a boolean."""
    assume("__" not in name)  # separates levels in a variable
    variable = f"POSTROOM_PROJECTS__{name.upper()}__APP"
    try:
        load(None, {f"{variable}_ID": "1", f"{variable}_KEY": "k"})
    except ConfigError:
        return
    kinds = ("BIGINT", "DOUBLE", "DATE", "TIMESTAMP", "BOOLEAN")
    with duckdb.connect() as connection:
        tried = f"SELECT {', '.join(f'TRY_CAST($1 AS {kind})' for kind in kinds)}"
        assert connection.execute(tried, [name]).fetchone() == (None,) * len(kinds)


def test_usual_project_names_are_accepted(write: Write) -> None:
    """Names with digits, dashes and underscores that no reader takes for another value stay valid."""
    names = ("acme", "acme-2", "2nd-line", "emea_2026", "3m", "e5", "true-north", "a")
    text = "".join(f'[projects."{name}"]\napp_id = "1"\napp_key = "k"\n' for name in names)
    assert tuple(load(write(text), {}).settings.projects) == names


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        (
            "POSTROOM_COLECT__LOOKBACK_DAYS",
            "3",
            "colect (POSTROOM_COLECT__LOOKBACK_DAYS): unknown setting; did you mean",
        ),
        (
            "POSTROOM_COLLECT__LOOKBACK",
            "3",
            "collect.lookback (POSTROOM_COLLECT__LOOKBACK): unknown setting; did you mean",
        ),
        ("POSTROOM_COLLECT__LOOKBACK_DAYS", "many", "collect.lookback_days (POSTROOM_COLLECT__LOOKBACK_DAYS): "),
        ("POSTROOM_PRIVACY__PSEUDONYMISE", "user_name", "environment: "),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, named: str) -> None:
    """A misspelt or invalid variable is an error, not silently ignored."""
    assert named in refusal(None, {variable: value})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing --config file is named, with both ways to name another one."""
    message = refusal(tmp_path / "none.toml")
    assert str(tmp_path / "none.toml") in message
    assert "--config or POSTROOM_CONFIG" in message


def test_every_problem_is_counted(write: Write) -> None:
    """The first problem is shown with the number of further ones."""
    path = write("[collect]\nlookback_days = -1\nconcurrency = 0\nmax_attempts = 0\n")
    assert refusal(path).endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.enablex.io/video/v2/", "https://api.enablex.io/video/v2"),
        ("http://127.0.0.1:8080/video/v2", "http://127.0.0.1:8080/video/v2"),
        ("http://localhost/v2", "http://localhost/v2"),
        ("http://[::1]:1/v2", "http://[::1]:1/v2"),
        ("http://api.enablex.io/v2", None),
        ("http://127.0.0.1.evil.example/v2", None),
        ("https://id:key@api.enablex.io/v2", None),
        ("ftp://api.enablex.io/v2", None),
        ("api.enablex.io/v2", None),
        ("https://[oops/v2", None),
    ],
)
def test_credentials_travel_by_https_or_not_at_all(write: Write, url: str, kept: str | None) -> None:
    """base_url is https, or http on loopback, never with credentials inside, and kept without a trailing slash."""
    path = write(f'{PROJECT}base_url = "{url}"\n')
    if kept is None:
        assert f"projects.acme.base_url ({path})" in refusal(path)
    else:
        assert load(path, {}).settings.projects["acme"].base_url == kept


def test_settings_do_not_change(write: Write) -> None:
    """Settings are frozen after loading."""
    settings = load(write(PROJECT), {}).settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.collect.lookback_days = 1  # type: ignore[misc]


# --- secrets ---

SECRETS = f"""{PROJECT.replace("k3y", "s3cret-1")}files_password = "s3cret-2"
[privacy]
pseudonymise = ["user_name"]
key = "s3cret-3"
[run_store]
url = "postgresql+psycopg://post:s3cret-4/x@db.example/postroom"
"""


def test_no_secret_shows(write: Write) -> None:
    """`postroom settings` prints no secret, not even the one inside a URL."""
    loaded = load(write(SECRETS), {})
    assert "s3cret" not in str(loaded.rows())
    rows = shown(loaded)
    assert rows["projects.acme.files_password"][0] == "********"
    assert rows["run_store.url"][0] == "postgresql+psycopg://post:********@db.example/postroom"
    assert rows["projects.acme.start_date"] == ("(not set)", "default")
    for number in (1, 2, 3):
        assert f"s3cret-{number}" not in repr(loaded.settings)


def test_an_unset_secret_is_shown_as_not_set(write: Write) -> None:
    """An unset password is not shown as masked."""
    assert shown(load(write(PROJECT), {}))["projects.acme.files_password"] == ("(not set)", "default")


def test_every_secret_is_redacted(write: Write) -> None:
    """All secrets are masked, also as encoded in URLs and Basic authentication; empty ones are not."""
    secrets = set(load(write(SECRETS), {}).settings.secrets())
    assert {"s3cret-1", "s3cret-2", "s3cret-3", "s3cret-4/x", "s3cret-4%2Fx"} <= secrets
    settings = load(write(PROJECT), {}).settings
    pair = base64.b64encode(f"{settings.projects['acme'].app_id}:k3y".encode()).decode()
    assert set(settings.secrets()) == {"k3y", pair, quote_plus(pair)}


def test_a_refused_value_is_not_repeated(write: Write) -> None:
    """An error about a secret names its key, not its value."""
    path = write('[projects.acme]\napp_id = "61aa"\napp_key = ["s3cret"]\n')
    assert "s3cret" not in refusal(path)


@given(st.text(st.characters(codec="ascii", exclude_characters="@\n"), min_size=1), st.sampled_from(["", "post"]))
def test_a_password_in_a_url_is_masked(password: str, user: str) -> None:
    """Any password in a database URL is masked, and the rest is shown."""
    masked = mask_url(f"postgresql+psycopg://{user}:{password}@db.example/postroom")
    assert masked == f"postgresql+psycopg://{user}:********@db.example/postroom"


@pytest.mark.parametrize("url", ["file:./data/lake", "s3://bucket/prefix", "sqlite:///./data/runs.db", "https://h:1/a"])
def test_a_url_without_a_password_stays_as_it_is(url: str) -> None:
    """A URL without a password is unchanged."""
    assert mask_url(url) == url


def test_addresses_of_notices_are_secrets(write: Write) -> None:
    """Webhook and heartbeat URLs, and their paths alone, are masked; plain http is refused without showing it."""
    url = "https://hooks.example.com/services/T0/sEcReT"
    loaded = load(write(PROJECT), {"POSTROOM_NOTIFY__WEBHOOK_URL": url})
    assert shown(loaded)["notify.webhook_url"] == ("********", "POSTROOM_NOTIFY__WEBHOOK_URL")
    assert {url, "/services/T0/sEcReT"} <= set(loaded.settings.secrets())
    assert "sEcReT" not in repr(loaded.settings)
    message = refusal(write(PROJECT), {"POSTROOM_NOTIFY__HEARTBEAT_URL": "http://h.example/sEcReT"})
    assert message.startswith("notify.heartbeat_url (POSTROOM_NOTIFY__HEARTBEAT_URL): must start with https://")
    assert "sEcReT" not in message
