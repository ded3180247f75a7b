"""The suite itself: a shim that keeps the contract passes all of it, and one that breaks it anywhere is caught."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from ote.conformance import CHECKS, CheckResult, CheckStatus, SuiteReport, restart_with, run_suite, table_text, to_json
from ote.model.errors import FailedPrecondition, InvalidArgument, Unavailable
from tests.conformance.reference_shim import FAULTS, ReferenceServer

SUBJECTS = list(dict.fromkeys(check.id.partition(".")[0] for check in CHECKS))

NEVER_APPLIES = {"capabilities.object-kinds", "logs.absent-pod", "logs.output"}
"""What the reference shim does not serve."""

CAUGHT_BY = {
    "no-health": "handshake.health",
    "reflects-no-imports": "handshake.reflection",
    "reflects-half-names": "handshake.reflection",
    "reflects-no-health": "handshake.reflection",
    "instance-id-changes": "handshake.stable",
    "claims-logs": "capabilities.listed-work",
    "hides-noop": "capabilities.unlisted-refused",
    "executes-drain": "capabilities.controller-commands",
    "forgets-results": "idempotency.no-second-effect",
    "ignores-content": "idempotency.other-content",
    "content-is-the-request": "idempotency.timeout-is-no-content",
    "runs-twice-at-once": "idempotency.at-once",
    "forgets-failures": "cancel.observed",
    "applies-half": "objects.all-checked-first",
    "cancelled-by-lost-call": "idempotency.lost-call",
    "two-results": "progress.one-result-last",
    "takes-effect-done-back": "progress.one-result-last",
    "effect-done-too-early": "progress.effect-done",
    "cancel-always-unknown": "cancel.finished",
    "cancel-not-remembered": "cancel.before-execute",
    "cancelled-after-effect": "cancel.observed",
    "ignores-timeout": "deadlines.timeout",
    "ignores-hash": "payloads.wrong-hash",
    "ignores-size": "payloads.too-large",
    "burns-ids": "payloads.missing",
    "accepts-any-id": "bad-input.bad-id",
    "accepts-path-names": "bad-input.path-like-names",
    "bad-manifest-ends-call": "bad-input.garbage-manifests",
    "unknown-kind-succeeds": "unknown.command-kind",
    "status-floods": "status.pace",
    "status-ends": "status.pace",
    "claims-durable": "restart.remembered",
    "same-instance": "restart.instance-id",
    "mixes-answers": "concurrency.reads",
    "always-created": "objects.unchanged",
    "wrong-namespace": "objects.created",
}


@asynccontextmanager
async def serving(directory: Path, *, durable: bool = False, fault: str = "") -> AsyncIterator[ReferenceServer]:
    """A reference shim on a socket in this directory."""
    server = ReferenceServer(str(directory / "s"), durable=durable, fault=fault)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def run(directory: Path, *only: str, restart: Callable[[], Awaitable[None]] | None = None) -> SuiteReport:
    """The suite, or a part of it, against what listens in this directory."""
    seen: list[CheckResult] = []
    async with grpc.aio.insecure_channel(f"unix:{directory / 's'}") as channel:
        report = await run_suite(channel, restart=restart, on_check=seen.append, only=only)
    assert tuple(seen) == report.checks
    return report


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_shim_that_keeps_the_contract_passes(subject: str, tmp_path: Path) -> None:
    async with serving(tmp_path, durable=True) as server:
        report = await run(tmp_path, subject, restart=server.restart)
    bad = [check for check in report.checks if check.status is CheckStatus.FAILED]
    assert not bad, table_text(report)
    skipped = {check.id for check in report.checks if check.status is CheckStatus.SKIPPED}
    assert skipped <= NEVER_APPLIES | {"restart.forgotten"}


async def test_a_shim_that_forgets_at_restart_and_says_so_passes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        report = await run(tmp_path, "restart", restart=server.restart)
    assert report.ok, table_text(report)
    assert {check.id for check in report.checks if check.status is CheckStatus.PASSED} == {
        "restart.instance-id",
        "restart.same-shim",
        "restart.forgotten",
    }


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_shim_that_breaks_the_contract_is_caught(fault: str, tmp_path: Path) -> None:
    async with serving(tmp_path, fault=fault) as server:
        report = await run(tmp_path, CAUGHT_BY[fault], restart=server.restart)
    assert [check.status for check in report.checks] == [CheckStatus.FAILED], table_text(report)
    assert report.checks[0].message


def test_every_check_has_a_name_of_its_own_and_quotes_the_contract() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS) >= 40
    for check in CHECKS:
        assert check.title
        assert check.contract
        assert check.title[-1] not in ".:"


async def test_without_a_way_to_restart_the_restart_checks_are_skipped_and_say_so(tmp_path: Path) -> None:
    async with serving(tmp_path):
        report = await run(tmp_path, "restart")
    assert {check.status for check in report.checks} == {CheckStatus.SKIPPED}
    assert "no way to restart" in report.checks[0].message


async def test_nothing_of_the_suite_is_left_in_the_cluster(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await run(tmp_path, "objects", "payloads", "concurrency")
        assert server.objects == 0


async def test_an_unknown_check_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no-such-check"):
        await run(tmp_path, "no-such-check")


async def test_a_shim_that_is_not_there_is_an_error_not_a_report(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer GetShimInfo"):
        await run(tmp_path, "handshake")


async def test_the_report_renders_as_stable_json_and_as_a_table(tmp_path: Path) -> None:
    async with serving(tmp_path, fault="no-health"):
        report = await run(tmp_path, "handshake")
    shown = json.loads(json.dumps(to_json(report)))
    assert shown["shim"]["name"] == "reference-shim"
    assert shown["shim"]["memory"] == "INSTANCE"
    assert set(shown["checks"][0]) == {"id", "title", "status", "message", "duration_ms"}
    assert shown["summary"] == {"passed": 4, "failed": 1, "skipped": 0, "total": 5}
    table = table_text(report)
    assert "5 checks: 4 passed, 1 failed, 0 skipped" in table
    assert "the contract says: A shim also serves grpc.health.v1." in table


async def test_a_restart_command_that_fails_stops_the_suite() -> None:
    await restart_with("true")()
    with pytest.raises(FailedPrecondition, match="status 3"):
        await restart_with("exit 3")()
