"""Ceph from Debian's packages as an S3 server: a monitor, an object daemon with objects in memory, a gateway.

Ceph 16 checks signatures, Content-MD5 and Object Lock, and supports If-None-Match on PUT. It does not support
`x-amz-checksum-…` or a conditional CompleteMultipartUpload. It starts in 2 s and uses 115 MB.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from tests.support.servers.children import child, environ_of_child, free_port, listens, program, wait_until
from tests.support.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")


@contextlib.contextmanager
def ceph_server(folder: Path) -> Iterator[S3Server]:
    """Start Ceph with its files in a folder; stop it at the end. Raises NotInstalled."""
    for name in PROGRAMS:
        program(name)
    fsid, disk, monitor_port, port = str(uuid4()), str(uuid4()), free_port(), free_port()
    monitor = f"[v2:127.0.0.1:{monitor_port}]"
    config = folder / "ceph.conf"
    config.write_text(_config(folder, fsid, monitor, port))
    environ = environ_of_child(CEPH_CONF=str(config))

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])}:\n{done.stdout}{done.stderr}")

    with contextlib.ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(child([*command, "-f"], folder / f"{command[0]}.log", environ))

        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, str(folder / "monmap"))
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"))
        start("ceph-mon", "-i", "a")
        run("ceph", "osd", "new", disk)
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-osd", "-i", "0")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        run("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "t", "--display-name", "t", *keys)
        gateway = start("radosgw", "-n", "client.rgw")
        wait_until(lambda: listens(port), gateway, folder / "radosgw.log")
        yield S3Server("ceph", f"http://127.0.0.1:{port}")


def _config(folder: Path, fsid: str, monitor: str, port: int) -> str:
    (folder / "mon").mkdir()
    (folder / "osd").mkdir()
    return f"""
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
run dir = {folder}
log file =
log to stderr = true
admin socket =
pid file =
[mon]
mon data = {folder}/mon
mon initial members = a
paxos propose interval = 0.02
paxos min wait = 0.01
mon osd full ratio = .98
mon osd nearfull ratio = .97
mon data avail crit = 1
mon data avail warn = 2
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 12G
osd class load list = *
osd class default list = *
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dns name = localhost
rgw enable usage log = false
rgw gc obj min wait = 1
rgw gc processor period = 3
"""
