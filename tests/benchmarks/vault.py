"""`make bench`: files from an HTTP host into a bucket, ours against what people have at hand, in one run.

python -m tests.benchmarks.vault --mib 2048

Every contender copies the same four files from the same host (the simulator) to the same S3 server (Ceph, which keeps
them in memory), all files at once. Ours also hashes on the way, proves, probes and writes manifests; the others only
copy. `boto3` uploads as many bytes from memory: the floor.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import boto3
from boto3.s3.transfer import TransferConfig
from rich.console import Console
from rich.table import Table

from pipeline.enablex.simulator.media import media_size
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import SimFile, World
from pipeline.storage import MIB
from tests.support.servers.ceph import ceph_server
from tests.support.servers.s3 import ENVIRON, S3Server

_PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
_NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


@dataclass(frozen=True)
class Run:
    """All processes of one contender; `peak_mib` of the largest one."""

    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True)
class Course:
    """Where the files are, and where they go."""

    folder: Path
    simulator: Simulator
    files: tuple[SimFile, ...]
    server: S3Server
    bucket: str

    def url(self, file: SimFile) -> str:
        return self.simulator.files_url + file.path

    @property
    def user(self) -> str:
        project = self.simulator.world.project("acme")
        return f"{project.files_user}:{project.files_password}"


def postroom_command(course: Course, *arguments: str) -> list[str]:
    config = str(course.folder / "postroom.toml")
    return [sys.executable, "-m", "pipeline", "--config", config, "--now", _NOW.isoformat(), "--json", *arguments]


def postroom(course: Course) -> list[list[str]]:
    return [postroom_command(course, "media", "copy", "--no-refresh")]


def curl_and_aws(course: Course) -> list[list[str]]:
    aws = f"aws --endpoint-url {course.server.endpoint_url} s3 cp --only-show-errors"
    return [
        ["sh", "-c", f"curl -sf -u '{course.user}' '{course.url(file)}' | {aws} - s3://{course.bucket}/aws/{number}"]
        for number, file in enumerate(course.files)
    ]


def rclone(course: Course) -> list[list[str]]:
    remote = f":s3,provider=Ceph,env_auth=true,endpoint='{course.server.endpoint_url}':{course.bucket}"
    scheme, _, rest = course.simulator.files_url.partition("://")
    user = course.user.replace("@", "%40")
    return [
        [
            "rclone",
            "--config",
            "/dev/null",
            "copyurl",
            f"{scheme}://{user}@{rest}{file.path}",
            f"{remote}/rclone/{number}",
        ]
        for number, file in enumerate(course.files)
    ]


def boto3_from_memory(course: Course) -> list[list[str]]:
    """As many bytes, made in memory; uploaded by boto3 as it comes."""
    sizes = ",".join(str(file.size_bytes) for file in course.files)
    return [
        [
            sys.executable,
            "-m",
            "tests.benchmarks.vault",
            "--floor",
            f"{course.server.endpoint_url} {course.bucket} {sizes}",
        ]
    ]


CONTENDERS: dict[str, Callable[[Course], list[list[str]]]] = {
    "postroom": postroom,
    "curl | aws s3 cp -": curl_and_aws,
    "rclone copyurl": rclone,
    "boto3 from memory": boto3_from_memory,
}


class _Zeros:
    """A stream of so many bytes that costs nothing."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def read(self, size: int = -1) -> bytes:
        taken = self._left if size < 0 else min(size, self._left)
        self._left -= taken
        return bytes(taken)


def floor(endpoint_url: str, bucket: str, sizes: list[int]) -> None:
    client = boto3.client("s3", endpoint_url=endpoint_url)
    config = TransferConfig(multipart_chunksize=16 * MIB)
    with ThreadPoolExecutor(len(sizes)) as threads:
        for number, size in enumerate(sizes):
            threads.submit(client.upload_fileobj, _Zeros(size), bucket, f"boto3/{number}", Config=config)


