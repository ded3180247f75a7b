"""`ote-ctl token`: tokens that let clusters join."""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from pathlib import Path

import click

from ote.api.trust.v1 import trust_pb2
from ote.cli.output import Column, Format, print_table, show
from ote.cli.params import DURATION, output_option
from ote.cli.program import Nouns, connected, note
from ote.cli.views import Document, age, moment, token_view
from ote.client.client import Client
from ote.model.errors import FailedPrecondition
from ote.model.names import is_name
from ote.pki import replace_private


@click.group(cls=Nouns)
def token() -> None:
    """Tokens that let clusters join.

    They join below the controller that answers.

    \b
    Example:
      ote-ctl token create --name-pattern 'edge-*'
    """


@token.command()
@click.option("--ttl", type=DURATION, default="24h", show_default=True, help="How long it is good.")
@click.option(
    "--uses", type=click.IntRange(0), default=1, show_default=True, help="How many clusters; 0 is any number."
)
@click.option("--name-pattern", "patterns", multiple=True, metavar="GLOB", help="Names that may join with it.")
@click.option("--allow-children", is_flag=True, help="Who joins may have children: for regions.")
@click.option("-o", "--output", "file", metavar="FILE", help="Write the token to a file (0600) and name that instead.")
@click.option("--force", is_flag=True, help="Also where the file of -o exists.")
def create(
    ttl: float, uses: int, patterns: tuple[str, ...], allow_children: bool, file: str | None, force: bool
) -> None:
    """Make a token, and print the line that joins with it.

    The token is shown this once. -o is a file here, not a format.

    \b
    Example:
      ote-ctl token create --name-pattern 'edge-*' --uses 10 -o join.token
    """
    if len(patterns) > 1:
        raise click.UsageError("--name-pattern is one glob, not a list: make a token for each")
    name_pattern = "".join(patterns)
    request = trust_pb2.CreateJoinTokenRequest(uses=uses, name_pattern=name_pattern, allow_children=allow_children)
    request.ttl.FromTimedelta(timedelta(seconds=ttl))

    target = _target(file, force) if file is not None else None

    async def work(client: Client) -> tuple[trust_pb2.CreateJoinTokenResponse, str]:
        answer = await client.create_join_token(request)
        if target is not None:
            await _keep(client, answer, target)
        return answer, answer.parent or (await client.controller()).advertise or await client.address()

    answer, parent = connected(work)
    secret = answer.secret if file is None else f"@{file}"
    view = token_view(answer.token)
    whom = f"names like {view['name_pattern']}" if view["name_pattern"] else "any name"
    count = f"{view['uses']} time{'s' if view['uses'] != 1 else ''}" if view["uses"] else "any number of times"
    note(f"token {view['id']}, good {count} until {view['expires']} for {whom}; join with:")
    click.echo(join_line(name_pattern, parent, secret, children=allow_children))


def join_line(name_pattern: str, parent: str, secret: str, *, children: bool = False) -> str:
    """The command that starts a cluster which joins; NAME and HOST:PORT stand where they have to be chosen."""
    name = name_pattern if is_name(name_pattern) else "NAME"
    return (
        f"ote-clustercontroller --name {name} --data-dir ./{name} --parent {shlex.quote(parent)} "
        f"--join-token {shlex.quote(secret)}{' --advertise HOST:PORT' if children else ''}"
    )


def _target(file: str, force: bool) -> Path:
    """Where the token is to be written. Raises FailedPrecondition before one is made."""
    if file in [format.value for format in Format]:
        raise click.UsageError(f"-o is the file for the token here: for one called so write -o ./{file}")
    target = Path(file).resolve()
    if target.is_file() and not force:
        raise FailedPrecondition("FILE_EXISTS", f"{file} is there already: --force writes over it; no token was made")
    if target.exists() and not target.is_file():
        raise FailedPrecondition("FILE_NOT_WRITABLE", f"cannot write {file}: it is not a file")
    if not os.access(target.parent, os.W_OK):
        why = "no permission" if target.parent.exists() else "there is no such folder"
        raise FailedPrecondition("FILE_NOT_WRITABLE", f"cannot write {file}: {why}; no token was made")
    return target


async def _keep(client: Client, made: trust_pb2.CreateJoinTokenResponse, target: Path) -> None:
    """Writes the secret, which nobody can ask for again; ends the token where that fails."""
    try:
        replace_private(target, f"{made.secret}\n".encode())
    except OSError as error:
        await client.revoke_join_token(made.token.id)
        raise FailedPrecondition(
            "FILE_NOT_WRITABLE",
            f"cannot write {target}: {error.strerror}; the token is revoked again, make another with another -o",
        ) from None


@token.command("list")
@output_option
def list_(output: Format) -> None:
    """List the tokens of the controller that answers, newest first.

    Those that have expired, are used up or revoked are listed for 30 days more and then forgotten.

    \b
    JSON: {"tokens":[{"id","created","expires","uses","used_by":[],"name_pattern","allow_children","revoked"}]}

    \b
    Example:
      ote-ctl token list
    """
    found = connected(lambda client: client.list_join_tokens())
    rows = [token_view(one) for one in found]
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("EXPIRES"),
        Column("USES"),
        Column("NAMES"),
        Column("CHILDREN", optional=True),
        Column("USED BY", optional=True),
    ]
    show(
        output,
        {"tokens": rows},
        table=lambda: print_table(columns, [_row(one) for one in rows]),
        names=lambda: [one["id"] for one in rows],
    )


def _row(one: Document) -> list[str]:
    return [
        one["id"],
        _state(one),
        one["expires"] or "",
        f"{len(one['used_by'])}/{one['uses'] or 'any'}",
        one["name_pattern"] or "*",
        "yes" if one["allow_children"] else "no",
        ",".join(one["used_by"]),
    ]


def _state(one: Document) -> str:
    if one["revoked"]:
        return "revoked"
    if age(one["expires"]) not in ("", "0s"):
        return "expired"
    return "used up" if one["uses"] and len(one["used_by"]) >= one["uses"] else "good"


@token.command()
@click.argument("id")
def revoke(id: str) -> None:
    """End a token at once. Clusters that joined with it stay.

    \b
    Example:
      ote-ctl token revoke 3f9c1a
    """
    ended = connected(lambda client: client.revoke_join_token(id))
    click.echo(f"token {ended.id} is revoked (it was good until {moment(ended.expires)})")
    if ended.used_by:
        note(f"joined with it and still members: {', '.join(ended.used_by)}; ote-ctl cluster evict NAME ends one")
