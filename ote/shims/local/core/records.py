"""What the local shim remembers: objects as they were applied, and pods with the state of their containers.

Not here: what is decided about them. These records are written to the store as they are; times are Unix seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ote.shims.local.core.names import Key
from ote.shims.local.core.spec import PodSpec, pod_spec

WAITING, STARTING, RUNNING, ENDED = "waiting", "starting", "running", "ended"
"""States of a container. STARTING is durable before the container is: then only its driver knows whether it runs."""


class Finished(msgspec.Struct, frozen=True):
    """How a job ended; it never runs again."""

    complete: bool
    reason: str
    message: str
    at: float


class Stored(msgspec.Struct):
    """An object that somebody applied.

    revision names the part that pods are made from: pods of another revision are replaced.
    """

    key: Key
    uid: str
    created: float
    body: dict[str, Any]
    generation: int = 1
    revision: str = ""
    finished: Finished | None = None


class Acted(NamedTuple):
    """What a command did to an object; uid and generation name what it left there, so that a later command shows."""

    key: Key
    action: str
    uid: str = ""
    generation: int = 0


class Container(msgspec.Struct):
    """The state of one container. attempt counts its starts: attempt n is started at most once, whatever crashes.

    streak: ends in a row without a long run between them. ports: the free port of each port that the container
    declares, or one if it declares none. good and bad: readiness probes in a row, sick: liveness probes that failed in
    a row.
    """

    name: str
    state: str = WAITING
    attempt: int = 0
    ports: list[int] = msgspec.field(default_factory=list)
    ready: bool = False
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    started: float = 0.0
    ended: float = 0.0
    streak: int = 0
    retry_at: float = 0.0
    good: int = 0
    bad: int = 0
    sick: int = 0
    stopping: bool = False

    @property
    def active(self) -> bool:
        """Whether its process may exist."""
        return self.state in (STARTING, RUNNING)

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(self.attempt - 1, 0)


class Pod(msgspec.Struct, dict=True):
    """A pod: made for the object owner, from the pod spec of the revision."""

    uid: str
    namespace: str
    name: str
    owner: Key
    revision: str
    created: float
    metadata: dict[str, Any]
    spec: dict[str, Any]
    containers: list[Container]
    deleting: bool = False

    @property
    def typed(self) -> PodSpec:
        """The pod spec with types."""
        cached: PodSpec | None = self.__dict__.get("typed_spec")
        if cached is None:
            cached = self.__dict__["typed_spec"] = pod_spec(self.spec)
        return cached

    @property
    def phase(self) -> str:
        """Kubernetes' phase: Pending, Running, Succeeded or Failed."""
        if all(container.state == ENDED and not self.runs_again(container) for container in self.containers):
            return "Succeeded" if all(container.exit_code == 0 for container in self.containers) else "Failed"
        started = any(container.state != STARTING and container.attempt for container in self.containers)
        return "Running" if started else "Pending"

    @property
    def ready(self) -> bool:
        """Whether all its containers are ready and it is to stay."""
        return not self.deleting and all(container.ready for container in self.containers)

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.phase in ("Succeeded", "Failed")

    def container(self, name: str) -> Container:
        """The state of a container that the pod has."""
        return next(container for container in self.containers if container.name == name)

    def runs_again(self, container: Container) -> bool:
        """Whether a container that ended is started again by the pod's restart policy."""
        policy = self.typed.restart_policy
        return policy == "Always" or (policy == "OnFailure" and container.exit_code != 0)
