"""Do apply, get and delete do to objects what their results say?"""

from __future__ import annotations

import json

from ote.api.command.v1 import command_pb2
from ote.conformance.manifests import Thing, as_yaml
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, objects_in, told
from ote.conformance.verdict import expect

check = CheckGroup("objects")


def the_action(result: command_pb2.Result, thing: Thing) -> str:
    """What the result says happened to this object, without the enum's prefix; fails the check when it is not told
    exactly once."""
    told_of = [each for each in result.objects if (each.object.kind, each.object.name) == (thing.kind, thing.name)]
    expect(
        len(told_of) == 1, f"expected {thing.kind}/{thing.name} once in the objects of the result, found {len(told_of)}"
    )
    expect(told_of[0].action in command_pb2.Action.values(), f"action {told_of[0].action} is not of the contract")
    return command_pb2.Action.Name(told_of[0].action).removeprefix("ACTION_")


def expect_action(result: command_pb2.Result, thing: Thing, action: str) -> None:
    """Fail the check unless the result says that this happened to the object."""
    got = the_action(result, thing)
    expect(got == action, f"expected {thing.kind}/{thing.name} {action}, got {got}")


async def expect_value(probe: Probe, thing: Thing, value: str) -> None:
    """Fail the check unless the object is there with this value."""
    found = await probe.found(thing)
    expect(found is not None, f"{thing.kind}/{thing.name} is not there")
    got = thing.value_in(found or {})
    expect(got == value, f"expected {thing.kind}/{thing.name} to hold {value!r}, got {got!r}")


@check(
    "created",
    title="apply of a new object says CREATED and names it in full",
    contract="objects: per object, for apply and delete; an ObjectRef's namespace is empty only for kinds without one.",
    needs=("apply",),
)
async def created(probe: Probe) -> None:
    """Kind, name, namespace, action and readiness are told."""
    thing = probe.thing()
    result = await probe.apply(thing)
    expect_action(result, thing, "CREATED")
    ref = result.objects[0].object
    expect(ref.namespace == "default", f"expected namespace 'default' in the result, got {ref.namespace!r}")
    expect(ref.api_version == thing.api_version, f"expected api_version {thing.api_version}, got {ref.api_version!r}")
    expect(result.objects[0].ready, f"a {thing.kind} has no readiness and counts as ready")


@check(
    "unchanged",
    title="apply of the same again says UNCHANGED",
    contract="ACTION_UNCHANGED: it existed as asked for.",
    needs=("apply",),
)
async def unchanged(probe: Probe) -> None:
    """A second apply, under an id of its own, changes nothing."""
    thing = probe.thing()
    await probe.apply(thing)
    expect_action(await probe.apply(thing), thing, "UNCHANGED")


@check(
    "configured",
    title="apply of something else says CONFIGURED",
    contract="ACTION_CONFIGURED: it existed and was changed.",
    needs=("apply", "get"),
)
async def configured(probe: Probe) -> None:
    """The change is told and is there."""
    thing = probe.thing("one")
    await probe.apply(thing)
    changed = Thing(thing.kind, thing.name, thing.namespace, "two")
    expect_action(await probe.apply(changed), thing, "CONFIGURED")
    await expect_value(probe, changed, "two")


@check(
    "get",
    title="get brings what was applied, as a JSON array",
    contract="Get: output holds the objects as a JSON array, UTF-8. Kind in any case, singular or plural.",
    needs=("apply", "get"),
)
async def get(probe: Probe) -> None:
    """By name under four spellings of the kind, and in the list."""
    thing = probe.thing("straße")
    await probe.apply(thing)
    for kind in (thing.kind, thing.kind.lower(), f"{thing.kind.lower()}s", thing.kind.upper()):
        result = (await probe.get(kind, thing.name)).settled()
        expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"get {kind}/{thing.name}: {told(result)}")
        items = objects_in(result)
        expect(len(items) == 1, f"get {kind}/{thing.name} brought {len(items)} objects")
        expect(items[0].get("kind") == thing.kind, f"get {kind}: the object says kind {items[0].get('kind')!r}")
        expect(items[0].get("metadata", {}).get("name") == thing.name, f"get {kind}: another name came back")
        expect(thing.value_in(items[0]) == thing.value, f"get {kind}: the content is {items[0]!r}")
    names = [item.get("metadata", {}).get("name") for item in objects_in((await probe.get(thing.kind)).settled())]
    expect(thing.name in names, f"the list of {thing.kind} does not hold {thing.name}")


@check(
    "get-absent",
    title="get of an absent name is NOT_FOUND",
    contract="Result.reason: NOT_FOUND; what happened to a command is always told in its Result.",
    needs=("get",),
)
async def get_absent(probe: Probe) -> None:
    """FAILED with NOT_FOUND, or an empty array; never an error of the call."""
    found = await probe.found(probe.thing())
    expect(found is None, f"an object that was never applied came back: {found!r}")


