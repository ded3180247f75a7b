"""What a process says about itself: logs, metrics and the small HTTP server that shows them.

Not here: what is worth saying (the components). The one idea: names of metrics are data in one catalog, from which
the objects and docs/metrics.md are made.

Import this package before structlog: when rich is installed, structlog loads it (5.5 MB of an idle leaf's 60) for
coloured tracebacks that no process of ours prints.
"""

from __future__ import annotations

import sys


def _import_structlog_alone() -> None:
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # documented by the import system: raises ImportError
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_import_structlog_alone()
