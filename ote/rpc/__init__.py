"""gRPC without our business: servers, channels, TLS, errors, who is calling and what they may, paging.

Not here: any service of OTE (the components) and any typed client (`ote.client`). The one idea: a servicer raises
`ote.model.errors`, and everything that every RPC needs is done by the interceptors here, once.
"""

import os

import ote.telemetry  # noqa: F401 - before structlog

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
"""Before grpc is imported: its C library would write lines of its own to stderr, and what matters comes as errors."""
