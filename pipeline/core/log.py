"""Logging: events to standard error, as lines for people or JSON for machines, secrets redacted.

Every line of a run has `run_id` (of the run store) and `command`; a line about an item also `item`, `project`, `day`.
They are bound to the context, which the threads of a run share (`concurrency.ContextThreadPool`).
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

    What libraries warn of goes the same way.
    """
    terminal = sys.stderr.isatty()
    renderer: Processor = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    about: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    told: list[Processor] = [structlog.processors.format_exc_info, Redact(secrets), renderer]
    structlog.configure(
        processors=[*about, *told],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(sys.stderr)
    forget = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    libraries.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=about, processors=[forget, *told]))
    logging.basicConfig(handlers=[libraries], level=logging.WARNING, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def item_fields(item: object) -> dict[str, str]:
    """What lines about an item say of it: `item`, and `project` and `day` where it has them."""
    of_item = {name: getattr(item, name, None) for name in ("project", "day")}
    return {"item": str(item), **{name: str(value) for name, value in of_item.items() if value is not None}}


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
        """The same text without secrets; also used for outcomes and the run store."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return _URL_SECRETS.sub(r"\1\3", text)
