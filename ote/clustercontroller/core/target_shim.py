"""The target's hands: the shim as it is known, and what may be handed to it again after a call was lost.

What lives here: refusals, and the choice between the shim, this controller and neither. What does not: order
(`target_state`) and what is said to origins (`target`).

A command is handed over again only if that cannot have a second effect: it is repeatable by itself, or the shim
remembers ids over its restarts, or it is still the same process of the shim.
"""

from __future__ import annotations

from dataclasses import dataclass

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import ShimUp
from ote.clustercontroller.core.messages import Payload
from ote.clustercontroller.core.states import CONTROLLER_COMMANDS, FAILED, NOOP


@dataclass(slots=True)
class Refusal:
    """Why a command is not even tried."""

    reason: str
    message: str


class Hands:
    """`allowed`: commands that this cluster obeys, None for all. `has_shim` False: there is none and will be none."""

    def __init__(self, ctx: Context, allowed: frozenset[str] | None, has_shim: bool) -> None:
        self._ctx = ctx
        self._allowed = allowed
        self._has_shim = has_shim
        self.shim: ShimUp | None = None
        """As it last was."""
        self.up = False

    @property
    def instance(self) -> str:
        """The shim's process as last known."""
        return self.shim.instance if self.shim is not None else ""

    def refusal(self, command: str, inline: bytes | None, payload: Payload | None) -> Refusal | None:
        """Why this command cannot be done here, however long one waits."""
        if self._allowed is not None and command not in self._allowed:
            return Refusal("NOT_ALLOWED", f"this cluster does not obey {command}")
        if command in CONTROLLER_COMMANDS:
            if inline is None and command != NOOP:
                return Refusal("COMMAND_TOO_LARGE", f"{command} must fit into one message")
            return None
        if not self._has_shim:
            return Refusal("NO_SHIM", "this cluster has no shim")
        shim = self.shim
        if shim is None:
            return None
        if command not in shim.capabilities:
            return Refusal("UNSUPPORTED", f"the shim {shim.name} does not do {command}")
        size = payload.size if payload is not None else len(inline or b"")
        if 0 < shim.max_command_bytes < size:
            return Refusal("COMMAND_TOO_LARGE", f"the shim takes at most {shim.max_command_bytes} bytes, not {size}")
        return None

    def refuse(self, key: str, refusal: Refusal, state: str = FAILED) -> None:
        """End a command here; the shell answers with `ShimResult`."""
        self._ctx.emit(fx.FinishHere(key, state, refusal.reason, refusal.message))

    def repeatable(self, command: str) -> bool:
        """Whether a command may be handed over twice without it being written that it was handed over once."""
        return command in CONTROLLER_COMMANDS or (self.shim is not None and self.shim.durable)

    def remembers(self, command: str, instance: str) -> bool:
        """Whether a command that was handed to this process of the shim may be handed over again."""
        return self.repeatable(command) or instance == self.instance
