"""The parts that other real tests stand on are there and work; what is broken is named here first."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    "command",
    [
        ["podman", "--version"],
        ["runc", "--version"],
        ["grpcurl", "--version"],
        ["go", "version"],
        ["node", "--version"],
    ],
    ids=lambda command: str(command[0]),
)
def test_part_answers(real_part: Callable[[str], str], command: list[str]) -> None:
    program, *arguments = command
    subprocess.run([real_part(program), *arguments], check=True, timeout=120)


def test_podman_runs_a_container_of_an_image_made_here(
    real_part: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    podman, busybox = real_part("podman"), real_part("busybox")
    context = tmp_path_factory.mktemp("image")
    (context / "Containerfile").write_text('FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT ["/bin/busybox"]\n')
    shutil.copy(busybox, context / "busybox")
    name = "localhost/ote-test-parts:1"
    subprocess.run([podman, "build", "--quiet", "--tag", name, str(context)], check=True, timeout=240)
    said = subprocess.run(
        [podman, "run", "--rm", "--network", "none", name, "echo", "hello"],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "hello\n"
    subprocess.run([podman, "rmi", "--force", name], check=True, timeout=120, capture_output=True)
