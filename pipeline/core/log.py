"""Logging: events to standard error, as lines for people or JSON for machines, secrets redacted.

Every line of a run has `run_id` (as in the run store) and `command`; a line about an item also has `item`, `project`
and `day`. These fields are bound to the context, which threads of a run share (`concurrency.ContextThreadPool`).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pipeline.core.models import SECRET_NAME

_URL_SECRETS = re.compile(r"(https?://)([^/\s?#\"']*@)?([^\s?#\"']*)([?#][^\s\"']*)?", re.IGNORECASE)
MASK = "********"


def set_up_logging(*, level: int, secrets: Iterable[str] = ()) -> None:
    """Send events of `level` and above to standard error: coloured on a terminal, JSON lines otherwise.

    Warnings of libraries are formatted and redacted in the same way.
    """
    terminal = sys.stderr.isatty()
    renderer: Processor = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    context: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [structlog.processors.format_exc_info, Redact(secrets), renderer]
    structlog.configure(
        processors=[*context, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=context, processors=[remove_meta, *rendering])
    )
    logging.basicConfig(handlers=[libraries], level=logging.WARNING, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def item_fields(item: object) -> dict[str, str]:
    """Log fields of an item: `item`, and `project` and `day` if it has them."""
    fields = {name: getattr(item, name, None) for name in ("project", "day")}
    return {"item": str(item), **{name: str(value) for name, value in fields.items() if value is not None}}


class Redact:
    """A structlog processor: masks known secrets, fields named like secrets, and user or query parts of URLs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {key: self._value(key, value) for key, value in event.items()}

    def _value(self, key: str, value: Any) -> Any:
        """A field's value without secrets, also inside lists and mappings; other objects become text."""
        if SECRET_NAME.search(key):
            return MASK
        if isinstance(value, Mapping):
            return {str(name): self._value(str(name), part) for name, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", part) for part in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(str(value))

    def text(self, text: str) -> str:
        """The text without secrets; also used for run results and the run store."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return _URL_SECRETS.sub(r"\1\3", text)
