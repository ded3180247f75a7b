"""What a shim's reflection says of its services, read the way a client without the `.proto` files has to.

Not here: what a shim must say (`checks/handshake`). The one idea: only what a file itself names as its imports counts,
and only whole names of types, for strict clients resolve nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ote.conformance.verdict import CheckFailed, expect
from ote.rpc.errors import LOST_ANSWER

_SECONDS = 10
_TRIES = 5


class Reflection:
    """A conversation with the reflection service of one server. `services`: names of those that it lists."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.services: set[str] = set()
        self._files: dict[str, FileDescriptorProto] = {}
        self._pool = descriptor_pool.DescriptorPool()
        self._added: set[str] = set()

    async def begin(self) -> None:
        """Learn the names of the services."""
        response = await self._ask(list_services="*")
        self.services = {service.name for service in response.list_services_response.service}

    async def service(self, name: str) -> ServiceDescriptor:
        """A service with every type that it needs. Raises CheckFailed where something of it is missing."""
        response = await self._ask(file_containing_symbol=name)
        files = self._keep(response)
        expect(bool(files), f"reflection has no file for {name}: {response.error_response.error_message or 'no error'}")
        await self._add(files[0])
        try:
            return self._pool.FindServiceByName(name)
        except KeyError:
            raise CheckFailed(f"the file {files[0]} that reflection gives for {name} does not hold it") from None

    async def _add(self, name: str) -> None:
        if name in self._added:
            return
        self._added.add(name)
        if name not in self._files:
            self._keep(await self._ask(file_by_filename=name))
        file = self._files.get(name)
        if file is None:
            raise CheckFailed(f"reflection does not give {name}, which another file imports")
        for imported in file.dependency:
            await self._add(imported)
        for word in _types(file):
            expect(
                word.startswith("."), f"{name} names the type {word!r}, which is not a whole name with a leading dot"
            )
        try:
            self._pool.Add(file)
        except (TypeError, ValueError) as error:
            raise CheckFailed(f"{name} and the files that it imports do not fit together: {error}") from None

    async def _ask(self, **question: str) -> reflection_pb2.ServerReflectionResponse:
        await self._call.write(reflection_pb2.ServerReflectionRequest(**question))
        response = await self._call.read()
        if response is grpc.aio.EOF:
            raise CheckFailed("reflection ended before it answered")
        answer: reflection_pb2.ServerReflectionResponse = response
        return answer

    def _keep(self, response: reflection_pb2.ServerReflectionResponse) -> list[str]:
        """Names of the files that came; the one that was asked for is the first."""
        files = [FileDescriptorProto.FromString(raw) for raw in response.file_descriptor_response.file_descriptor_proto]
        self._files.update((file.name, file) for file in files)
        return [file.name for file in files]


@asynccontextmanager
async def reflection_of(channel: grpc.aio.Channel) -> AsyncIterator[Reflection]:
    """Talk to the server's reflection. Raises AioRpcError as any other call.

    A server without it ends the call while the first question is being written, and grpc.aio may lose why it did: then
    it is asked again.
    """
    reflected, call = await _begun(channel)
    try:
        yield reflected
    finally:
        call.cancel()


async def _begun(channel: grpc.aio.Channel) -> tuple[Reflection, Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    tries = 0
    while True:
        call = stub.ServerReflectionInfo(timeout=_SECONDS)
        reflected = Reflection(call)
        try:
            await reflected.begin()
        except grpc.aio.AioRpcError as error:
            tries += 1
            if error.details() != LOST_ANSWER or tries == _TRIES:
                raise
        else:
            return reflected, call


def _types(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        for method in service.method:
            yield method.input_type
            yield method.output_type
    for message in file.message_type:
        yield from _types_in(message)


def _types_in(message: DescriptorProto) -> Iterator[str]:
    yield from (field.type_name for field in message.field if field.type_name)
    for nested in message.nested_type:
        yield from _types_in(nested)
