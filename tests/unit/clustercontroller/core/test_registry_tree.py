"""Random histories of a tree of registries: after whatever happened, all of them tell the truth again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ote.clustercontroller.core.digest import mark
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.states import AWAY, OFFLINE, ONLINE
from tests.unit.clustercontroller.core.registry_tree import Tree

UIDS = "RABCDEFGH"


def brute_digest(registry: Registry, uid: str) -> tuple[int, int]:
    """The digest below a cluster, counted one by one."""
    marks = [mark(entry) for below in registry.descendants(uid) if (entry := registry.entries[below]).up]
    return len(marks), sum(marks) % 2**64


def check_always(tree: Tree) -> None:
    for node in tree.nodes.values():
        registry = node.registry
        for uid in registry.entries:
            assert len(registry._chain(registry.entries[uid])) <= len(UIDS) + 1, "a ring"
            assert registry.digest_via(uid) == brute_digest(registry, uid)
            if registry.next_hop(uid) is not None:
                assert registry.state(uid) == ONLINE


def check_truth(tree: Tree) -> None:
    for at, node in tree.nodes.items():
        registry = node.registry
        for uid in UIDS:
            chain = tree.chain(uid)
            if at in chain:
                assert registry.state(uid) == ONLINE, (at, uid, registry.state(uid))
                assert registry.path(uid) == list(reversed(chain[: chain.index(at) + 1]))
            elif registry.get(uid) is not None:
                assert registry.state(uid) in (OFFLINE, AWAY)
                assert registry.next_hop(uid) is None


STEPS = st.tuples(
    st.sampled_from(["attach", "attach", "cut", "tell", "deliver", "deliver", "deliver", "restart", "set back"]),
    st.integers(0, 8),
    st.integers(0, 8),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=80))
def test_after_any_history_all_registries_tell_the_truth(steps: list[tuple[str, int, int]]) -> None:
    tree = Tree(UIDS)
    for child, parent in zip("ABCDEFGH", "RRAABBCC", strict=True):
        tree.attach(child, parent)
    for step, first, second in steps:
        uid, other = UIDS[first], UIDS[second]
        wires = list(tree.wires.values())
        if step == "attach" and uid != "R" and uid not in tree.chain(other):
            tree.attach(uid, other)
        elif step == "cut" and wires:
            tree.cut(wires[(first * 9 + second) % len(wires)])
        elif step == "tell":
            tree.tell(uid)
        elif step == "restart":
            tree.nodes[uid].restart()
        elif step == "set back":
            tree.nodes[uid].restart(epochs_back=1 + second % 3)
        elif step == "deliver" and wires:
            tree.deliver(wires[(first * 9 + second) % len(wires)])
        check_always(tree)
    for uid in UIDS[1:]:
        if tree.parent_of(uid) is None:
            tree.attach(uid, "R")
    tree.settle()
    for uid in UIDS[1:]:
        if tree.parent_of(uid) is None:
            tree.attach(uid, "R")
    tree.settle()
    check_always(tree)
    check_truth(tree)
