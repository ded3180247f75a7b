"""Every RPC of every service that we define says who may call it, and the policy names nothing that does not exist."""

from __future__ import annotations

import importlib
import pkgutil

from google.protobuf.descriptor import FileDescriptor

import ote.api
from ote.rpc.policy import POLICY


def _files() -> list[FileDescriptor]:
    names = [
        module.name for module in pkgutil.walk_packages(ote.api.__path__, "ote.api.") if module.name.endswith("_pb2")
    ]
    files: list[FileDescriptor] = [importlib.import_module(name).DESCRIPTOR for name in names]
    return files


def _methods() -> set[str]:
    services = [service for file in _files() for service in file.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_method_has_its_roles() -> None:
    assert _methods()
    assert _methods() - set(POLICY) == set()


def test_no_method_is_closed_to_everyone() -> None:
    assert [method for method, roles in POLICY.items() if not roles] == []


def test_the_policy_names_only_methods_that_exist() -> None:
    assert {method for method in POLICY if method.startswith("/ote.")} - _methods() == set()
