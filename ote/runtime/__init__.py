"""How things live: signals, the loop, clocks, back-off, watches.

Not here: gRPC, and what any program does. The one idea: a long-lived thing is one `run()` that ends when it is
cancelled; whoever started it waits for it, for a bounded time.
"""

import ote.telemetry  # noqa: F401 - before structlog
