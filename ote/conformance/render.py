"""A report as text for people and as JSON for programs. Pure: strings and values out, nothing is printed."""

from __future__ import annotations

from typing import Any

from ote.conformance.model import CheckResult, CheckStatus, SuiteReport


def to_json(report: SuiteReport) -> dict[str, Any]:
    """The stable shape: {"shim":{…},"checks":[{"id","title","status","message","duration_ms"}],"summary":{…}};
    summary counts passed, failed, skipped and total."""
    shim = report.shim
    return {
        "shim": {
            "name": shim.name,
            "kind": shim.kind,
            "version": shim.version,
            "protocol_version": shim.protocol_version,
            "capabilities": list(shim.capabilities),
            "instance_id": shim.instance_id,
            "memory": shim.memory,
            "max_command_bytes": shim.max_command_bytes,
            "object_kinds": list(shim.object_kinds),
        },
        "checks": [
            {
                "id": check.id,
                "title": check.title,
                "status": check.status.value,
                "message": check.message,
                "duration_ms": round(check.duration * 1000),
            }
            for check in report.checks
        ],
        "summary": {
            "passed": report.count(CheckStatus.PASSED),
            "failed": report.count(CheckStatus.FAILED),
            "skipped": report.count(CheckStatus.SKIPPED),
            "total": len(report.checks),
        },
    }


def line_text(check: CheckResult, *, width: int = 44) -> str:
    """One check in one line, as it is shown while the suite runs. width: of the column with the id."""
    line = f"{check.status.value:<8} {check.id:<{width}} {check.duration * 1000:>7.0f} ms  {check.title}"
    return f"{line}: {check.message}" if check.message else line


def table_text(report: SuiteReport) -> str:
    """The whole report: who was tested, a line per check, then what failed with the words of the contract, and the
    counts."""
    shim = report.shim
    width = max((len(check.id) for check in report.checks), default=0)
    lines = [
        f"{shim.name} {shim.version} ({shim.kind}), contract {shim.protocol_version}, memory {shim.memory}",
        f"capabilities: {', '.join(shim.capabilities) or 'none'}",
        "",
        *(line_text(check, width=width) for check in report.checks),
    ]
    failed = [check for check in report.checks if check.status is CheckStatus.FAILED]
    for check in failed:
        lines += ["", f"{check.id}: {check.message}", f"  the contract says: {check.contract}"]
    counts = [f"{report.count(status)} {status.value.lower()}" for status in CheckStatus]
    lines += ["", f"{len(report.checks)} checks: {', '.join(counts)}"]
    return "\n".join(lines) + "\n"
