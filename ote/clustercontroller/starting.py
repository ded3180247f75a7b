"""What is settled before a controller begins: its address, its folder, that it is alone there, who it is.

Not here: the identity itself (`membership`), what is built on it (`node`). The one idea: everything that can fail for a
reason of the operator's fails here, with a sentence that says what next.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import structlog

from ote.clustercontroller.membership import Membership
from ote.clustercontroller.settings import Settings
from ote.model.errors import FailedPrecondition, InvalidArgument
from ote.model.names import check_label_key, check_label_value, check_name, check_tag
from ote.pki import apart
from ote.rpc.address import reserve, split_host_port

_log = structlog.get_logger("ote.clustercontroller")


def check_facts(settings: Settings) -> None:
    """Errors: InvalidArgument (INVALID_LABEL)."""
    for key, value in settings.label.items():
        check_label_key(key)
        check_label_value(value)
    for tag in settings.tag:
        check_tag(tag)


@contextlib.contextmanager
def reserved(address: str) -> Iterator[str]:
    """The address, with a free port instead of 0, kept from others. Errors: FailedPrecondition (ADDRESS_NOT_USABLE)."""
    try:
        bound, held = reserve(*split_host_port(address))
    except OSError as error:
        raise FailedPrecondition("ADDRESS_NOT_USABLE", f"cannot listen on {address}: {error.strerror}") from None
    with held:
        yield bound


@contextlib.contextmanager
def own_folder(data_dir: Path) -> Iterator[None]:
    """Make the folder if need be, and hold it. Errors: FailedPrecondition (DATA_DIR_NOT_USABLE, DATA_DIR_IN_USE)."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file: IO[str] = (data_dir / "lock").open("w")
    except OSError as error:
        raise FailedPrecondition("DATA_DIR_NOT_USABLE", f"cannot use {data_dir}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FailedPrecondition(
                "DATA_DIR_IN_USE", f"another controller runs on {data_dir}: stop it first"
            ) from None
        yield


async def become_member(settings: Settings) -> Membership:
    """The identity in the folder, after founding a tree or joining one where there was none.

    Errors: InvalidArgument (MISSING_SETTING, INVALID_NAME), FailedPrecondition (NAME_MISMATCH, JOIN_TOKEN_NEEDED,
    ROOT_HAS_NO_PARENT), those of `Membership.join`.
    """
    known = (settings.data_dir / "identity" / "member.json").exists()
    if not known and not settings.name:
        raise InvalidArgument("MISSING_SETTING", "--name is needed at the first start")
    if settings.name:
        check_name(settings.name)
    if settings.parent is None or settings.advertise is not None:
        apart.load()
    membership = Membership.open(settings.data_dir, settings.name, settings.certificate_lifetime)
    if not membership.joined:
        await _found_or_join(membership, settings)
    elif settings.parent is not None:
        if not membership.member.parent_address:
            raise FailedPrecondition(
                "ROOT_HAS_NO_PARENT",
                f"{settings.data_dir} is a root, which cannot be put under another controller: "
                "take another --data-dir, or remove this one if its tree is not needed",
            )
        membership.set_home(settings.parent)
    return membership


async def _found_or_join(membership: Membership, settings: Settings) -> None:
    member = membership.member
    if settings.parent is None:
        if member.parent_address:
            raise FailedPrecondition(
                "JOIN_TOKEN_NEEDED",
                f"{member.name} has not joined {member.parent_address} yet: start it with --parent and --join-token; "
                "for a tree of its own take another --data-dir",
            )
        membership.found()
        _log.info("tree founded", uid=member.uid)
    elif not settings.join_token:
        raise FailedPrecondition(
            "JOIN_TOKEN_NEEDED",
            f"{member.name} is no member yet: add --join-token; 'ote-ctl token create' makes one",
        )
    else:
        membership.set_home(settings.parent)
        await membership.join(settings.parent, settings.join_token, wants_children=settings.advertise is not None)
        _log.info("joined", parent=member.parent_name)


def address_for_children(settings: Settings, membership: Membership, address: str) -> str:
    """Where children reach the controller that listens on `address`; empty when it may have none."""
    if settings.advertise:
        return settings.advertise if membership.authority is not None else ""
    is_root = membership.member.parent_address == ""
    return address if is_root and split_host_port(address)[0] not in ("0.0.0.0", "::") else ""
