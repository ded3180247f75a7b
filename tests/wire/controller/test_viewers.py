"""What a viewer may ask clusters, and what it sees of what others have asked them."""

from __future__ import annotations

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from tests.wire.controller.tree import Tree, dispatch, refused


async def test_a_viewer_gets_no_secrets_and_reads_only_what_it_asked_for_itself(tree: Tree) -> None:
    root = await tree.start("root")
    viewer, admin = tree.as_("root", tree.person("viewer", "root")), tree.admin("root")
    for kind in ("Secret", "secrets", "SECRETS", "v1/secrets"):
        command = command_pb2.Command(get=command_pb2.Get(kind=kind, all_namespaces=True))
        error = await refused(dispatch(viewer, "root", command=command))
        assert (error.reason, "--role operator" in error.message) == ("ROLE_NOT_ALLOWED", True)
        assert await dispatch(admin, "root", command=command) == {"root": "FAILED"}  # there is no shim
    pods = command_pb2.Command(get=command_pb2.Get(kind="pod"))
    assert await dispatch(viewer, "root", command=pods) == {"root": "FAILED"}
    shown = {}
    for one in root.shell.core.origin.newest():
        for target in one.targets.values():
            target.row.state = "SUCCEEDED"
            target.row.body = command_pb2.Result(output=b"hidden?").SerializeToString()
        name = f"root/{one.row.id}"
        for stubs in (viewer, admin):
            got = await stubs.routes.GetDispatch(route_pb2.GetDispatchRequest(dispatch=name))
            seen = {target.output for target in got.dispatch.targets}
            async for event in stubs.routes.WatchDispatch(route_pb2.WatchDispatchRequest(dispatch=name)):
                seen |= {target.output for target in (*event.accepted.targets, *event.changed.targets)}
            shown[one.row.caller, stubs is admin] = seen
    assert shown == {
        ("viewer/p1", False): {b"hidden?"},
        ("viewer/p1", True): {b"hidden?"},
        ("admin/p1", False): {b""},
        ("admin/p1", True): {b"hidden?"},
    }