def run(commands: list[list[str]]) -> Run:
    """Run commands side by side and wait for all."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ |= {**ENVIRON, "PATH": _PATH}
    started = time.perf_counter()
    processes = [subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) for command in commands]
    cpu_s = peak_mib = 0.0
    for process in processes:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 4):
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        cpu_s += used.ru_utime + used.ru_stime
        peak_mib = max(peak_mib, used.ru_maxrss / 1024)
    return Run(time.perf_counter() - started, cpu_s, peak_mib)


def empty(course: Course) -> None:
    """Make the bucket as it was: what a round wrote stays in memory otherwise."""
    client = course.server.client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=course.bucket):
        for found in page.get("Contents", ()):
            if "/raw/" not in found["Key"]:
                client.delete_object(Bucket=course.bucket, Key=found["Key"])
    time.sleep(3)  # Ceph lets go of deleted objects a second later


@contextmanager
def prepared(size_bytes: int) -> Iterator[Course]:
    """A host with four files of this size (and a chat), a bucket, settings, the listing landed."""
    world = World(seed=222, projects=("acme",), sessions_per_day=1, begin=(_NOW - timedelta(days=1)).date())
    with tempfile.TemporaryDirectory(prefix="postroom-bench-") as place, ceph_server(Path(place)) as server:
        chosen = [file for file in world.files("acme", _NOW) if file.text is None]
        files = tuple(replace(file, size_bytes=media_size(file.format, size_bytes)) for file in chosen)
        faults = [f"big_file@{file.path}={size_bytes}" for file in files]
        with Simulator(world, now=_NOW, faults=faults) as simulator:
            bucket, config = server.new_bucket(), Path(place, "postroom.toml")
            text = re.sub(
                r'(?m)^url = "file:.*/vault"$', f'url = "s3://{bucket}/vault"', simulator.settings_toml(place)
            )
            config.write_text(f'{text}\n[s3]\nendpoint_url = "{server.endpoint_url}"\n')
            course = Course(Path(place), simulator, files, server, bucket)
            run([postroom_command(course, "collect", "--source", "archive")])
            yield course


def show(console: Console, course: Course, runs: dict[str, list[Run]]) -> None:
    size_mib = sum(file.size_bytes for file in course.files) / MIB
    console.print(f"{len(course.files)} files, {size_mib:,.0f} MiB, all at once, {os.cpu_count()} cores; medians")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "wall s", "cpu s", "peak MiB", "MiB/s", "postroom / it"):
        table.add_column(heading, justify="left" if not heading else "right")
    wall = {name: median(one.wall_s for one in ones) for name, ones in runs.items()}
    for name, ones in runs.items():
        table.add_row(
            name,
            f"{wall[name]:.2f}",
            f"{median(one.cpu_s for one in ones):.2f}",
            f"{max(one.peak_mib for one in ones):,.0f}",
            f"{size_mib / wall[name]:,.0f}",
            f"{wall['postroom'] / wall[name]:.2f}" if "postroom" in wall else "",
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "tests.benchmarks.vault", description="Files into a bucket, ours against its peers."
    )
    parser.add_argument("--mib", type=int, default=256, help="of each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--floor", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.floor:
        endpoint_url, bucket, sizes = given.floor.split(" ")
        floor(endpoint_url, bucket, [int(size) for size in sizes.split(",")])
        return 0
    console = Console()
    needs = {"curl | aws s3 cp -": "aws", "rclone copyurl": "rclone"}
    runs: dict[str, list[Run]] = {name: [] for name in given.only.split(",")}
    for name in [name for name in runs if name in needs and not shutil.which(needs[name], path=_PATH)]:
        console.print(f"{name}: {needs[name]} is not installed; left out")
        del runs[name]
    with prepared(given.mib * MIB) as course:
        for number in range(given.rounds):
            for name, done in runs.items():
                console.print(f"[dim]round {number + 1}: {name}[/]")
                done.append(run(CONTENDERS[name](course)))
                empty(course)
        show(console, course, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
