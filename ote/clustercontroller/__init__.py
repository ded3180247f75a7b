"""A controller: one node of the tree. `core` decides, `wire` speaks protobuf, the rest is the shell around them."""

import ote.telemetry  # noqa: F401 - before structlog
