"""The suite that checks any shim against the contract in ote/api/shim/v1/shim.proto.

`run_suite` runs it over a channel, `to_json` and `table_text` render the report. `CHECKS` are the checks as data. The
library knows no command line and prints nothing.
"""

from __future__ import annotations

from ote.conformance.checks import ALL_CHECKS as CHECKS
from ote.conformance.model import Check, CheckResult, CheckStatus, ShimDescription, SuiteReport
from ote.conformance.render import checks_page, line_text, table_text, to_json
from ote.conformance.restarting import restart_with
from ote.conformance.suite import describe, run_suite, select

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "CheckStatus",
    "ShimDescription",
    "SuiteReport",
    "checks_page",
    "describe",
    "line_text",
    "restart_with",
    "run_suite",
    "select",
    "table_text",
    "to_json",
]
