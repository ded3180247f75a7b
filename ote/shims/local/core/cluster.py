"""The cluster itself, as a state machine: objects are applied, containers start and end, and it decides what comes
next.

Not here: storing, processes, clocks. Every method takes the time and leaves its decisions in `take`: records to be
committed, and effects that may be carried out only after that commit. The one idea is the order: what is to be started
is durable before it is started, so a crash between the two is found out afterwards and nothing runs twice.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from ote.shims.local.core import environment, records, spec, workloads
from ote.shims.local.core.manifest import Manifest
from ote.shims.local.core.names import DEFAULT_NAMESPACE, WORKLOADS, Key, is_label
from ote.shims.local.core.records import Acted, Container, Pod, Stored
from ote.shims.local.core.workloads import Backoff, Plan, Readiness

CREATED, CONFIGURED, UNCHANGED, DELETED, ABSENT = "created", "configured", "unchanged", "deleted", "absent"
"""What happens to an object."""


class Source(Protocol):
    """Where new things come from: chance and the machine's free ports, kept out of the decisions."""

    def uid(self) -> str:
        """A UUID."""

    def suffix(self) -> str:
        """Five letters and digits for the name of a pod."""

    def port(self, preferred: int) -> int:
        """A port that is free now: the preferred one if it is, any other where preferred is 0 or taken."""


class Launch(NamedTuple):
    """Start a container's attempt, or take over what an earlier process of this shim started."""

    uid: str
    container: str
    attempt: int
    adopt: bool = False


class Stop(NamedTuple):
    """End a container's attempt: ask, and after grace seconds insist."""

    uid: str
    container: str
    attempt: int
    grace: int


class Clean(NamedTuple):
    """Remove what a pod left on disk."""

    uid: str


class Refresh(NamedTuple):
    """Write a pod's volumes again: a ConfigMap or Secret changed."""

    uid: str


Effect = Launch | Stop | Clean | Refresh


class Changes(NamedTuple):
    """What came out: records to commit (None: removed), then effects to carry out."""

    objects: dict[Key, Stored | None]
    pods: dict[str, Pod | None]
    effects: list[Effect]