@check(
    "stream",
    title="apply takes a stream of YAML documents, or JSON",
    contract="Apply.manifests: a stream of YAML documents, or JSON. UTF-8.",
    needs=("apply",),
)
async def stream(probe: Probe) -> None:
    """Block-style YAML with comments and empty documents, and one JSON document."""
    things = [probe.thing(), probe.thing(), probe.thing()]
    text = "# first\n---\n" + "---\n".join(as_yaml(thing) for thing in things) + "---\n# nothing here\n---\n"
    result = await probe.done(probe.apply_command(text.encode()))
    for thing in things:
        expect_action(result, thing, "CREATED")
    thing = probe.thing()
    result = await probe.done(probe.apply_command(json.dumps(thing.manifest(), indent=1).encode()))
    expect_action(result, thing, "CREATED")


@check(
    "namespaces",
    title="namespaces keep objects apart",
    contract="Get.namespace: empty means 'default'; all_namespaces lists over all.",
    needs=("apply", "get"),
)
async def namespaces(probe: Probe) -> None:
    """The same name in two namespaces is two objects, and all_namespaces shows both."""
    here = probe.thing("here")
    space = Thing("Namespace", f"{here.name}-ns")
    there = Thing(here.kind, here.name, space.name, "there")
    if not probe.info.object_kinds or "Namespace" in probe.info.object_kinds:
        probe.track(space)
        await probe.apply(space)
    probe.track(there)
    await probe.apply(here, there)
    await expect_value(probe, here, "here")
    await expect_value(probe, there, "there")
    default = Thing(here.kind, here.name, "default", "here")
    await expect_value(probe, default, "here")
    items = objects_in((await probe.get(here.kind, everywhere=True)).settled())
    spaces = {item["metadata"].get("namespace") for item in items if item.get("metadata", {}).get("name") == here.name}
    expect(spaces == {"default", space.name}, f"all_namespaces shows {here.name} in {sorted(map(str, spaces))}")


@check(
    "delete",
    title="delete says DELETED, and ABSENT the next time",
    contract="Delete: an object that does not exist counts as deleted, with action ABSENT.",
    needs=("apply", "delete"),
)
async def delete(probe: Probe) -> None:
    """By reference, twice; afterwards get does not find it."""
    thing = probe.thing()
    await probe.apply(thing)
    command = command_pb2.Command(delete=command_pb2.Delete(objects=[thing.ref()]))
    expect_action(await probe.done(command), thing, "DELETED")
    if probe.can("get"):
        expect(await probe.found(thing) is None, f"{thing.kind}/{thing.name} is still there after its delete")
    expect_action(await probe.done(command), thing, "ABSENT")


@check(
    "delete-manifests",
    title="delete takes manifests, of which only the references count",
    contract="Delete.manifests: manifests whose objects are to be deleted; only their references count.",
    needs=("apply", "delete"),
)
async def delete_manifests(probe: Probe) -> None:
    """The manifest's content differs from the object's, and the object is deleted all the same."""
    thing = probe.thing("one")
    await probe.apply(thing)
    other = Thing(thing.kind, thing.name, thing.namespace, "two")
    manifests = json.dumps(other.manifest()).encode()
    expect_action(
        await probe.done(command_pb2.Command(delete=command_pb2.Delete(manifests=manifests))), thing, "DELETED"
    )


@check(
    "part",
    title="a command that meets each of its objects differently says so for each",
    contract="objects: per object, for apply and delete.",
    needs=("apply", "delete"),
)
async def part(probe: Probe) -> None:
    """One apply that creates, configures and leaves; one delete that deletes and finds nothing."""
    kept, changed, new = probe.thing(), probe.thing("one"), probe.thing()
    await probe.apply(kept, changed)
    result = await probe.apply(kept, Thing(changed.kind, changed.name, changed.namespace, "two"), new)
    for thing, action in ((kept, "UNCHANGED"), (changed, "CONFIGURED"), (new, "CREATED")):
        expect_action(result, thing, action)
    absent = probe.thing()
    result = await probe.done(command_pb2.Command(delete=command_pb2.Delete(objects=[kept.ref(), absent.ref()])))
    expect_action(result, kept, "DELETED")
    expect_action(result, absent, "ABSENT")


@check(
    "all-checked-first",
    title="one bad manifest, and none is applied",
    contract="Apply.manifests: all are checked before one is applied.",
    needs=("apply", "get"),
)
async def all_checked_first(probe: Probe) -> None:
    """A good object before and one after a document that is no object: FAILED, and neither exists."""
    before, after = probe.thing(), probe.thing()
    bad = {"apiVersion": "v1", "kind": before.kind}
    text = "\n---\n".join(json.dumps(document) for document in (before.manifest(), bad, after.manifest()))
    result = (await probe.execute(probe.apply_command(text.encode()))).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    expect(result.reason == "INVALID_MANIFEST", f"expected reason INVALID_MANIFEST, got {told(result)}")
    for thing in (before, after):
        expect(await probe.found(thing) is None, f"{thing.name} was applied although another document is bad")
