"""A controller: one node of the tree. `core` decides, `wire` speaks protobuf, the rest is the shell around them."""

import ote.rpc  # noqa: F401 - before grpc and structlog, whose start it sets up
