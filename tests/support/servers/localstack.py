"""localstack as an S3 server. Unlike Ceph 16 it supports CRC64NVME and conditional completion, as AWS does.

It does not check credentials: any key and secret are accepted. It starts in 3 s.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.servers.children import child, environ_of_child, free_port, program, wait_until
from tests.support.servers.s3 import S3Server

PYTHON = ROOT / ".venv" / "localstack" / "bin" / "python"


@contextlib.contextmanager
def localstack_server(folder: Path) -> Iterator[S3Server]:
    """Start localstack with its files in a folder; stop it at the end. Raises NotInstalled."""
    port = free_port()
    environ = environ_of_child(
        SERVICES="s3",
        EAGER_SERVICE_LOADING="1",
        STRICT_SERVICE_LOADING="1",
        GATEWAY_LISTEN=f"127.0.0.1:{port}",
        DISABLE_EVENTS="1",
        SKIP_SSL_CERT_DOWNLOAD="1",
        DNS_ADDRESS="0",
        FILESYSTEM_ROOT=str(folder),
        HOME=str(folder),
    )

    def is_ready() -> bool:
        with (
            contextlib.suppress(OSError, ValueError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_localstack/health", timeout=5) as answer,
        ):
            return bool(json.load(answer)["services"]["s3"] in {"running", "available"})
        return False

    log = folder / "localstack.log"
    with child([program(PYTHON), "-m", "localstack.runtime.main"], log, environ) as process:
        wait_until(is_ready, process, log)
        yield S3Server("localstack", f"http://127.0.0.1:{port}")
