"""Where effects happen: a cluster behind its shim, which outlives the controller's process.

What lives here: execution with random delays, memory by dispatch id (durable, or of one instance), and the count of
effects, kept where they happen and not where they are reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core.states import CANCELLED, FAILED, SUCCEEDED


class Caller(Protocol):
    """The controller's process that made a call."""

    def post(self, event: ev.Event) -> None: ...


@dataclass(eq=False)
class Run:
    """A change on its way: to its effect, then to its result. `callers` wait for the result."""

    key: str
    callers: list[Caller] = field(default_factory=list)
    done: bool = False
    state: str = ""


@dataclass(frozen=True)
class Effect:
    """One change of the cluster."""

    key: str
    at: float


class Shim:
    """`later(lo, hi, call)` calls after a random time between; `on_effect` is told of each effect."""

    def __init__(
        self,
        name: str,
        durable: bool,
        later: Callable[[float, float, Callable[[], None]], None],
        chance: Callable[[float], bool],
        now: Callable[[], float],
        on_effect: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.durable = durable
        self.up = True
        self.restarts = 0
        self.effects: list[Effect] = []
        self.failing = 0.05
        """Chance of a command to fail without an effect."""
        self._later = later
        self._chance = chance
        self._now = now
        self._on_effect = on_effect
        self._memory: dict[str, str] = {}
        self._running: dict[str, Run] = {}
        self._reads: list[tuple[str, Caller]] = []

    @property
    def instance(self) -> str:
        return f"{self.name}-shim-{self.restarts}"

    def info(self) -> ev.ShimUp:
        """What GetShimInfo answers."""
        commands = ["apply", "delete", "get"]
        return ev.ShimUp("memory", "shim", "1", commands, self.instance, self.durable, 1_000_000)

    def execute(self, effect: fx.Execute, caller: Caller) -> None:
        """A call of Execute has arrived."""
        for key in effect.forget:
            self._memory.pop(key, None)
        if not effect.change:
            self._read(effect.key, caller)
        elif effect.key in self._memory:
            self._answer(effect.key, self._memory[effect.key], caller)
        elif (run := self._running.get(effect.key)) is not None:
            run.callers.append(caller)
        else:
            self._begin(Run(effect.key, [caller]))

    def cancel(self, key: str) -> None:
        """A call of Cancel has arrived: what is not known is remembered as cancelled."""
        run = self._running.get(key)
        if run is None:
            self._memory.setdefault(key, CANCELLED)
        elif not run.done:
            self._finish(run, CANCELLED)

    def restart(self) -> None:
        """The shim's process dies and comes back: what ran is over, and forgotten unless it had its effect."""
        self.restarts += 1
        running, self._running = self._running, {}
        if not self.durable:
            self._memory.clear()
        for run in running.values():
            if run.done and self.durable:
                self._memory[run.key] = SUCCEEDED
            for caller in run.callers:
                caller.post(ev.ShimLost(run.key, "the shim is gone"))
        reads, self._reads = self._reads, []
        for key, caller in reads:
            caller.post(ev.ShimLost(key, "the shim is gone"))

    def _read(self, key: str, caller: Caller) -> None:
        read = (key, caller)
        self._reads.append(read)

        def done() -> None:
            if read in self._reads:
                self._reads.remove(read)
                caller.post(ev.ShimResult(key, SUCCEEDED, b"read"))

        self._later(0.005, 0.2, done)

    def _begin(self, run: Run) -> None:
        self._running[run.key] = run
        self._later(0.002, 0.4, lambda: self._effect(run))

    def _effect(self, run: Run) -> None:
        if self._running.get(run.key) is not run:
            return
        if self._chance(self.failing):
            self._finish(run, FAILED)
            return
        run.done = True
        self.effects.append(Effect(run.key, self._now()))
        self._on_effect(self.name, run.key)
        if self._chance(0.3):
            for caller in run.callers:
                caller.post(ev.ShimProgress(run.key, b"done", effect_done=True))
            self._later(0.1, 2.0, lambda: self._finish(run, SUCCEEDED))
        else:
            self._finish(run, SUCCEEDED)

    def _finish(self, run: Run, state: str) -> None:
        if self._running.get(run.key) is not run:
            return
        del self._running[run.key]
        self._memory[run.key] = state
        for caller in run.callers:
            self._answer(run.key, state, caller)

    def _answer(self, key: str, state: str, caller: Caller) -> None:
        self._later(0.0, 0.02, lambda: caller.post(ev.ShimResult(key, state, b"")))
