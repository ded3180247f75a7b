"""What the machine has and uses, and what runs on it, for WatchStatus.

The one idea: a watcher hears at once, then of changes of the cluster at most once a second, and of the machine's load
every quarter of a minute.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf import timestamp_pb2

from ote.api.shim.v1 import shim_pb2 as pb
from ote.shims.local.keeper import Keeper

_LEAST_SECONDS = 1.0
_LOAD_SECONDS = 15.0
_MAX_PODS = 1000


class StatusSource:
    """The status of one keeper's cluster; data_dir tells which disk counts."""

    def __init__(self, keeper: Keeper, data_dir: Path) -> None:
        self._keeper = keeper
        self._data_dir = data_dir
        self._busy = _busy_ticks()

    async def watch(self) -> AsyncIterator[pb.ClusterStatus]:
        """The status now, and again when it changed."""
        keeper = self._keeper
        while True:
            version = keeper.cluster.version
            yield self.now()
            await asyncio.sleep(_LEAST_SECONDS)
            await keeper.next_change(version, _LOAD_SECONDS - _LEAST_SECONDS)

    def now(self) -> pb.ClusterStatus:
        """The status at this moment."""
        kinds, running, failing = self._keeper.cluster.counts()
        disk = shutil.disk_usage(self._data_dir)
        memory = _memory()
        status = pb.ClusterStatus(
            ready=not self._keeper.trouble,
            message=self._keeper.trouble,
            capacity=pb.Resources(
                cpu_millis=1000 * _cores(), memory_bytes=memory[0], disk_bytes=disk.total, pods=_MAX_PODS
            ),
            usage=pb.Resources(
                cpu_millis=self._cpu_millis(), memory_bytes=memory[0] - memory[1], disk_bytes=disk.used, pods=running
            ),
            nodes=1,
            nodes_ready=0 if self._keeper.trouble else 1,
            workloads=kinds,
            pods_running=running,
            pods_failing=failing,
        )
        stamp = timestamp_pb2.Timestamp()
        stamp.FromNanoseconds(int(self._keeper.clock.now() * 1e9))
        status.as_of.CopyFrom(stamp)
        return status

    def _cpu_millis(self) -> int:
        """Use since the last time somebody looked."""
        (total_before, busy_before), (total, busy) = self._busy, _busy_ticks()
        if total - total_before >= os.sysconf("SC_CLK_TCK"):
            self._busy = (total, busy)
        return int(1000 * _cores() * (busy - busy_before) / max(total - total_before, 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _busy_ticks() -> tuple[int, int]:
    """(All, busy) ticks of all processors since boot, from the first line of /proc/stat."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4]


def _memory() -> tuple[int, int]:
    """(All, available) bytes of memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return found["MemTotal"], found.get("MemAvailable", found["MemFree"])
