"""A knock says where nobody listens, at once, and nothing where a call may find another way."""

from __future__ import annotations

import socket

import pytest

from ote.model.errors import Unavailable
from ote.rpc.channel import knock
from tests.wire.rpc.tree import Serve


async def test_a_server_is_reached(serve: Serve) -> None:
    await knock(await serve())


async def test_nobody_at_home_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{address} was not reached: ") as caught:
            await knock(address)
    assert caught.value.reason == "NOT_REACHED"


async def test_a_name_that_does_not_exist_is_not_reached() -> None:
    with pytest.raises(Unavailable):
        await knock("nobody.invalid:8287")


async def test_what_lies_behind_a_proxy_or_a_socket_is_not_knocked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    await knock("nobody.invalid:8287")
    await knock("unix:/nowhere")
    with pytest.raises(Unavailable):
        await knock("127.0.0.1:1")