class Cluster:
    """Objects and pods. One owner calls it; times are Unix seconds that do not go back."""

    def __init__(self, source: Source, backoff: Backoff = Backoff()) -> None:
        self.objects: dict[Key, Stored] = {}
        self.pods: dict[str, Pod] = {}
        self.version = 0
        """Grows with every change."""
        self._source = source
        self._backoff = backoff
        self._owned: dict[Key, dict[str, Pod]] = {}
        self._awaited: Counter[str] = Counter()
        self._dirty_objects: dict[Key, None] = {}
        self._dirty_pods: dict[str, None] = {}
        self._effects: list[Effect] = []
        self._touched: dict[Key | str, None] = {}
        self._timers: list[tuple[float, Key | str]] = []
        self._reminders: set[tuple[float, Key | str]] = set()

    def load(self, objects: Iterable[Stored], pods: Iterable[Pod], now: float) -> None:
        """Takes up what an earlier process of this shim remembered; containers that may run are adopted."""
        for stored in objects:
            self.objects[stored.key] = stored
            self._touched[stored.key] = None
        for pod in pods:
            self._add(pod)
            self._touched[pod.uid] = None
            for container in pod.containers:
                container.stopping = False
                if container.active:
                    self._effects.append(Launch(pod.uid, container.name, container.attempt, adopt=True))
                container.retry_at = min(container.retry_at, now + self._backoff.cap)
                container.started = min(container.started, now)  # the clock may have been set back meanwhile
        default = Key("Namespace", "", DEFAULT_NAMESPACE)
        if default not in self.objects:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULT_NAMESPACE}}
            self._put(Stored(default, self._source.uid(), now, body))
        self._settle(now)

    def lookup(self, key: Key) -> dict[str, Any] | None:
        """The body of an object that exists."""
        stored = self.objects.get(key)
        return stored.body if stored is not None else None

    def pods_of(self, owner: Key) -> list[Pod]:
        """The pods that were made for an object, those that end included."""
        return list(self._owned.get(owner, {}).values())

    def pod_named(self, namespace: str, name: str) -> Pod | None:
        """The pod of a name; one that stays wins over one that ends."""
        found = [pod for pod in self.pods.values() if pod.name == name and pod.namespace == namespace]
        return min(found, key=lambda pod: pod.deleting, default=None)

    def check(self, manifests: Sequence[Manifest]) -> list[str]:
        """What speaks against applying the manifests to what exists: one line for each problem."""
        problems = []
        namespaces = {key.name for key in self.objects if key.kind == "Namespace"}
        namespaces |= {manifest.key.name for manifest in manifests if manifest.key.kind == "Namespace"}
        owners = {Key("Pod", pod.namespace, pod.name): pod.owner for pod in self.pods.values()}
        for manifest in manifests:
            key, stored = manifest.key, self.objects.get(manifest.key)
            if key.namespace and key.namespace not in namespaces:
                problems.append(
                    f"{key}: namespace {key.namespace!r} does not exist; apply a Namespace of that name first"
                )
            if key.kind == "Pod" and owners.get(key, key) != key:
                problems.append(f"{key}: belongs to {owners[key]}; change that instead")
            changed = _changed_for_ever(key.kind, stored.body, manifest.body) if stored is not None else ""
            if changed:
                problems.append(f"{key}: {changed} cannot be changed; delete the {key.kind.lower()} first")
        return problems

    def apply(self, manifests: Sequence[Manifest], now: float) -> list[Acted]:
        """Creates or changes objects that were checked; returns what happened to each."""
        actions = []
        for manifest in manifests:
            key, body = manifest.key, manifest.body
            stored = self.objects.get(key)
            if stored is None:
                action, stored = CREATED, Stored(key, self._source.uid(), now, body, revision=_revision(key.kind, body))
                self._put(stored)
            elif stored.body == body:
                action = UNCHANGED
            else:
                action = CONFIGURED
                stored.generation += stored.body.get("spec") != body.get("spec")
                stored.body, stored.revision = body, _revision(key.kind, body)
                self._put(stored)
            actions.append(Acted(key, action, stored.uid, stored.generation))
            if key.kind in ("ConfigMap", "Secret") and action != UNCHANGED:
                self._source_changed(key)
        self._settle(now)
        return actions

    def delete(self, keys: Iterable[Key], now: float) -> list[Acted]:
        """Deletes objects and the pods made for them; a namespace goes with all that is in it."""
        actions = []
        for key in keys:
            actions.append(Acted(key, DELETED if self._delete(key) else ABSENT))
            if key.kind == "Namespace":
                for inner in [other for other in self.objects if other.namespace == key.name]:
                    self._delete(inner)
        self._settle(now)
        return actions

    def terminating(self, keys: Iterable[Key]) -> list[str]:
        """The pods of deleted objects that have not ended yet."""
        wanted = set(keys)
        namespaces = {key.name for key in wanted if key.kind == "Namespace"}
        return [
            pod.uid
            for pod in self.pods.values()
            if pod.deleting
            and (pod.owner in wanted or pod.namespace in namespaces or Key("Pod", pod.namespace, pod.name) in wanted)
        ]

    def hold(self, actions: Iterable[Acted]) -> None:
        """Somebody awaits these objects: what finishes stays, whatever its ttl, until `release`."""
        self._awaited.update(one.uid for one in actions)

    def release(self, actions: Sequence[Acted], now: float) -> None:
        """Nobody awaits them any longer on behalf of that `hold`."""
        self._awaited -= Counter(one.uid for one in actions)
        self._touched |= {one.key: None for one in actions}
        self._settle(now)

    def standing(self, acted: Acted) -> Readiness:
        """How far that is which a command has applied: failed, when a later command deleted or changed it."""
        stored = self.objects.get(acted.key)
        if acted.uid and acted.key.kind in WORKLOADS:
            if stored is None:
                return Readiness(False, True, "another command deleted it while it was awaited", "DELETED")
            if (stored.uid, stored.generation) != (acted.uid, acted.generation):
                return Readiness(False, True, "a later command replaced it while it was awaited", "SUPERSEDED")
        return self.readiness(acted.key)

    def readiness(self, key: Key) -> Readiness:
        """How far an object is; what is not there is ready, and so are kinds that have no readiness."""
        stored = self.objects.get(key)
        if stored is None or key.kind not in WORKLOADS:
            return Readiness(True)
        pods = self.pods_of(key)
        if key.kind == "Pod":
            return workloads.pod_readiness(stored.revision, pods)
        if key.kind == "Job":
            return workloads.job_readiness(stored, pods)
        return workloads.deployment_readiness(spec.deployment_spec(stored.body), stored.revision, pods)

    def started(self, uid: str, name: str, attempt: int, now: float) -> None:
        """An attempt runs (or still runs, after a restart of the shim)."""
        found = self._attempt(uid, name, attempt)
        if found is None or not found[1].active:
            return
        pod, container = found
        if container.state == records.STARTING:
            container.state, container.started = records.RUNNING, now
        if pod.typed.container(name).readiness_probe is not None and not container.ready:
            container.reason, container.message = "", "not ready yet"
        self._change(pod)
        self._settle(now)

    def ended(self, uid: str, name: str, attempt: int, exit_code: int | None, message: str, now: float) -> None:
        """An attempt ended; exit_code None says that it certainly never began."""
        found = self._attempt(uid, name, attempt)
        if found is None or not found[1].active:
            return
        pod, container = found
        container.ready, container.stopping = False, False
        container.good = container.bad = container.sick = 0
        container.exit_code, container.ended = exit_code, now
        if exit_code is None:
            container.state, container.retry_at = records.WAITING, now
        else:
            ran = now - container.started if container.state == records.RUNNING else 0.0
            container.state = records.ENDED
            container.streak = 1 if ran >= self._backoff.reset_after else container.streak + 1
            container.retry_at = now + self._backoff.delay(container.streak)
            container.reason = "Completed" if exit_code == 0 else "Error"
            container.message = message or (f"exit code {exit_code}" if exit_code else "")
        self._change(pod)
        self._settle(now)

    def probed(self, uid: str, name: str, attempt: int, liveness: bool, message: str, now: float) -> None:
        """A probe answered; an empty message is a good answer, else it tells what was wrong."""
        found = self._attempt(uid, name, attempt)
        if found is None or found[1].state != records.RUNNING:
            return
        pod, container = found
        asked = pod.typed.container(name)
        probe = cast("spec.Probe", asked.liveness_probe if liveness else asked.readiness_probe)  # it asks
        if liveness:
            container.sick = container.sick + 1 if message else 0
            if container.sick >= probe.failure_threshold and not container.stopping:
                container.reason, container.message = "Unhealthy", f"liveness probe failed: {message}"
                self._stop(pod, container)
                self._change(pod)
        else:
            container.good, container.bad = (0, container.bad + 1) if message else (container.good + 1, 0)
            before = (container.ready, container.message)
            if container.good >= probe.success_threshold:
                container.ready, container.reason, container.message = True, "", ""
            elif message:
                container.ready = container.ready and container.bad < probe.failure_threshold
                container.message = "" if container.ready else f"readiness probe failed: {message}"
            if before != (container.ready, container.message):
                self._change(pod)
        self._settle(now)

    def tick(self, now: float) -> None:
        """Looks at what is due."""
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            self._reminders.discard(timer)
            self._touched[timer[1]] = None
        self._settle(now)

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do; None: only after another event."""
        return self._timers[0][0] if self._timers else None

    def take(self) -> Changes:
        """What has to be committed and then carried out since the last call."""
        changes = Changes(
            {key: self.objects.get(key) for key in self._dirty_objects},
            {uid: self.pods.get(uid) for uid in self._dirty_pods},
            self._effects,
        )
        self._dirty_objects, self._dirty_pods, self._effects = {}, {}, []
        return changes

    def counts(self) -> tuple[Counter[str], int, int]:
        """Objects by kind, pods that run, and pods that should and do not.

        Failed pods of a job are one together: as long as they are made anew, and when it gave up until it is deleted.
        """
        kinds = Counter(key.kind for key in self.objects if key.kind != "Pod")
        live = [pod for pod in self.pods.values() if not pod.deleting]
        kinds["Pod"] = len(live)
        running = sum(pod.ready for pod in live)
        failing: set[Key | str] = {pod.uid for pod in live if not pod.ready and not pod.over}
        failing |= {pod.uid if pod.owner.kind == "Pod" else pod.owner for pod in live if pod.phase == "Failed"}
        jobs = {key: stored.finished for key, stored in self.objects.items() if stored.finished is not None}
        failing |= {key for key, finished in jobs.items() if not finished.complete}
        failing -= {key for key, finished in jobs.items() if finished.complete}
        return +kinds, running, len(failing)

    def _put(self, stored: Stored) -> None:
        self.objects[stored.key] = stored
        self._dirty_objects[stored.key] = None
        self._touched[stored.key] = None
        self.version += 1

    def _add(self, pod: Pod) -> None:
        self.pods[pod.uid] = pod
        self._owned.setdefault(pod.owner, {})[pod.uid] = pod

    def _change(self, pod: Pod) -> None:
        self._dirty_pods[pod.uid] = None
        self._touched[pod.uid] = None
        self._touched[pod.owner] = None
        self.version += 1

    def _remind(self, when: float, what: Key | str) -> None:
        if (when, what) not in self._reminders:
            self._reminders.add((when, what))
            heapq.heappush(self._timers, (when, what))

    def _attempt(self, uid: str, name: str, attempt: int) -> tuple[Pod, Container] | None:
        pod = self.pods.get(uid)
        if pod is None:
            return None
        container = pod.container(name)
        return (pod, container) if container.attempt == attempt else None

    def _delete(self, key: Key) -> bool:
        stored = self.objects.pop(key, None)
        if stored is not None:
            self._dirty_objects[key] = None
            self._touched[key] = None
            self.version += 1
            if key.kind in ("ConfigMap", "Secret"):
                self._source_changed(key)
            return True
        pod = self.pod_named(key.namespace, key.name) if key.kind == "Pod" else None
        if pod is None or pod.deleting:
            return False
        pod.deleting = True
        self._change(pod)
        return True

    def _source_changed(self, key: Key) -> None:
        for pod in self.pods.values():
            if pod.namespace != key.namespace:
                continue
            if any(not container.attempt for container in pod.containers):
                self._touched[pod.uid] = None
            if key in environment.references(pod.typed, pod.namespace) and not pod.deleting:
                self._effects.append(Refresh(pod.uid))

    def _settle(self, now: float) -> None:
        while self._touched:
            touched = next(iter(self._touched))
            del self._touched[touched]
            if isinstance(touched, str):
                if touched in self.pods:
                    self._settle_pod(self.pods[touched], now)
            elif touched.kind in WORKLOADS:
                self._settle_workload(touched, now)

    def _settle_workload(self, key: Key, now: float) -> None:
        stored, pods = self.objects.get(key), self.pods_of(key)
        plan = self._plan(stored, pods, now) if stored is not None else Plan(delete=pods)
        for pod in plan.delete:
            if not pod.deleting:
                pod.deleting = True
                self._change(pod)
        if stored is None:
            return
        for _ in range(plan.create):
            self._make(stored, now)
        if plan.finished is not None:
            stored.finished = plan.finished
            self._put(stored)
        if plan.wake_at is not None:
            if plan.wake_at > now:
                self._remind(plan.wake_at, key)
            elif stored.uid not in self._awaited:
                self._delete(key)

    def _plan(self, stored: Stored, pods: Sequence[Pod], now: float) -> Plan:
        if stored.key.kind == "Pod":
            return workloads.plan_pod(stored.revision, pods)
        if stored.key.kind == "Job":
            return workloads.plan_job(stored, pods, self._backoff, now)
        return workloads.plan_deployment(spec.deployment_spec(stored.body), stored.revision, pods)

    def _make(self, owner: Stored, now: float) -> None:
        kind, namespace, name = owner.key
        template = owner.body if kind == "Pod" else owner.body["spec"]["template"]
        metadata = template.get("metadata", {})
        if kind == "Deployment":
            name = f"{name[:46].rstrip('-.')}-{owner.revision}-{self._source.suffix()}"
        elif kind == "Job":
            name = f"{name[:57].rstrip('-.')}-{self._source.suffix()}"
        labels = dict(metadata.get("labels", {}))
        if kind == "Deployment":
            labels["pod-template-hash"] = owner.revision
        if kind == "Job" and is_label(owner.key.name):
            labels["job-name"] = owner.key.name
        pod = Pod(
            uid=self._source.uid(),
            namespace=namespace,
            name=name,
            owner=owner.key,
            revision=owner.revision,
            created=now,
            metadata={"labels": labels, "annotations": dict(metadata.get("annotations", {}))},
            spec=template["spec"],
            containers=[Container(container["name"]) for container in template["spec"]["containers"]],
        )
        self._add(pod)
        self._change(pod)

    def _settle_pod(self, pod: Pod, now: float) -> None:
        if pod.deleting:
            active = [container for container in pod.containers if container.active]
            for container in active:
                self._stop(pod, container)
            if not active:
                del self.pods[pod.uid]
                del self._owned[pod.owner][pod.uid]
                if not self._owned[pod.owner]:
                    del self._owned[pod.owner]
                self._change(pod)
                self._effects.append(Clean(pod.uid))
            return
        for container in pod.containers:
            if not container.active and (container.state == records.WAITING or pod.runs_again(container)):
                self._start(pod, container, now)
            elif container.state == records.RUNNING and not container.ready and not container.stopping:
                self._hold(pod, container, now)

    def _hold(self, pod: Pod, container: Container, now: float) -> None:
        """Without a probe a start that has held for a while is ready: one that crashes at once never is."""
        if pod.typed.container(container.name).readiness_probe is not None:
            return
        ready_at = container.started + self._backoff.steady(container.streak)
        if now < ready_at:
            self._remind(ready_at, pod.uid)
        else:
            container.ready = True
            self._change(pod)

    def _start(self, pod: Pod, container: Container, now: float) -> None:
        before = (container.reason, container.message)
        lacking = environment.missing(pod.typed, pod.namespace, self.lookup) if not container.attempt else ""
        if lacking:
            container.reason, container.message = "CreateContainerConfigError", lacking
        elif container.retry_at > now:
            self._remind(container.retry_at, pod.uid)
            if container.reason != "CrashLoopBackOff":
                last = f"; last: {container.message}" if container.message else ""
                container.reason, container.message = "CrashLoopBackOff", f"waits before the next start{last}"
        else:
            container.attempt += 1
            container.state, container.reason, container.message = records.STARTING, "", ""
            container.ports = self._ports(pod, container)
            self._effects.append(Launch(pod.uid, container.name, container.attempt))
        if before != (container.reason, container.message) or container.state == records.STARTING:
            self._change(pod)

    def _ports(self, pod: Pod, container: Container) -> list[int]:
        count = len(pod.typed.container(container.name).ports) or 1
        preferred = container.ports or [0] * count
        taken = {port for other in self._active() if other is not container for port in other.ports}
        chosen: list[int] = []
        for wish in preferred:
            port = self._source.port(wish)
            while port in taken or port in chosen:
                port = self._source.port(0)
            chosen.append(port)
        return chosen

    def _active(self) -> Iterator[Container]:
        return (container for pod in self.pods.values() for container in pod.containers if container.active)

    def _stop(self, pod: Pod, container: Container) -> None:
        if not container.stopping:
            container.stopping = True
            grace = pod.typed.termination_grace_period_seconds
            self._effects.append(Stop(pod.uid, container.name, container.attempt, grace))


def _changed_for_ever(kind: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """The fields that differ and that no object of the kind may change."""
    fixed = {"Deployment": ("selector",), "Job": ("template", "completions", "selector")}.get(kind, ())
    return " and ".join(f"spec.{field}" for field in fixed if _said(before, field) != _said(after, field))


def _said(body: dict[str, Any], field: str) -> Any:
    found = body["spec"].get(field)
    return found["matchLabels"] if field == "selector" and found else found


def _revision(kind: str, body: dict[str, Any]) -> str:
    if kind == "Pod":
        return workloads.revision_of(body["spec"])
    return workloads.revision_of(body["spec"]["template"]) if kind in WORKLOADS else ""
