"""What an entry costs."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.registry import Registry
from tests.unit.clustercontroller.core.registry_tree import make_context, make_record, sign


def test_an_entry_takes_at_most_one_and_a_half_kilobytes_with_its_share_of_the_indexes() -> None:
    """With a real signature's and key's size, three labels of which one is unique, two tags."""
    rng = random.Random(1)
    ctx = make_context("root")
    ctx.verify = lambda key, text, signature: True
    registry = Registry(ctx)
    registry.take(make_record("region", "root"))
    registry.link_up("region", 1)
    count = 4_000
    interned = _interned_until_the_table_has_grown()
    tracemalloc.start()
    try:
        for number in range(count):
            facts = m.Facts(
                version=1,
                labels={"region": "eu", "tier": "gold", "serial": f"s{number}"},
                tags=["gpu", "shop"],
                configured_parent="region",
                shim_kind="local",
                capabilities=["apply", "delete", "get"],
                journal_id=f"{rng.getrandbits(128):032x}",
            )
            record = make_record(f"{rng.getrandbits(128):032x}", "region", facts=facts)
            record.name, record.instance = f"edge-{number}", f"{rng.getrandbits(128):032x}"
            record.signature, record.public_key = sign(b"", rng.randbytes(65)), rng.randbytes(91)
            registry.news_from("region", m.News([record]))
            ctx.effects.clear()
        registry.news()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert interned
    assert size / count <= 1500


def _interned_until_the_table_has_grown() -> list[str]:
    """Strings that leave room in the interpreter's table of interned ones: it is everybody's, and would be counted."""
    strings: list[str] = []
    tracemalloc.start()
    try:
        before = after = 0
        while after - before < 500_000:
            before = tracemalloc.get_traced_memory()[0]
            strings.append(sys.intern(f"interned {len(strings)}"))
            after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return strings
