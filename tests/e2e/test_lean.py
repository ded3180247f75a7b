"""What an idle leaf holds in memory."""

from __future__ import annotations

import re
from pathlib import Path

from ote.apps.localtree import Node, until_online
from tests.e2e.trees import Tree, until


async def test_a_leaf_that_joined_attached_and_renewed_has_not_loaded_cryptography(tree: Tree) -> None:
    await tree.start_root("root", "--certificate-lifetime", "9s")
    leaf = await tree.join("leaf", "root", shim="process")
    certificate = leaf.data_dir / "identity" / "certificate.pem"
    first = certificate.read_bytes()
    async with tree.client() as client:
        await until_online(client, {"leaf": "root"})
        await until(lambda: certificate.read_bytes() != first, "the leaf has renewed its certificate")
        assert "cryptography" in _libraries(tree.nodes["root"])
        assert "cryptography" not in _libraries(leaf)
        await tree.restart("leaf")
        await until_online(client, {"leaf": "root"})
        assert "cryptography" not in _libraries(leaf)


async def test_a_leaf_with_a_folder_of_before_starts(tree: Tree) -> None:
    """Older releases kept neither what the certificate says nor the certificate request."""
    await tree.start_root()
    leaf = await tree.join("leaf", "root")
    await tree.kill_and_wait("leaf")
    for name in ("certificate.json", "request.der"):
        (leaf.data_dir / "identity" / name).unlink()
    await tree.start("leaf")
    async with tree.client() as client:
        await until_online(client, {"leaf": "root"})
    assert (leaf.data_dir / "identity" / "certificate.json").exists()


def _libraries(node: Node) -> set[str]:
    """Packages whose native code a process has loaded."""
    assert node.process is not None
    maps = Path(f"/proc/{node.process.pid}/maps").read_text()
    return set(re.findall(r"site-packages/(\w+)/", maps))
