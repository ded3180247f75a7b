"""What the shim needs from a driver: something that runs the containers of a pod. `process` and `podman` are the two.

A driver decides nothing. It starts an attempt when told, tells when it ended, and finds an earlier attempt again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ote.shims.local.core.environment import VolumeFile
from ote.shims.local.core.manifest import Needs
from ote.shims.local.core.records import Pod
from ote.shims.local.core.spec import Container


class Plan(NamedTuple):
    """All that an attempt of a container is made from.

    variables: its whole environment. siblings: the plans of all containers of the pod, this one included. volumes:
    files by volume name, None for a folder that belongs to the containers.
    """

    pod: Pod
    container: Container
    attempt: int
    ports: Sequence[int]
    command: Sequence[str]
    variables: Mapping[str, str]
    volumes: Mapping[str, Sequence[VolumeFile] | None]
    siblings: Callable[[], Sequence[Plan]]


class Ended(NamedTuple):
    """How an attempt ended. exit_code None: it certainly never began, and may be made again at once."""

    exit_code: int | None
    message: str = ""


class Driver(Protocol):
    """Runs containers. Methods that wait may be cancelled; that ends no container."""

    kind: str
    needs: Needs

    def base_variables(self, pod: Pod, container: Container, ports: Sequence[int]) -> dict[str, str]:
        """The variables that every container gets: PORT and what else the driver gives."""

    def reach(self, container: Container, ports: Sequence[int], port: int | str) -> int:
        """The port of this machine that stands for a port of the manifest."""

    def holds(self, port: int) -> bool:
        """Whether the driver itself keeps a port for a container that it gave it to before."""

    async def begin(self, known: Mapping[str, Mapping[str, int]]) -> None:
        """Called once before all else: ends and removes what pods left behind that nobody knows any longer. known: the
        last attempt of each container, by the pod's uid; later ones are of a state of the store that was lost."""

    async def run(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """Starts an attempt, calls started once it runs, and returns when it has ended."""

    async def adopt(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """The same for an attempt that an earlier process may have started: never starts it."""

    async def stop(self, pod: Pod, container: str, attempt: int, grace: float) -> None:
        """Asks an attempt to end, insists after grace seconds. `run` or `adopt` tells when it has."""

    async def refresh(self, pod: Pod, volumes: Mapping[str, Sequence[VolumeFile] | None]) -> None:
        """Writes volumes again."""

    async def clean(self, uid: str) -> None:
        """Removes what a pod left behind, when all its containers have ended."""

    async def execute(self, plan: Plan, command: Sequence[str], timeout: float) -> str:
        """Runs a command in the place of a container that runs; returns what was wrong, empty for exit code 0."""

    async def log(self, pod: Pod, container: str, lines: int, limit: int) -> bytes:
        """The last lines of a container's log, at most limit bytes of them."""
