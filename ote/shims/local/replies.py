"""Results and progress in the words of the contract.

Not here: deciding them. The one idea: what is told of objects is always read from the cluster as it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ote.api.command.v1 import command_pb2 as pb
from ote.shims.local.core import cluster as core
from ote.shims.local.core.cluster import Cluster
from ote.shims.local.core.dispatches import Watching
from ote.shims.local.core.names import KINDS
from ote.shims.local.core.records import Acted

_ACTIONS = {
    core.CREATED: pb.ACTION_CREATED,
    core.CONFIGURED: pb.ACTION_CONFIGURED,
    core.UNCHANGED: pb.ACTION_UNCHANGED,
    core.DELETED: pb.ACTION_DELETED,
    core.ABSENT: pb.ACTION_ABSENT,
}


class Observed(NamedTuple):
    """How a command that took effect stands. result counts when it is over."""

    over: bool
    progress: pb.Progress
    result: pb.Result


def succeeded(objects: Iterable[pb.ObjectResult], output: bytes = b"") -> pb.Result:
    """It took effect."""
    return pb.Result(outcome=pb.OUTCOME_SUCCEEDED, objects=objects, output=output)


def failed(reason: str, message: str, objects: Iterable[pb.ObjectResult] = ()) -> pb.Result:
    """It did not, or not as it should."""
    return pb.Result(outcome=pb.OUTCOME_FAILED, reason=reason, message=message, objects=objects)


def cancelled() -> pb.Result:
    """It was cancelled before it had an effect."""
    return pb.Result(outcome=pb.OUTCOME_CANCELLED, reason="CANCELLED", message="cancelled before it took effect")


def observe(cluster: Cluster, watching: Watching) -> Observed:
    """Looks at the objects of a command that took effect."""
    found = objects(cluster, watching.actions)
    if watching.deleting:
        left = sum(uid in cluster.pods for uid in watching.ending)
        message = f"{left} {'pod is' if left == 1 else 'pods are'} ending" if left else ""
        return Observed(not left, _progress(message, found), succeeded(found))
    states = [(one.key, cluster.standing(one)) for one in watching.actions]
    waiting = sorted(((key, state) for key, state in states if not state.ready), key=lambda pair: not pair[1].failed)
    message = f"{len(states) - len(waiting)} of {len(states)} objects ready"
    if not waiting:
        return Observed(True, _progress(message, found), succeeded(found))
    key, first = waiting[0]
    why = f"{key.kind} {key.name}: {first.message}"
    return Observed(first.failed, _progress(f"{message}; {why}", found), failed(first.reason, why, found))


def not_ready(state: Observed, reason: str, why: str) -> pb.Result:
    """It took effect, and is not observed any longer."""
    return failed(reason, f"{why}: {state.progress.message}", state.progress.objects)


def objects(cluster: Cluster, actions: Sequence[Acted]) -> list[pb.ObjectResult]:
    """What happened to each object, and how it is now."""
    results = []
    for acted in actions:
        key, readiness = acted.key, cluster.standing(acted)
        results.append(
            pb.ObjectResult(
                object=pb.ObjectRef(
                    api_version=KINDS[key.kind].api_version, kind=key.kind, namespace=key.namespace, name=key.name
                ),
                action=_ACTIONS[acted.action],
                ready=readiness.ready,
                message=readiness.message,
            )
        )
    return results


def _progress(message: str, found: Sequence[pb.ObjectResult]) -> pb.Progress:
    return pb.Progress(message=message, objects=found, effect_done=True)
