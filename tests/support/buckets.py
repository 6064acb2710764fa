"""Sites with buckets as lake and vault."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Site
from tests.support.servers.s3 import S3Server


def in_buckets(site: Site, server: S3Server, *, lock: str = "", media: str = "") -> str:
    """Move a site's stores to new buckets; returns the vault's. `lock`, `media`: lines of [vault.lock] and [media]."""
    return config_in_buckets(site.config, server, lock=lock, media=media)


def config_in_buckets(config: Path, server: S3Server, *, lock: str = "", media: str = "") -> str:
    """As `in_buckets`, for a settings file with folders as stores."""
    lake, vault = server.new_bucket(), server.new_bucket(lock=bool(lock))
    text = config.read_text()
    text = re.sub(r'(?m)^url = "file:.*/lake"$', f'url = "s3://{lake}/the/lake"', text)
    text = re.sub(r'(?m)^url = "file:.*/vault"$', f'url = "s3://{vault}/the/vault"', text)
    text += f'\n[s3]\nendpoint_url = "{server.endpoint_url}"\nregion = "us-east-1"\n'
    text += f"\n[vault.lock]\n{lock}\n" if lock else ""
    text += f"\n[media]\n{media}\n" if media else ""
    config.write_text(text)
    return vault
