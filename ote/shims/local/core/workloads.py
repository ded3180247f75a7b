"""How many pods a workload wants next: pure functions from what it asks for and the pods it has to what to do.

Not here: who carries that out (`cluster`). The one idea: each function looks at everything as it is now and never at
what happened before, so that any of them can be called at any time, and a crash in between changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ote.shims.local.core import spec
from ote.shims.local.core.records import Finished, Pod, Stored


class Plan(NamedTuple):
    """What a workload wants: pods to make and to end, the end of the job, when to look again (None: on change)."""

    create: int = 0
    delete: Sequence[Pod] = ()
    finished: Finished | None = None
    wake_at: float | None = None


class Readiness(NamedTuple):
    """Whether an object is ready, whether it can never become so, what it waits for, and what a result calls that."""

    ready: bool
    failed: bool = False
    message: str = ""
    reason: str = "NOT_READY"


class Backoff(NamedTuple):
    """Delays between starts, in seconds: base, doubled up to cap; a run of reset_after counts as a new beginning.

    steady_cap: the longest time that a start without readiness probe has to hold before it counts as ready.
    """

    base: float = 1.0
    cap: float = 300.0
    reset_after: float = 600.0
    steady_cap: float = 10.0

    def delay(self, streak: int) -> float:
        """The delay after the streak-th end in a row."""
        return min(self.cap, self.base * 2.0 ** min(streak - 1, 32))

    def steady(self, streak: int) -> float:
        """How long a start after that many ends in a row has to hold before it counts as ready."""
        return min(self.steady_cap, self.delay(streak + 1))


def revision_of(template: dict[str, Any]) -> str:
    """A name for what pods are made from; equal templates have equal names."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def plan_pod(revision: str, pods: Sequence[Pod]) -> Plan:
    """One pod of the revision; a changed one is replaced after the old one is gone."""
    outdated = [pod for pod in pods if pod.revision != revision and not pod.deleting]
    return Plan(create=0 if pods else 1, delete=outdated)


def plan_deployment(wanted: spec.DeploymentSpec, revision: str, pods: Sequence[Pod]) -> Plan:
    """The next step to the wanted number of pods of the revision, within the bounds of the strategy."""
    live = [pod for pod in pods if not pod.deleting]
    new = [pod for pod in live if pod.revision == revision]
    old = [pod for pod in live if pod.revision != revision]
    surplus = sorted(new, key=_least_useful_first)[: max(len(new) - wanted.replicas, 0)]
    lacking = max(wanted.replicas - len(new), 0)
    if wanted.strategy.type == "Recreate":
        waits = any(pod.revision != revision for pod in pods)
        return Plan(create=0 if waits else lacking, delete=[*old, *surplus])
    surge, unavailable = _bounds(wanted)
    create = min(lacking, max(wanted.replicas + surge - len(live), 0))
    spare = sum(pod.ready for pod in live) - sum(pod.ready for pod in surplus) - (wanted.replicas - unavailable)
    ending = list(surplus)
    for pod in sorted(old, key=_least_useful_first):
        if pod.ready:
            if spare <= 0:
                continue
            spare -= 1
        ending.append(pod)
    return Plan(create=create, delete=ending)


def _least_useful_first(pod: Pod) -> tuple[bool, float, str]:
    return (pod.ready, -pod.created, pod.uid)


def _bounds(wanted: spec.DeploymentSpec) -> tuple[int, int]:
    rolling = wanted.strategy.rolling_update
    surge = _amount(rolling.max_surge, wanted.replicas, math.ceil)
    unavailable = _amount(rolling.max_unavailable, wanted.replicas, math.floor)
    return (surge, unavailable) if surge or unavailable else (1, 0)


def _amount(share: int | str, replicas: int, rounded: Any) -> int:
    if isinstance(share, int):
        return share
    return int(rounded(int(share[:-1]) * replicas / 100))


