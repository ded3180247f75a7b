"""The conversation of a simulated tree as text: time, from, to, message in short form; what was done; what happened.

Left out is what repeats: heartbeats, and beats that say nothing but a new number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from tests.scenarios.sim.process import Process
from tests.scenarios.sim.world import World

_LOUD = frozenset({"warning", "error"})


class Trace:
    """Watches a world and keeps lines."""

    def __init__(self, world: World) -> None:
        self.lines: list[str] = []
        self._world = world
        self._begun = world.now
        self._draining: dict[tuple[str, str], bool] = {}
        self._states: dict[tuple[str, str], str] = {}
        world.watchers.append(self)

    def line(self, text: str) -> None:
        self.lines.append(f"{self._world.now - self._begun:7.1f}  {text}")

    def done(self, text: str) -> None:
        """What the script did."""
        self.lines.append(f"> {text}")

    # --- watcher --------------------------------------------------------------------------------------------------

    def handled(self, process: Process, event: ev.Event) -> None:
        pass

    def seen(self, sender: Process, receiver: Process, item: m.Item) -> None:
        if isinstance(item, m.Heartbeat):
            return
        if isinstance(item, m.Beat):
            way = (sender.site.name, receiver.site.name)
            if self._draining.get(way, False) == item.draining and not item.path:
                return
            self._draining[way] = item.draining
        text = _SHORT[type(item)](item)
        self.line(f"{sender.site.name} -> {receiver.site.name}  {text}")

    def logged(self, process: Process, log: fx.Log) -> None:
        if log.level in _LOUD:
            fields = ", ".join(str(value) for key, value in log.fields.items() if key != "uid")
            self.line(f"{process.site.name}: {log.message} ({fields})")

    def exited(self, process: Process, effect: fx.Exit) -> None:
        self.line(f"{process.site.name} ends: {effect.reason}")

    def effect(self, shim: str, key: str) -> None:
        self.line(f"{shim}: {_id(key.partition('/')[2])} takes effect")

    def target_changed(self, process: Process, effect: fx.TargetChanged) -> None:
        dispatch = process.core.origin.dispatch(effect.dispatch_id)
        if dispatch is None:
            return
        row = dispatch.targets[effect.uid].row
        key = (effect.dispatch_id, effect.uid)
        if self._states.get(key) != row.state:
            self._states[key] = row.state
            reason = f" ({row.reason})" if row.reason not in ("", row.state) else ""
            self.line(f"{process.site.name}: {_id(effect.dispatch_id)} at {row.name} is {row.state}{reason}")


def _id(dispatch_id: str) -> str:
    return dispatch_id if len(dispatch_id) < 20 else dispatch_id[:8]


def _name(uid: str) -> str:
    """A uid of the simulated tree is NAME.NUMBER."""
    return uid.rpartition(".")[0] or uid


def _path(steps: list[m.PathStep]) -> str:
    return "/".join(step.name for step in steps)


def _record(record: m.ClusterRecord) -> str:
    state = "up" if record.up else "down"
    facts = f" facts {record.facts.version}" if record.facts else ""
    return f"{record.name} under {_name(record.parent_uid) or 'nobody'} epoch {record.epoch} {state}{facts}"


def _names(alternates: list[m.Alternate]) -> str:
    return ",".join(alternate.name for alternate in alternates) or "-"


def _alternates(item: m.Alternates) -> str:
    grandparent = item.grandparent.name if item.grandparent else "-"
    return f"Alternates uncles {_names(item.uncles)} grandparent {grandparent} siblings {_names(item.siblings)}"


def _hello(item: m.Hello) -> str:
    best = f" best {item.best.beat}/{item.best.depth}" if item.best else ""
    return f"Hello epoch {item.epoch}{best}{' as a last resort' if item.last_resort else ''}"


def _welcome(item: m.Welcome) -> str:
    flags = "" if item.connected else " cut off"
    flags += " draining" if item.draining else ""
    standing = f"{item.standing.beat}/{item.standing.depth}"
    return f"Welcome {standing} of {_path(item.path)}, epoch {item.known_epoch} known{flags}"


def _news(item: m.News) -> str:
    full = {(True, True): " (all)", (True, False): " (all from here)", (False, True): " (to here)"}
    return f"News{full.get((item.full_begin, item.full_end), '')} {'; '.join(map(_record, item.records))}"


def _aims(targets: list[m.DeliveryTarget]) -> str:
    return ", ".join(f"{_name(t.uid)} #{t.seq} after {t.after}" for t in targets)


def _report(item: m.Report) -> str:
    return f"Report {_id(item.dispatch_id)} at {_name(item.target_uid)}: {item.kind} {item.state}".rstrip()


def _letters(item: m.Deliveries | m.Reports) -> str:
    return "; ".join(_SHORT[type(letter)](letter) for letter in item.items)


_SHORT: dict[type, Callable[[Any], str]] = {
    m.Hello: _hello,
    m.Welcome: _welcome,
    m.Refused: lambda i: f"Refused {i.reason}{f' epoch {i.epoch}' if i.epoch else ''}",
    m.Attach: lambda i: f"Attach {_record(i.record)}, {i.digest.count} below",
    m.Attached: lambda i: f"Attached epoch {i.epoch}",
    m.Beat: lambda i: f"Beat {i.standing.beat}/{i.standing.depth} {_path(i.path)}{' draining' if i.draining else ''}",
    m.Goodbye: lambda i: f"Goodbye epoch {i.epoch}, next {i.next_epoch}",
    m.Drained: lambda i: "Drained",
    m.Alternates: _alternates,
    m.News: _news,
    m.Resync: lambda i: "Resync",
    m.Away: lambda i: f"Away {_name(i.uid)} epoch {i.epoch} under {i.parent or '?'}",
    m.Evictions: lambda i: f"Evictions {', '.join(map(_name, i.uids))}",
    m.Deliver: lambda i: f"Deliver {_id(i.dispatch_id)} {i.command} to {_aims(i.targets)}",
    m.Revoke: lambda i: f"Revoke {_id(i.dispatch_id)} {'expired' if i.expired else 'cancelled'} at {_aims(i.targets)}",
    m.Report: _report,
    m.Deliveries: _letters,
    m.Reports: _letters,
    m.Ack: lambda i: f"Ack {', '.join(map(_id, i.dispatch_ids))} to {', '.join(map(_name, i.target_uids))}",
    m.Call: lambda i: f"Call {i.method}",
    m.Reply: lambda i: f"Reply {i.code}",
}
