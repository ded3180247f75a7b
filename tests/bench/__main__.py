"""`make bench`: every figure of the promise about speed, as ratios to what this machine does without us.

    python -m tests.bench [--only GROUP]… [--json FILE]

The one idea: a group is an asynchronous generator of figures, in a folder and with processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from ote.runtime.main import run_main
from tests.bench.bulk import bulk
from tests.bench.figures import Figure, as_json, show
from tests.bench.fleet import fanout, metered, orphans, tunnels
from tests.bench.memory import leaf, registry
from tests.bench.rates import rates, shim

_GROUPS: dict[str, Callable[[Path], AsyncGenerator[Figure, None]]] = {
    "rates": rates,
    "shim": shim,
    "fanout": fanout,
    "tunnels": tunnels,
    "orphans": orphans,
    "metered": metered,
    "registry": registry,
    "leaf": leaf,
    "bulk": bulk,
}
_LIMIT = 150.0
"""Seconds that one group may take."""


async def _run(names: list[str], figures: list[Figure]) -> bool:
    """Whether all groups ended well. A signal ends what runs, and every process of it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    well = True
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="ote-bench-"))
        begun = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(_LIMIT), contextlib.aclosing(_GROUPS[name](folder)) as measured:
                async for figure in measured:
                    figures.append(figure)
                    print(f"  {figure.group}: {figure.what}: {figure.measured}", file=sys.stderr, flush=True)
        except (Exception, TimeoutError) as error:
            well = False
            print(f"  {name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return well


def main() -> int:
    """Exit code: 0 when all was measured and every floor reached, 1 when not."""
    parser = argparse.ArgumentParser(prog="make bench", description="Speed, as ratios to bare grpc.aio programs.")
    parser.add_argument("--only", action="append", choices=list(_GROUPS), metavar="GROUP", help=", ".join(_GROUPS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures: list[Figure] = []
    begun = time.monotonic()
    well = run_main(_run(options.only or list(_GROUPS), figures))
    show(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(figures, time.monotonic() - begun), indent=2) + "\n")
    missed = [figure for figure in figures if figure.reached is False]
    print(f"{len(figures)} figures, {len(missed)} under their floor, {time.monotonic() - begun:.0f} s")
    return 0 if well and not missed else 1


if __name__ == "__main__":
    raise SystemExit(main())