def plan_job(job: Stored, pods: Sequence[Pod], backoff: Backoff, now: float) -> Plan:
    """The next step of a job: pods for what is left, or its end."""
    wanted = spec.job_spec(job.body)
    live = [pod for pod in pods if not pod.deleting]
    active = [pod for pod in live if not pod.over]
    if job.finished is not None:
        ttl = wanted.ttl_seconds_after_finished
        return Plan(delete=active, wake_at=None if ttl is None else job.finished.at + ttl)
    succeeded = sum(pod.phase == "Succeeded" for pod in live)
    failed = [pod for pod in live if pod.phase == "Failed"]
    retries = len(failed) + sum(container.restarts for pod in active for container in pod.containers)
    deadline = None if wanted.active_deadline_seconds is None else job.created + wanted.active_deadline_seconds
    if _is_complete(wanted, succeeded, len(active)):
        return Plan(delete=active, finished=Finished(True, "", f"{succeeded} pods completed", now))
    if retries > wanted.backoff_limit:
        message = f"{retries} failures, and backoffLimit is {wanted.backoff_limit}"
        return Plan(delete=active, finished=Finished(False, "BackoffLimitExceeded", message, now))
    if deadline is not None and now >= deadline:
        message = f"not complete after {wanted.active_deadline_seconds} s"
        return Plan(delete=active, finished=Finished(False, "DeadlineExceeded", message, now))
    least, most = _parallel(wanted, succeeded)
    surplus = sorted(active, key=_least_useful_first)[: max(len(active) - most, 0)]
    create = max(least - len(active), 0)
    again = max((c.ended for pod in failed for c in pod.containers), default=0.0) + backoff.delay(len(failed))
    if create and failed and now < again:
        return Plan(delete=surplus, wake_at=min(again, deadline or again))
    return Plan(create=create, delete=surplus, wake_at=deadline)


def _is_complete(wanted: spec.JobSpec, succeeded: int, active: int) -> bool:
    if wanted.completions is not None:
        return succeeded >= wanted.completions
    return succeeded > 0 and active == 0


def _parallel(wanted: spec.JobSpec, succeeded: int) -> tuple[int, int]:
    """Least and most pods that are to run. Without completions no new pod starts after a success, and none is ended."""
    if wanted.completions is not None:
        least = min(wanted.parallelism, wanted.completions - succeeded)
        return least, least
    return 0 if succeeded else wanted.parallelism, wanted.parallelism


def why_waiting(pods: Sequence[Pod]) -> str:
    """The first thing that a pod waits for, in one line; empty when none says so."""
    for pod in pods:
        for container in pod.containers if pod.phase != "Succeeded" else ():
            if not container.ready and (container.reason or container.message):
                words = ": ".join(word for word in (container.reason, container.message) if word)
                return f"{pod.name}/{container.name}: {words}"
    return ""


def pod_readiness(revision: str, pods: Sequence[Pod]) -> Readiness:
    """Ready when its containers are, or when it ran to a good end."""
    current = [pod for pod in pods if pod.revision == revision and not pod.deleting]
    if not current:
        return Readiness(False, message="the pod is about to be made")
    pod = current[0]
    if pod.phase == "Failed":
        return Readiness(False, failed=True, message=f"the pod failed; {why_waiting([pod])}".rstrip("; "))
    if pod.ready or pod.phase == "Succeeded":
        return Readiness(True)
    ready = sum(container.ready for container in pod.containers)
    return Readiness(False, message=_progress(f"{ready} of {len(pod.containers)} containers ready", [pod]))


def deployment_readiness(wanted: spec.DeploymentSpec, revision: str, pods: Sequence[Pod]) -> Readiness:
    """Ready when all replicas of the revision are, and those of earlier ones are on their way out."""
    live = [pod for pod in pods if not pod.deleting]
    new = [pod for pod in live if pod.revision == revision]
    ready = sum(pod.ready for pod in new)
    if ready == len(new) == wanted.replicas:
        old = len(live) - len(new)
        return Readiness(old == 0, message=f"{old} pods of earlier revisions remain" if old else "")
    return Readiness(False, message=_progress(f"{ready} of {wanted.replicas} replicas ready", new))


def job_readiness(job: Stored, pods: Sequence[Pod]) -> Readiness:
    """Ready when complete; failed when it gave up."""
    if job.finished is not None:
        failed = not job.finished.complete
        message = f"{job.finished.reason}: {job.finished.message}" if failed else ""
        return Readiness(job.finished.complete, failed=failed, message=message)
    wanted = spec.job_spec(job.body)
    succeeded = sum(pod.phase == "Succeeded" for pod in pods)
    return Readiness(False, message=_progress(f"{succeeded} of {wanted.completions or 1} completions", pods))


def _progress(message: str, pods: Sequence[Pod]) -> str:
    waiting = why_waiting(pods)
    return f"{message}; {waiting}" if waiting else message
