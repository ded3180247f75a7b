"""What every server has without asking."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import route_pb2_grpc
from ote.model.errors import FailedPrecondition, InvalidArgument
from ote.pki import Authority
from ote.rpc.channel import open_channel
from ote.rpc.server import Server
from tests.wire.rpc.tree import ROUTES, Dial, Serve, member, nothing, routes


async def health(channel: grpc.aio.Channel, service: str) -> str:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


async def test_health_tells_of_the_server_and_each_service() -> None:
    server = Server("127.0.0.1:0")
    server.add(route_pb2_grpc.add_RouteServiceServicer_to_server, routes(nothing), ROUTES)
    channel = open_channel(await server.start())
    try:
        assert [await health(channel, name) for name in ("", ROUTES)] == ["SERVING", "SERVING"]
        await server.set_serving(False)
        assert [await health(channel, name) for name in ("", ROUTES)] == ["NOT_SERVING", "NOT_SERVING"]
    finally:
        await channel.close()
        await server.stop(0.1)


async def test_reflection_lists_the_services(serve: Serve) -> None:
    channel = open_channel(await serve())
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert names == {ROUTES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=ROUTES))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()
    await channel.close()


async def test_a_socket_file_is_its_owners_alone_and_goes_away(dial: Dial, tmp_path: Path) -> None:
    path = tmp_path / "shim.sock"
    server = Server(f"unix:{path}")
    server.add(route_pb2_grpc.add_RouteServiceServicer_to_server, routes(nothing), ROUTES)
    address = await server.start()
    assert address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await dial(address).Probe(pb.ProbeRequest())).name == "served"
    await server.stop(0.1)
    assert not path.exists()


async def test_two_servers_never_share_a_port(serve: Serve) -> None:
    address = await serve()
    with pytest.raises(FailedPrecondition) as caught:
        await serve(address=address)
    assert caught.value.reason == "ADDRESS_IN_USE"


async def test_a_socket_file_is_not_taken_from_a_living_server_but_from_a_dead_one(
    serve: Serve, dial: Dial, tmp_path: Path
) -> None:
    address = await serve(address=f"unix:{tmp_path}/s")
    with pytest.raises(FailedPrecondition) as caught:
        await serve(address=address)
    assert caught.value.reason == "ADDRESS_IN_USE"
    assert (await dial(address).Probe(pb.ProbeRequest())).name == "served"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead")
    assert (await dial(await serve(address=f"unix:{tmp_path}/dead")).Probe(pb.ProbeRequest())).name == "served"


async def test_a_socket_in_a_folder_that_is_not_there_is_told_so(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot listen"):
        await serve(address=f"unix:{tmp_path}/none/s")


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:8287", "example.org:8287", "[::]:0"])
def test_without_certificates_only_this_machine_may_be_served_or_dialled(address: str) -> None:
    for make in (Server, open_channel):
        with pytest.raises(InvalidArgument) as caught:
            make(address)
        assert caught.value.reason == "INSECURE_NOT_LOCAL"


@pytest.mark.parametrize("address", ["", "nonsense", "host:port", "host:70000", ":80", "::1:80", "a b:1", "http://x:1"])
def test_what_is_no_address_is_told_so(address: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Server(address)
    assert caught.value.reason == "INVALID_ADDRESS"


async def test_a_socket_path_that_the_kernel_would_refuse_is_told_so() -> None:
    with pytest.raises(InvalidArgument, match="1 to 107 bytes"):
        await Server(f"unix:/{'x' * 120}").start()


async def test_tls_also_goes_over_a_socket_file(root: Authority, serve: Serve, dial: Dial, tmp_path: Path) -> None:
    address = await serve(address=f"unix:{tmp_path}/s", tls=member(root, "shim"))
    stub = dial(address, member(root, "edge-1"), "shim.ote")
    assert (await stub.Probe(pb.ProbeRequest())).name == "served"


async def test_certificates_cannot_be_changed_where_there_are_none() -> None:
    with pytest.raises(FailedPrecondition):
        Server("127.0.0.1:0").reload_tls(member(Authority.create_root("a" * 32), "east"))


async def test_stopping_twice_or_never_started_is_fine() -> None:
    server = Server("127.0.0.1:0")
    await server.stop(0.1)
    await server.start()
    await server.stop(0.1)
    await server.stop(0.1)
