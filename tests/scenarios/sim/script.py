"""Scenario files: one command a line, `#` begins a comment. `Script(text).play()` returns the trace, or raises Failed.

node NAME [under PARENT] [shim] [instance-shim] [leaf]      a machine; a leaf takes no children
start NAME…|all · kill NAME… · power-off NAME · stop NAME · sleep NAME 8s
delay A - B 200ms: frames between them take so long from now on
cut A -> B [one-way] · heal A - B · heal all · break A - B · isolate NAME
snapshot NAME · roll-back NAME · replace NAME [under PARENT] (the disk is lost) · clone NAME (the copy is NAME')
    shim-away NAME · shim-back NAME
choke A -> B [silently] · unchoke A -> B     the registry's lane has no room; silently: A does not know what is lost
evict NAME by CONTROLLER
apply|get|noop ID GLOB [from ORIGIN] [ttl 10s] · cancel ID · drain NAME [off] · label NAME KEY=VALUE
run 5s · watch NAME: remember whom it loses from now on
expect CONDITION [within 2s]: it comes to hold in that time; without `within`, it holds now
    NAME parent NAME · NAME alone · NAME connected · NAME cut-off · NAME dead
    NAME sees NAME ONLINE|OFFLINE|AWAY|NAME_CONFLICT|nothing · NAME label KEY=VALUE at CONTROLLER
    NAME lost NAME,NAME…|nobody (all that it has not shown ONLINE at any time since it is watched)
    NAME may-go-to NAME,NAME… (its alternates) · NAME has-evicted NAME
    ID NAME STATE · NAME effects ID,ID…|none · NAME exits REASON · NAME refused REASON
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from ote.clustercontroller.core.context import CoreSettings
from tests.scenarios.sim.checks import Checks
from tests.scenarios.sim.process import Process
from tests.scenarios.sim.trace import Trace
from tests.scenarios.sim.world import Site, World


class Failed(AssertionError):
    """A line of a scenario does not hold."""


class Script:
    """One scenario."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.world = World(seed=1, settings=CoreSettings())
        self.world.slow = 0.01
        self.trace = Trace(self.world)
        self.checks = Checks(self.world)
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "node": self._node,
            "start": lambda words: self._each(words, self.world.start),
            "kill": lambda words: self._each(words, self.world.kill),
            "power-off": lambda words: self._each(words, self.world.power_off),
            "stop": lambda words: self._each(words, self.world.stop),
            "sleep": self._sleep,
            "cut": lambda words: self.world.cut(self._site(words[0]), self._site(words[2]), "one-way" in words),
            "delay": lambda words: self.world.delay_way(self._site(words[0]), self._site(words[2]), _seconds(words[3])),
            "heal": self._heal,
            "break": lambda words: self.world.break_links(self._site(words[0]), self._site(words[2])),
            "isolate": self._isolate,
            "snapshot": lambda words: self.world.snapshot(self._site(words[0])),
            "roll-back": self._roll_back,
            "replace": self._replace,
            "clone": self._clone,
            "shim-away": lambda words: self._site(words[0]).shim_away(),
            "choke": self._choke,
            "unchoke": lambda words: self.world.choked.remove((words[0], words[2])),
            "shim-back": lambda words: self._site(words[0]).shim_back(),
            "evict": self._evict,
            "apply": lambda words: self._dispatch("apply", words),
            "get": lambda words: self._dispatch("get", words),
            "noop": lambda words: self._dispatch("noop", words),
            "cancel": self._cancel,
            "drain": self._drain,
            "label": self._label,
            "run": lambda words: self.world.run(_seconds(words[0])),
            "watch": lambda words: self.checks.lost.update({words[0]: set()}),
            "expect": self._expect,
        }

    def play(self) -> list[str]:
        """The trace, line by line. Raises Failed."""
        for number, raw in enumerate(self._lines, 1):
            line = raw.partition("#")[0].strip()
            if line:
                self._do(number, line)
        return self.trace.lines

    def _do(self, number: int, line: str) -> None:
        command, *words = line.split()
        if command not in ("node", "run"):
            self.trace.done(line)
        try:
            self._commands[command](words)
        except Exception as failure:
            raise Failed(f"line {number}: {line}: {failure!r}") from failure

    def _site(self, name: str) -> Site:
        return self.world.sites[name]

    def _each(self, words: list[str], do: Callable[[Site], object]) -> None:
        sites = list(self.world.sites.values()) if words == ["all"] else [self._site(word) for word in words]
        for site in sites:
            do(site)

    # --- commands -------------------------------------------------------------------------------------------------

    def _node(self, words: list[str]) -> None:
        name, *rest = words
        parent = rest[rest.index("under") + 1] if "under" in rest else None
        shim = "durable" if "shim" in rest else "instance" if "instance-shim" in rest else ""
        site = self.world.add(name, parent, shim=shim, takes_children="leaf" not in rest)
        if site.shim is not None:
            site.shim.failing = 0.0

    def _sleep(self, words: list[str]) -> None:
        process = self._running(words[0])
        process.sleep()
        self.world.after(_seconds(words[1]), process.wake)

    def _heal(self, words: list[str]) -> None:
        if words == ["all"]:
            self.world.heal_all()
        else:
            self.world.heal(self._site(words[0]), self._site(words[2]))

    def _choke(self, words: list[str]) -> None:
        self.world.choked.add((words[0], words[2]))
        self.world.silent = float("silently" in words)

    def _isolate(self, words: list[str]) -> None:
        site = self._site(words[0])
        for other in self.world.sites.values():
            if other is not site:
                self.world.cut(site, other)

    def _roll_back(self, words: list[str]) -> None:
        site = self._site(words[0])
        self.checks.forgetful.add(site.uid)
        self.world.kill(site)
        self.world.roll_back(site, site.snapshots[-1])

    def _replace(self, words: list[str]) -> None:
        site = self._site(words[0])
        self.checks.forgetful.add(site.uid)
        self.world.replace(site)
        if "under" in words:
            site.parent = self._site(words[2])

    def _clone(self, words: list[str]) -> None:
        site = self._site(words[0])
        self.checks.forgetful.add(site.uid)
        self.checks.cloned.add(site.uid)
        self.world.clone(site)

    def _evict(self, words: list[str]) -> None:
        at = self._running(words[2])
        entry = at.core.registry.find(words[0])
        if entry is None:
            raise Failed(f"{words[2]} does not know {words[0]}")
        self.world.evict(at.site, entry.uid)
        self.checks.gone.add(entry.uid)

    def _dispatch(self, command: str, words: list[str]) -> None:
        name, glob, *rest = words
        origin = self._site(rest[rest.index("from") + 1] if "from" in rest else next(iter(self.world.sites)))
        ttl = _seconds(rest[rest.index("ttl") + 1]) if "ttl" in rest else 60.0
        targets = [site for site in self.world.sites.values() if fnmatchcase(site.name, glob)]
        if self.world.submit(origin, targets, command, ttl=ttl, name=name) is None:
            raise Failed("nobody to take it, or nobody meant")

    def _cancel(self, words: list[str]) -> None:
        self.world.cancel(next(s for s in self.world.dispatches.values() if s.id == words[0]))

    def _drain(self, words: list[str]) -> None:
        site, root = self._site(words[0]), next(iter(self.world.sites.values()))
        off = "off" in words
        self.world.submit(root, [site], "drain", body={"off": off}, name=f"{'un' if off else ''}drain-{site.name}")

    def _label(self, words: list[str]) -> None:
        key, _, value = words[1].partition("=")
        root = next(iter(self.world.sites.values()))
        self.world.submit(root, [self._site(words[0])], "set_facts", body={"labels": {key: value}}, name=words[1])

    def _running(self, name: str) -> Process:
        process = self._site(name).process
        if process is None:
            raise Failed(f"{name} does not run")
        return process

    # --- expectations ---------------------------------------------------------------------------------------------

    def _expect(self, words: list[str]) -> None:
        within = 0.0
        if "within" in words:
            at = words.index("within")
            within = _seconds(words[at + 1])
            words = words[:at]
        if not self.world.run_until(lambda: self._is(words) == "", within, step=0.05):
            raise Failed(self._is(words))

    def _is(self, words: list[str]) -> str:
        """What is instead, empty if it holds."""
        name, what, *rest = words
        site = self.world.sites.get(name)
        if site is None:
            return self._target(name, what, rest[0])
        if what == "effects":
            assert site.shim is not None
            effects = ",".join(effect.key.partition("/")[2] for effect in site.shim.effects) or "none"
            return "" if effects == rest[0] else f"{name} had effects {effects}"
        if what == "exits":
            reasons = [reason for exited, reason in self.checks.exits if exited == name]
            return "" if rest[0] in reasons else f"{name} has not ended so"
        if what == "lost":
            lost = ",".join(sorted(self.checks.lost[name])) or "nobody"
            return "" if lost == rest[0] else f"{name} lost {lost}"
        process = site.process
        if process is None:
            return "" if what == "dead" else f"{name} does not run"
        return self._member(process, what, rest)

    def _target(self, dispatch_id: str, name: str, wanted: str) -> str:
        submitted = next(s for s in self.world.dispatches.values() if s.id == dispatch_id)
        uid = next(uid for uid in submitted.targets if uid.rpartition(".")[0] == name)
        state = self.world.state(submitted, uid)
        return "" if state == wanted else f"{dispatch_id} at {name} is {state or 'unknown'}"

    def _member(self, process: Process, what: str, rest: list[str]) -> str:
        name, parents, parent = process.site.name, process.core.parents, process.parent()
        process.core.ctx.now = process.clock()
        if what == "dead":
            return f"{name} runs"
        if what in ("parent", "alone"):
            wanted = rest[0] if rest else ""
            found = parent.site.name if parent is not None else ""
            return "" if found == wanted else f"{name} is under {found or 'nobody'}"
        if what in ("connected", "cut-off"):
            return "" if parents.connected == (what == "connected") else f"{name} is not {what}"
        if what == "refused":
            reasons = [str(log.fields["reason"]) for log in process.logs if log.message == "refused"]
            return "" if rest[0] in reasons else f"{name} was refused for {reasons}"
        if what == "may-go-to":
            told = parents.alternates
            above = [told.grandparent] if told.grandparent else []
            names = ",".join(one.name for one in (*told.uncles, *above, *told.siblings))
            return "" if names == rest[0] else f"{name} may go to {names}"
        if what == "has-evicted":
            return "" if self._site(rest[0]).uid in process.core.registry.evicted else f"{name} has not heard of it"
        if what == "label":
            entry = self._running(rest[2]).core.registry.get(process.uid)
            key, _, value = rest[0].partition("=")
            return (
                "" if entry is not None and entry.labels.get(key) == value else f"labels are {entry and entry.labels}"
            )
        if what == "sees":
            registry = process.core.registry
            uid = self._site(rest[0]).uid
            state = registry.state(uid) if registry.get(uid) is not None else "nothing"
            return "" if state == rest[1] else f"{name} sees {rest[0]} {state}"
        raise Failed(f"nothing known of {what!r}")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if match is None:
        raise Failed(f"{text!r} is no time: 200ms, 5s, 2m")
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[match[2]]
