"""What holds for every test: which ones run, and that a test leaves no task behind.

A test marked `real` needs parts that Python does not bring. It is left out unless OTE_REAL=1 says that the parts are
there; then a missing part is a failure, never a skip, so that nothing passes by not running. Ask for a part with the
fixture `real_part`: `podman = real_part("podman")`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ote", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ote")

REAL = os.environ.get("OTE_REAL") == "1"
CACHE = Path(os.environ.get("OTE_CACHE") or Path.home() / ".cache" / "ote")
GRACE = 10.0
"""Seconds in which a task that is being cancelled may end after its test."""


def pytest_configure(config: pytest.Config) -> None:
    """Gives real parts a configuration of the tests' own, which every process started by a test inherits."""
    if REAL:
        os.environ.setdefault("CONTAINERS_CONF", str(Path(__file__).parent / "real" / "containers.conf"))
        os.environ["PATH"] = f"{CACHE / 'bin'}{os.pathsep}{os.environ['PATH']}"
    asyncio.set_event_loop(None)  # else looptime's plugin makes one beside each test without a loop, and leaves it open


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out real tests without OTE_REAL=1, and watches every coroutine test for tasks that outlive it."""
    left_out = [] if REAL else [item for item in items if item.get_closest_marker("real")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(0, "no_task_outlives_its_test")


@pytest.fixture
async def no_task_outlives_its_test() -> AsyncIterator[None]:
    """Fails a test whose tasks go on after it and after all of its fixtures."""
    before = asyncio.all_tasks()
    yield
    started = asyncio.all_tasks() - before - {asyncio.current_task()}
    if not started:
        return
    _, left = await asyncio.wait(started, timeout=GRACE)
    if left:
        names = ", ".join(f"{task.get_name()} ({task.get_coro()})" for task in left)
        pytest.fail(f"tasks outlived the test: {names}")


@pytest.fixture
def real_part() -> Callable[[str], str]:
    """Answers the path of a program by name; the test fails when it is not installed."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.fail(f"{name} is not installed; tests/real/install.sh installs it")
        return found

    return find


@pytest.fixture
def example_shim(real_part: Callable[[str], str]) -> Callable[[str], list[str]]:
    """Answers the command of the example shim in go or node; the test fails when it is not built."""

    def find(language: str) -> list[str]:
        folder = CACHE / "example-shims" / language
        if not (folder / "made-from").exists():
            pytest.fail(f"the example shim in {language} is not built; tests/real/install.sh builds it")
        commands = {"go": [str(folder / "ote-memory-shim")], "node": [real_part("node"), str(folder / "main.js")]}
        return commands[language]

    return find
