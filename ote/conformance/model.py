"""The words of the suite: a check, its result and the report. Nothing here talks to a shim.

A check is data: what it is called, what the contract says, what it needs, and one async function that either returns
(PASSED), raises `CheckFailed` (FAILED) or raises `CheckSkipped` (SKIPPED, with the reason); see `verdict`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ote.conformance.probe import Probe


class CheckStatus(enum.StrEnum):
    """How a check ended."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract and how to see whether it is kept.

    needs: capabilities without which the check is skipped; "change" stands for noop or apply. running: needs a command
    that takes time. restart: needs a way to restart the shim. limit: seconds after which the check fails.
    """

    id: str
    title: str
    contract: str
    run: Callable[[Probe], Awaitable[None]]
    needs: tuple[str, ...] = ()
    running: bool = False
    restart: bool = False
    limit: float = 90.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went. message: empty when it passed. duration: seconds."""

    id: str
    title: str
    status: CheckStatus
    message: str
    duration: float
    contract: str


@dataclass(frozen=True, slots=True)
class ShimDescription:
    """What the shim said about itself; memory is the enum's name without its prefix."""

    name: str
    kind: str
    version: str
    protocol_version: str
    capabilities: tuple[str, ...]
    instance_id: str
    memory: str
    max_command_bytes: int
    object_kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """All results in the order in which the checks ran."""

    shim: ShimDescription
    checks: tuple[CheckResult, ...]

    def count(self, status: CheckStatus) -> int:
        """Number of checks that ended this way."""
        return sum(check.status is status for check in self.checks)

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return self.count(CheckStatus.FAILED) == 0


class CheckGroup:
    """Collects the checks of one subject; `group("word", …)` decorates a check named "<subject>.<word>"."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._checks: list[Check] = []

    def __call__(
        self,
        word: str,
        *,
        title: str,
        contract: str,
        needs: tuple[str, ...] = (),
        running: bool = False,
        restart: bool = False,
        limit: float = 90.0,
    ) -> Callable[[Callable[[Probe], Awaitable[None]]], Callable[[Probe], Awaitable[None]]]:
        """Register the decorated function; the arguments are those of `Check`."""

        def register(run: Callable[[Probe], Awaitable[None]]) -> Callable[[Probe], Awaitable[None]]:
            name = f"{self._subject}.{word}"
            self._checks.append(Check(name, title, contract, run, needs, running, restart, limit))
            return run

        return register

    @property
    def checks(self) -> tuple[Check, ...]:
        """What was registered, in order."""
        return tuple(self._checks)
