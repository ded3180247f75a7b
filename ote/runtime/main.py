"""How a process begins and ends: its loop and its signals. Not here: settings and what runs (`apps`)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger("ote.runtime")


def run_main(main: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Runs a program's one coroutine to its end, on uvloop where there is one."""
    with asyncio.Runner(debug=debug, loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def stop_on_signals(exit_now: Callable[[int], None] = os._exit) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process at once, with 128 + its number.

    Needs a running loop in the main thread. exit_now: what a second signal calls.
    """
    stop = asyncio.Event()

    def arrived(number: signal.Signals) -> None:
        if stop.is_set():
            _log.warning("second signal, ending at once", signal=number.name)
            exit_now(128 + number)
            return
        _log.info("signal, stopping", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, arrived, number)
    return stop


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
