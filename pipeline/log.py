"""Logging: events to standard error, as lines for people or JSON for machines, secrets redacted."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pipeline.model import SECRET_NAME

_URL_SECRETS = re.compile(r"(https?://)([^/\s?#\"']*@)?([^\s?#\"']*)([?#][^\s\"']*)?", re.IGNORECASE)
MASK = "********"


def set_up_logging(*, level: int, secrets: Iterable[str] = ()) -> None:
    """Send events of `level` and above to standard error: coloured on a terminal, JSON lines otherwise."""
    terminal = sys.stderr.isatty()
    renderer: Processor = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    processors: Sequence[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        Redact(secrets),
        renderer,
    ]
    structlog.configure(
        processors=list(processors),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


class Redact:
    """A structlog processor: masks known secrets, fields named like secrets, and user or query parts of URLs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {key: self._value(key, value) for key, value in event.items()}

    def _value(self, key: str, value: Any) -> Any:
        """A field's value without secrets, also inside lists and tables; what is none of these is shown as text."""
        if SECRET_NAME.search(key):
            return MASK
        if isinstance(value, Mapping):
            return {str(name): self._value(str(name), part) for name, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", part) for part in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(str(value))

    def text(self, text: str) -> str:
        """The same text without secrets; also used for what goes into outcomes and the ledger."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return _URL_SECRETS.sub(r"\1\3", text)
