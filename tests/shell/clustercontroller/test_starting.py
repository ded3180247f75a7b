"""The address of a controller, from its start until it listens there."""

from __future__ import annotations

import socket

import pytest

from ote.clustercontroller.starting import reserved
from ote.model.errors import FailedPrecondition
from ote.rpc.address import split_host_port


def test_a_controller_keeps_its_port_while_it_joins() -> None:
    with socket.socket() as stranger:
        with reserved("127.0.0.1:0") as address, pytest.raises(OSError, match="in use"):
            stranger.bind(split_host_port(address))
        stranger.bind(split_host_port(address))


def test_an_address_where_somebody_listens_is_refused_before_anything_is_done() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FailedPrecondition, match="in use") as caught, reserved(address):
            pass
    assert caught.value.reason == "ADDRESS_NOT_USABLE"
