"""Two processes append to the manifests of one session, interleaved in any order: no entry is lost."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import ListedFile
from pipeline.storage import LocalStore, Retention, manifests, read_bytes
from pipeline.storage.keys import manifest_key
from tests.support.records import listed_file

AT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
NAMES = st.sampled_from(["a1.mkv", "a2.mkv", "b1.mp4", "chat.json"])


def lost(name: str) -> tuple[ListedFile, manifests.Entry]:
    file = listed_file(name=name)
    return file, manifests.lost_entry(file, "HTTP 404", 404, AT)


class Contested(LocalStore):
    """A folder in which another process appends an entry between a read and the following write."""

    def __init__(self, root: Path, rivals: list[str]) -> None:
        super().__init__(root)
        self.rivals = rivals

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        if self.rivals:
            file, entry = lost(self.rivals.pop())
            manifests._append(self, file, entry, None)  # another process does not share the lock
        return super().put_if_absent(key, content, retention=retention)


@given(own=st.lists(NAMES, min_size=1, max_size=4), rivals=st.lists(NAMES, max_size=6))
def test_no_entry_is_lost_between_two_writers(own: list[str], rivals: list[str]) -> None:
    """Revisions are 1 to N, each manifest has the digest and all files of its predecessor, and the last one
    has every name that either writer appended."""
    with tempfile.TemporaryDirectory() as folder:
        store = Contested(Path(folder), list(rivals))
        for name in own:
            file, entry = lost(name)
            assert manifests.append_entry(store, file, entry).identity == entry.identity
        written = set(own) | set(rivals[len(store.rivals) :])
        previous, previous_names = None, set()
        for revision in range(1, 1 + len(list(store.list("manifests/")))):
            key = manifest_key(file.project, file.day, file.conf_num, revision)
            content = read_bytes(store, key)
            manifest = manifests.read_manifest(content, key)
            assert manifest.previous_sha256 == previous
            names = {entry.name for entry in manifest.files}
            assert names >= previous_names
            previous, previous_names = hashlib.sha256(content).hexdigest(), names
        assert previous_names == written
