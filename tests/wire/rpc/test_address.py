"""An address that is held for a server which is yet to come, or to come back."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from ote.rpc.address import reserve, split_host_port
from tests.wire.rpc.tree import Serve


def taken(address: str) -> bool:
    """Whether a stranger is refused this address."""
    with socket.socket() as stranger:
        try:
            stranger.bind(split_host_port(address))
        except OSError:
            return True
        return False


async def test_a_reserved_port_is_its_servers_alone_before_it_comes_while_it_serves_and_after_it(serve: Serve) -> None:
    address, held = reserve("127.0.0.1")
    with held:
        assert taken(address)
        with socket.socket() as caller:
            assert caller.connect_ex(split_host_port(address)) != 0, "held is not served"
        assert await serve(address=address) == address
        assert taken(address)
        with socket.socket() as caller:
            assert caller.connect_ex(split_host_port(address)) == 0


def test_a_port_is_free_again_when_nobody_holds_it() -> None:
    address, held = reserve("127.0.0.1")
    assert taken(address)
    held.close()
    assert not taken(address)


def test_who_listens_already_keeps_others_from_reserving() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, pytest.raises(OSError, match="in use"):
        reserve("127.0.0.1", server.getsockname()[1])
