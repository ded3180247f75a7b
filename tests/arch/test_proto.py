"""The contract's habits that buf has no rule for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

PROTO = Path(__file__).parents[2] / "proto"
OPENING = re.compile(r"(Required|Optional|Output only)( (for|if|with|without) [^.]+)?\.")
MESSAGE, NESTED, FIELD = 4, 3, 2
"""Field numbers in descriptor.proto, which source locations are paths of."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """Our files with their comments."""
    out = tmp_path_factory.mktemp("descriptors") / "all.binpb"
    names = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    arguments = ["-I", str(PROTO), "--include_source_info", f"--descriptor_set_out={out}", *names]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, timeout=30)
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _fields(
    messages: list[DescriptorProto], path: tuple[int, ...], number: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index, message in enumerate(messages):
        if message.options.map_entry:
            continue
        here = (*path, number, index)
        for position, field in enumerate(message.field):
            yield f"{message.name}.{field.name}", (*here, FIELD, position)
        yield from _fields(list(message.nested_type), here, NESTED)


def test_a_field_says_first_whether_it_must_be_set(files: list[FileDescriptorProto]) -> None:
    wrong = []
    for file in files:
        comments = {tuple(each.path): each.leading_comments.strip() for each in file.source_code_info.location}
        for name, path in _fields(list(file.message_type), (), MESSAGE):
            if not OPENING.match(comments.get(path, "")):
                wrong.append(f"{file.name}: {name}")
    assert wrong == []


def test_a_package_lies_where_its_name_says(files: list[FileDescriptorProto]) -> None:
    assert [file.name for file in files if not file.name.startswith(file.package.replace(".", "/") + "/")] == []


def test_zero_means_nothing_in_an_enum(files: list[FileDescriptorProto]) -> None:
    enums = [enum for file in files for enum in file.enum_type]
    enums += [enum for file in files for message in file.message_type for enum in message.enum_type]
    assert [enum.name for enum in enums if not enum.value[0].name.endswith("_UNSPECIFIED")] == []


def test_every_call_owns_its_request_and_response(files: list[FileDescriptorProto]) -> None:
    methods = [method for file in files for service in file.service for method in service.method]
    used = [name.rsplit(".", 1)[-1] for method in methods for name in (method.input_type, method.output_type)]
    expected = [name for method in methods for name in (f"{method.name}Request", f"{method.name}Response")]
    assert used == expected
