"""Send changes to a webhook and a heartbeat to a dead man's switch. The URLs are secrets: no error contains them."""

from __future__ import annotations

from pipeline.core.errors import Unreachable

_TIMEOUT_S = 10.0


def post_text(url: str, text: str) -> None:
    """Post `{"text": …}`, the format of Slack and compatible services. Raises Unreachable."""
    _send("webhook", "POST", url, {"text": text})


def ping(url: str) -> None:
    """Send a heartbeat (GET). Raises Unreachable."""
    _send("heartbeat", "GET", url, None)


def _send(what: str, method: str, url: str, body: dict[str, str] | None) -> None:
    import httpx  # noqa: PLC0415 - most runs send nothing

    try:
        status = httpx.request(method, url, json=body, timeout=_TIMEOUT_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"notify.{what}_url: {type(error).__name__}", endpoint=what) from None
    if status >= 300:
        raise Unreachable(f"notify.{what}_url: HTTP status {status}", endpoint=what, status=status)
