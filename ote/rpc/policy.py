"""Who may call what: one table with every method of every service, and the interceptor that holds to it.

Not here: what depends on the content of a request or on the state of a component; `admit` is a component's veto for the
latter. The one idea: authorization is data, and a method that the table does not name is refused to everyone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio

from ote.model.errors import PermissionDenied, Unauthenticated
from ote.rpc.handlers import AroundInterceptor, Behaviour
from ote.rpc.peer import Peer, Role, peer_of

_KNOWN = frozenset(Role) - {Role.JOIN, Role.REJOIN}
"""The two others have one errand each."""
_READ = frozenset({Role.ADMIN, Role.OPERATOR, Role.VIEWER})
_CHANGE = frozenset({Role.ADMIN, Role.OPERATOR})
_ADMIN = frozenset({Role.ADMIN})
_MEMBER = frozenset({Role.CLUSTER})
_REFLECT = _READ | _MEMBER
_SHIM = frozenset({Role.ADMIN, Role.CLUSTER, Role.SHIM})


def _methods(service: str, methods: Mapping[str, frozenset[Role]]) -> dict[str, frozenset[Role]]:
    return {f"/{service}/{method}": roles for method, roles in methods.items()}


POLICY: Mapping[str, frozenset[Role]] = {
    **_methods("grpc.health.v1.Health", {"Check": _KNOWN, "Watch": _KNOWN, "List": _KNOWN}),
    **_methods("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": _REFLECT}),
    **_methods("grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": _REFLECT}),
    **_methods(
        "ote.api.cluster.v1.ClusterService",
        {
            "GetCluster": _READ,
            "ListClusters": _READ,
            "WatchClusters": _READ,
            "GetControllerStatus": _READ,
            "UpdateCluster": _CHANGE,
            "EvictCluster": _ADMIN,
        },
    ),
    # A viewer may send commands that only read (get, logs), and nothing in a request's envelope tells them apart: the
    # servicer of Dispatch refuses every other command to a viewer.
    **_methods(
        "ote.api.route.v1.RouteService",
        {
            "Connect": _MEMBER,
            "Probe": _MEMBER,
            "FetchPieces": _MEMBER,
            "PushOutput": _MEMBER,
            "Dispatch": _READ,
            "DispatchMany": _CHANGE,
            "PutPayload": _CHANGE,
            "CancelDispatch": _CHANGE,
            "GetDispatch": _READ,
            "ListDispatches": _READ,
            "WatchDispatch": _READ,
            "ListRoutes": _READ,
            "TraceRoute": _READ,
        },
    ),
    **_methods(
        "ote.api.trust.v1.TrustService",
        {
            "Enrol": frozenset({Role.JOIN}),
            "Renew": frozenset({Role.CLUSTER, Role.REJOIN}),
            "CreateJoinToken": _ADMIN,
            "ListJoinTokens": _ADMIN,
            "RevokeJoinToken": _ADMIN,
        },
    ),
    **_methods(
        "ote.api.shim.v1.ShimService",
        {
            "GetShimInfo": _SHIM,
            "Execute": _SHIM,
            "Cancel": _SHIM,
            "PutPayload": _SHIM,
            "WatchStatus": _SHIM,
        },
    ),
}
"""Full method name → roles that may call it."""


def admit_everyone(peer: Peer, method: str) -> None:
    """The veto of a component that has none."""


class PolicyInterceptor(AroundInterceptor):
    """Refuses a call before its servicer sees it.

    PermissionDenied (ROLE_NOT_ALLOWED, METHOD_NOT_IN_POLICY), Unauthenticated (CERTIFICATE_UNKNOWN,
    CERTIFICATE_EXPIRED: gRPC looks at the end of a certificate only when it connects), and whatever `admit` raises.
    admit: the component's own veto, called with peer and full method name; must not block. now: seconds since 1970.
    """

    def __init__(
        self,
        policy: Mapping[str, frozenset[Role]],
        admit: Callable[[Peer, str], None] = admit_everyone,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(self._guarded)
        self._policy = policy
        self._admit = admit
        self._now = now

    def _guarded(self, method: str, behaviour: Behaviour) -> Behaviour:
        roles = self._policy.get(method)

        async def guarding(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._check(peer_of(context), method, roles)
            return await behaviour(request, context)

        return guarding

    def _check(self, peer: Peer, method: str, roles: frozenset[Role] | None) -> None:
        if roles is None:
            raise PermissionDenied("METHOD_NOT_IN_POLICY", f"nobody may call {method}", metadata={"method": method})
        if peer.not_after < self._now():
            raise Unauthenticated("CERTIFICATE_EXPIRED", f"the certificate of {peer.name} has expired: connect again")
        if peer.role not in roles:
            raise PermissionDenied(
                "ROLE_NOT_ALLOWED",
                f"{peer.role} {peer.name} may not call {method}: it needs {' or '.join(sorted(roles))}",
                metadata={"role": peer.role.value, "method": method},
            )
        self._admit(peer, method)
