"""Lake and vault in buckets, on real S3 servers: the same nightly run and the same tables."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from jobs.nightly import nightly
from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.storage import read_bytes
from pipeline.storage.keys import table_key
from pipeline.storage.manifests import current_manifests
from pipeline.storage.s3 import S3Store
from pipeline.tables import parquet
from pipeline.tables.query import run_query
from pipeline.tables.schemas import TABLES
from tests.benchmarks.lake import make_lake
from tests.conftest import NOW, Site
from tests.integration.media.test_copy import DAYS
from tests.support.buckets import in_buckets
from tests.support.servers.proxy import between
from tests.support.servers.s3 import S3Server

WORLD = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=1)).date())


def test_a_night_in_buckets_is_a_night_in_folders(make_site: Callable[..., Site], s3: S3Server) -> None:
    """Every table is byte-identical, every file is stored correctly, and a second night changes nothing."""
    folders, buckets = make_site(WORLD), make_site(WORLD)
    buckets.config.write_text(folders.config.read_text().replace(str(folders.folder), str(buckets.folder)))
    in_buckets(buckets, s3)
    with folders.app(NOW) as here, buckets.app(NOW) as there:
        assert nightly(here).failed == []
        outcome = nightly(there)
        assert (outcome.failed, outcome.exit_code) == ([], 0)
        for stored in here.lake.list("tables/"):
            if "/media/" not in stored.key:  # contains the verification of each store
                assert read_bytes(there.lake, stored.key) == read_bytes(here.lake, stored.key), stored.key
        assert [stored.key for stored in there.lake.list("")] == [stored.key for stored in here.lake.list("")]
        files = [entry for manifest in current_manifests(there.vault, "acme", DAYS) for entry in manifest.files]
        assert len(files) > 5
        for entry in files:
            assert hashlib.sha256(read_bytes(there.vault, entry.key or "")).hexdigest() == entry.sha256
        assert {entry.proof for entry in files} == {"md5" if s3.name == "ceph" else "crc64nvme"}
        assert parquet.read_arrow("cdr", lake=there.lake).equals(parquet.read_arrow("cdr", lake=here.lake))
        before = {stored.key: there.lake.attributes(stored.key) for stored in there.lake.list("")}
        assert nightly(there).counts["tables_written"] == 0
        assert {stored.key: there.lake.attributes(stored.key) for stored in there.lake.list("")} == before


def test_a_night_with_nothing_new_asks_a_bucket_little(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """Responses of 10 days are listed together: a night over 10 built days sends fewer than 180 list requests."""
    site = make_site(World(projects=("acme",), sessions_per_day=1, begin=(NOW - timedelta(days=10)).date()))
    in_buckets(site, ceph)
    asked: Counter[str] = Counter()
    with site.app(NOW) as app:
        nightly(app)
        for store in (app.lake, app.vault):
            assert isinstance(store, S3Store)
            store.client.meta.events.register("before-call.s3", lambda model, **_: asked.update([model.name]))
        assert nightly(app).counts["tables_written"] == 0
    assert asked["ListObjectsV2"] < 180
    assert asked.total() < 290


def test_queries_read_buckets(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """Every table is a view for `query` when the lake is a bucket, also before anything was built."""
    site = make_site(WORLD)
    in_buckets(site, ceph)
    with site.app(NOW) as app:
        for table in TABLES:
            assert run_query(app.lake, f"SELECT count(*) AS rows FROM {table}").to_pylist() == [{"rows": 0}]


def test_queries_of_a_bucket_read_what_they_need(ceph: S3Server) -> None:
    """Conditions on project and day skip objects in a bucket too: of 9 objects only the selected one is read, and only
    the selected columns of it.
    """
    days = [NOW.date() - timedelta(days=back) for back in range(3)]
    with between(ceph) as proxy:
        bucket = ceph.new_bucket()
        for project in ("acme", "globex", "initech"):
            make_lake(ceph.store(bucket), Period(days[-1], days[0]), 3_000, project=project)
        asked = f"SELECT count(room_id) AS rows FROM cdr WHERE project = 'globex' AND day = DATE '{days[1]}'"
        assert run_query(proxy.server.store(bucket), asked).to_pylist() == [{"rows": 1000}]
        read = [exchange for exchange in proxy.seen if exchange.method == "GET" and "part-0.parquet" in exchange.target]
        key = table_key("cdr", "globex", days[1])
        assert {unquote(urlsplit(exchange.target).path) for exchange in read} == {f"/{bucket}/{key}"}
        stored = ceph.store(bucket).head(key)
        assert stored
        assert sum(len(exchange.answer) for exchange in read) < stored.size_bytes
