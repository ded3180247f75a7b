"""A registry whose children a test plays."""

from __future__ import annotations

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.registry import Registry
from tests.unit.clustercontroller.core.registry_tree import effects, make_context, make_record


class Seen:
    """A registry of "root" with regions "east" (link 1) and "west" (link 2), and what it called back."""

    def __init__(self) -> None:
        self.ctx = make_context("root")
        self.registry = Registry(self.ctx)
        self.moved: list[str] = []
        self.gone: list[str] = []
        self.superseded: list[m.Away] = []
        self.registry.on_paths_changed = self.moved.extend
        self.registry.on_gone = self.gone.append
        self.registry.on_superseded = self.superseded.append
        for link, name in enumerate(("east", "west"), 1):
            assert self.registry.take(make_record(name, "root"))
            self.registry.link_up(name, link)
        self.clear()

    def clear(self) -> None:
        self.ctx.effects.clear()
        self.moved.clear()

    def tell(self, via: str, *records: m.ClusterRecord) -> bool:
        return self.registry.news_from(via, m.News(list(records)))


def logged(ctx: Context) -> list[str]:
    return [log.fields["problem"] for log in effects(ctx, fx.Log) if log.message == "attachment not taken"]
