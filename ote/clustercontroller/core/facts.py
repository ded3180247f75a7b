"""What this cluster says of itself: settings, changes made at run time over them, its shim, draining, journal.

The version of the facts never goes back: it is on disk, and grows with every change and at every start whose facts
differ from those told last. Runtime changes are kept apart from the settings, so that a removed one falls back to its
setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import FactsChange, ShimUp
from ote.clustercontroller.core.messages import ClusterRecord, Facts, Status, Totals
from ote.model.errors import InvalidArgument
from ote.model.names import check_label_key, check_label_value, check_tag

MAX_LABELS = 256
"""Labels, and tags, that may be set at run time: what one cluster says has to fit a message."""


class OwnRecord:
    """The cluster's own record; `parents` sets parent, epoch and signature of what `record` returns."""

    def __init__(self, ctx: Context, own: rec.Self, settings: Facts, rows: Mapping[str, Any]) -> None:
        self._ctx = ctx
        self._self = own
        self._changes: rec.OwnFacts = rows.get("facts") or rec.OwnFacts()
        told: rec.OwnFactsRow | None = rows.get("record")
        if told is not None and told.facts.shim_kind and settings.shim_kind:
            settings = _with_shim_of(settings, told.facts)
        self._settings = settings
        self._facts = replace(self._merged(), version=told.facts.version if told else 0)
        self._status: Status | None = None
        self.parent_uid = ""
        self.epoch = own.epoch
        self.signature = b""
        if told is None or told.facts != self._facts:
            self.changed()

    def record(self) -> ClusterRecord:
        """The record as of now; facts and status always included."""
        ctx = self._ctx
        return ClusterRecord(
            uid=ctx.uid,
            name=ctx.name,
            parent_uid=self.parent_uid,
            epoch=self.epoch,
            instance=ctx.instance,
            signature=self.signature,
            public_key=ctx.public_key,
            up=True,
            facts=self._facts,
            status=self._status,
        )

    def attached(self, attachment: ClusterRecord) -> None:
        """Another parent: the record that it took."""
        self.parent_uid, self.epoch = attachment.parent_uid, attachment.epoch
        self.signature = attachment.signature

    def changed(self) -> None:
        """Merge anew, count a version, and put it on disk."""
        self._facts = replace(self._merged(), version=self._facts.version + 1)
        self._ctx.put("self", "record", rec.OwnFactsRow(self._facts))

    def change(self, event: FactsChange) -> None:
        """Take labels and tags over the settings'; the last writer of a key wins.

        Errors: InvalidArgument (INVALID_LABEL, TOO_MANY_LABELS); nothing has changed then.
        """
        changes = self._changes
        for key, value in event.labels.items():
            check_label_key(key)
            check_label_value(value)
        for tag in event.tags:
            check_tag(tag)
        if max(len({*changes.labels, *event.labels}), len({*changes.tags, *event.tags})) > MAX_LABELS:
            raise InvalidArgument("TOO_MANY_LABELS", f"a cluster has at most {MAX_LABELS} labels and as many tags")
        for key in event.remove_labels:
            overridden = changes.labels.pop(key, None) is not None
            if not overridden and key in self._settings.labels and key not in changes.removed_labels:
                changes.removed_labels.append(key)
        for key, value in event.labels.items():
            changes.labels[key] = value
            changes.removed_labels = [other for other in changes.removed_labels if other != key]
        for tag in event.remove_tags:
            changes.tags = [other for other in changes.tags if other != tag]
            if tag in self._settings.tags and tag not in changes.removed_tags:
                changes.removed_tags.append(tag)
        for tag in event.tags:
            changes.removed_tags = [other for other in changes.removed_tags if other != tag]
            if tag not in self._settings.tags and tag not in changes.tags:
                changes.tags.append(tag)
        self._ctx.put("self", "facts", changes)
        self.changed()

    def set_shim(self, shim: ShimUp) -> bool:
        """Say which shim there is; returns whether that is news."""
        before = self._settings
        self._settings = replace(
            before,
            shim_kind=shim.kind,
            shim_name=shim.name,
            shim_version=shim.version,
            capabilities=sorted(shim.capabilities),
            shim_silent_since_ms=0,
        )
        return self._settings != before

    def set_shim_silent(self, since_ms: int) -> bool:
        """Say that the shim does not answer; returns whether that is news."""
        if self._settings.shim_silent_since_ms:
            return False
        self._settings = replace(self._settings, shim_silent_since_ms=since_ms)
        return True

    def set_status(self, cluster_status: bytes, totals: Totals) -> None:
        version = self._status.version + 1 if self._status else 1
        self._status = Status(version, cluster_status, totals)

    def set_draining(self, on: bool, since_ms: int) -> None:
        drains = replace(self._settings, draining=on, draining_since_ms=since_ms if on else 0)
        if self._settings != drains:
            self._settings = drains
            self.changed()

    def set_clones(self, names: tuple[str, ...]) -> None:
        self._settings = replace(self._settings, clones=names)
        self.changed()

    def set_home(self, home: str) -> None:
        """The configured parent as it is known now: by its name, once it has said it."""
        if self._settings.configured_parent != home:
            self._settings = replace(self._settings, configured_parent=home)
            self.changed()

    def _merged(self) -> Facts:
        changes = self._changes
        labels = {k: v for k, v in self._settings.labels.items() if k not in changes.removed_labels} | changes.labels
        tags = sorted({t for t in self._settings.tags if t not in changes.removed_tags} | set(changes.tags))
        changed = sorted([*changes.labels, *(f"-{k}" for k in changes.removed_labels)])
        changed += sorted([*(f"+{t}" for t in changes.tags), *(f"-{t}" for t in changes.removed_tags)])
        return replace(
            self._settings,
            labels=labels,
            tags=tags,
            changed=changed,
            journal_id=self._self.journal_id,
            software=self._ctx.software,
        )


def _with_shim_of(facts: Facts, told: Facts) -> Facts:
    """The facts with the shim as it was told last: until it answers again, that is the best that is known."""
    return replace(
        facts,
        shim_kind=told.shim_kind,
        shim_name=told.shim_name,
        shim_version=told.shim_version,
        capabilities=told.capabilities,
        shim_silent_since_ms=told.shim_silent_since_ms,
    )
