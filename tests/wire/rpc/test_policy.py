"""Who may call what, on real connections."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest
import structlog.testing

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import tunnel_pb2 as tunnel
from ote.model.errors import OteError, PermissionDenied, Unauthenticated
from ote.pki import Authority, csr, new_key
from ote.rpc.calllog import LogInterceptor
from ote.rpc.errors import ErrorInterceptor, translated
from ote.rpc.peer import LOCAL, Peer, Role
from ote.rpc.policy import POLICY, PolicyInterceptor, admit_everyone
from ote.rpc.tls import TlsIdentity
from tests.wire.rpc.tree import EDGE_UID, ROUTES, Dial, Serve, member, person

PROBE = f"/{ROUTES}/Probe"


def shown(root: Authority, role: Role) -> TlsIdentity:
    """A connection's identity of any role."""
    if role is Role.CLUSTER:
        return member(root, "edge-1")
    makers: dict[Role, Callable[[], tuple[bytes, bytes]]] = {
        Role.SHIM: lambda: root.issue_shim("edge-1", 600),
        Role.JOIN: lambda: root.issue_join("t1", time.time() + 600),
    }
    if role is Role.REJOIN:
        key = new_key()
        return TlsIdentity(root.issue_rejoin(csr(key, "x"), "edge-1", EDGE_UID), key, root.root_pem)
    if role in makers:
        chain, key = makers[role]()
        return TlsIdentity(chain, key, root.root_pem)
    return person(root, role.value)


@pytest.mark.parametrize("role", list(Role))
async def test_each_role_may_call_what_the_table_says(root: Authority, serve: Serve, dial: Dial, role: Role) -> None:
    address = await serve(tls=member(root, "east"), interceptors=[ErrorInterceptor(), PolicyInterceptor(POLICY)])
    stub = dial(address, shown(root, role), "east.ote")
    for method, call in (
        ("Probe", lambda: stub.Probe(pb.ProbeRequest())),
        ("GetDispatch", lambda: stub.GetDispatch(pb.GetDispatchRequest())),
        ("CancelDispatch", lambda: stub.CancelDispatch(pb.CancelDispatchRequest())),
    ):
        error = await outcome(call)
        if role in POLICY[f"/{ROUTES}/{method}"]:
            assert error is None or error.code == "UNIMPLEMENTED", method
        else:
            assert error is not None
            assert (error.code, error.reason) == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED"), method
            assert error.metadata == {"role": role.value, "method": f"/{ROUTES}/{method}"}


async def outcome(call: Callable[[], Awaitable[object]]) -> OteError | None:
    try:
        with translated():
            await call()
    except OteError as error:
        return error
    return None


async def test_a_stream_is_refused_before_its_servicer_sees_it(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"), interceptors=[ErrorInterceptor(), PolicyInterceptor(POLICY)])
    stub = dial(address, member(root, "edge-1"), "east.ote")
    call = stub.Dispatch(pb.DispatchRequest())
    with pytest.raises(PermissionDenied), translated():
        await call.read()


async def test_a_method_that_the_table_forgot_is_closed(serve: Serve, dial: Dial) -> None:
    stub = dial(await serve(interceptors=[ErrorInterceptor(), PolicyInterceptor({})]))
    with pytest.raises(PermissionDenied) as caught, translated():
        await stub.Probe(pb.ProbeRequest())
    assert caught.value.reason == "METHOD_NOT_IN_POLICY"


async def test_a_component_may_refuse_whom_the_table_lets_through(root: Authority, serve: Serve, dial: Dial) -> None:
    asked: list[tuple[Peer, str]] = []

    def admit(peer: Peer, method: str) -> None:
        asked.append((peer, method))
        raise PermissionDenied("EVICTED", f"{peer.name} was evicted")

    address = await serve(tls=member(root, "east"), interceptors=[ErrorInterceptor(), PolicyInterceptor(POLICY, admit)])
    stub = dial(address, member(root, "edge-1"), "east.ote")
    with pytest.raises(PermissionDenied) as caught, translated():
        await stub.Probe(pb.ProbeRequest())
    assert caught.value.reason == "EVICTED"
    [(peer, method)] = asked
    assert (peer.role, peer.name, peer.uid, peer.vouched_by, method) == (
        Role.CLUSTER,
        "edge-1",
        EDGE_UID,
        root.host,
        PROBE,
    )
    assert peer.not_after > time.time()


async def test_a_certificate_that_expired_on_an_open_connection_counts_no_more(
    root: Authority, serve: Serve, dial: Dial
) -> None:
    moment = time.time()
    policy = PolicyInterceptor(POLICY, admit_everyone, now=lambda: moment)
    address = await serve(tls=member(root, "east"), interceptors=[ErrorInterceptor(), policy])
    stub = dial(address, member(root, "edge-1", lifetime=600), "east.ote")
    await stub.Probe(pb.ProbeRequest())
    moment += 601
    with pytest.raises(Unauthenticated) as caught, translated():
        await stub.Probe(pb.ProbeRequest())
    assert caught.value.reason == "CERTIFICATE_EXPIRED"


async def test_without_tls_the_caller_is_this_machines_admin(serve: Serve, dial: Dial) -> None:
    seen: list[Peer] = []
    policy = PolicyInterceptor({PROBE: frozenset({Role.ADMIN})}, lambda peer, _: seen.append(peer))
    stub = dial(await serve(interceptors=[ErrorInterceptor(), policy]))
    await stub.Probe(pb.ProbeRequest())
    assert seen == [LOCAL]
    assert (LOCAL.role, LOCAL.name, LOCAL.is_local) == (Role.ADMIN, "local", True)


async def test_every_call_is_one_line_and_is_counted(root: Authority, serve: Serve, dial: Dial) -> None:
    counted: list[tuple[str, str]] = []
    log = LogInterceptor(lambda method, code, seconds: counted.append((method, code)), quiet=frozenset())
    chain = [log, ErrorInterceptor(), PolicyInterceptor(POLICY)]
    address = await serve(tls=member(root, "east"), interceptors=chain)
    stub = dial(address, member(root, "edge-1"), "east.ote")
    with structlog.testing.capture_logs() as logs:
        await stub.Probe(pb.ProbeRequest())
        with pytest.raises(PermissionDenied), translated():
            await stub.CancelDispatch(pb.CancelDispatchRequest())
        call = stub.Connect()
        for _ in range(5):
            await call.write(tunnel.ConnectRequest())
            await call.read()
        await call.done_writing()
        assert await call.code() is not None
    lines = [(line["method"].rpartition("/")[2], line["peer"], line["role"], line["code"]) for line in logs]
    assert lines == [
        ("Probe", "edge-1", "cluster", "OK"),
        ("CancelDispatch", "edge-1", "cluster", "PERMISSION_DENIED"),
        ("Connect", "edge-1", "cluster", "OK"),
    ]
    assert counted == [(line["method"], line["code"]) for line in logs]


async def test_the_success_of_quiet_methods_is_not_logged(serve: Serve, dial: Dial) -> None:
    stub = dial(await serve(interceptors=[LogInterceptor(quiet=frozenset({PROBE})), ErrorInterceptor()]))
    with structlog.testing.capture_logs() as logs:
        await stub.Probe(pb.ProbeRequest())
    assert logs == []
