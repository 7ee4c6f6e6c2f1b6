"""`watch`: the stream of etcd's changes, decoded."""

import click

from controlplane.meshadm import output, render
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.options import EXIT_INTERRUPTED, Connect, KindWord, MeshCommand, connects, formats
from schemas.api import mesh_pb2 as pb
from schemas.keys import DEFAULT_PREFIX, Keyspace
from schemas.names import ObjectRef


@click.command(
    "watch",
    cls=MeshCommand,
    short_help="Show every change in etcd as it comes.",
    example="""
meshadm watch
meshadm watch --kind service --kind authz -n shop
meshadm watch -o json | jq 'select(.action == "delete")'
""",
)
@click.option("--kind", "kinds", type=KindWord(), multiple=True, help="Only objects of this kind. Repeat it for more.")
@click.option("-n", "--namespace", default=None, help="Only what is of this namespace.  [default: all]")
@click.option("--after-revision", type=click.IntRange(min=1), default=None, help="Start with what came after it.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after this many changes.")
@click.option("--key-prefix", default=DEFAULT_PREFIX, show_default=True, help="Of the mesh's keys in etcd.")
@formats("table", "json")
@connects
def watch(
    connect: Connect,
    kinds: tuple[str, ...],
    namespace: str | None,
    after_revision: int | None,
    count: int | None,
    key_prefix: str,
    form: str,
) -> None:
    """Show every change in etcd as it comes, one line each: objects, endpoints, trust bundles, sidecars' reports.

    With -o json each line is one JSON object. Runs until it is interrupted.
    """
    keys = Keyspace(key_prefix)
    left = count

    class Enough(Exception):
        pass

    def show(event: pb.WatchEvent) -> None:
        nonlocal left
        if not _wanted(event, keys, kinds, namespace):
            return
        if form == "json":
            output.line(output.as_json_line(render.plain_event(event, keys)))
        else:
            output.line(render.event_line(event, keys))
        if left is not None:
            left -= 1
            if not left:
                raise Enough

    async def follow(client: MeshClient) -> None:
        await client.watch(after_revision or 0, show)

    try:
        connect.run(follow)
    except Enough:
        return
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def _wanted(event: pb.WatchEvent, keys: Keyspace, kinds: tuple[str, ...], namespace: str | None) -> bool:
    ref = keys.parse(event.key.encode())
    if kinds and not (isinstance(ref, ObjectRef) and ref.kind in kinds):
        return False
    if namespace is None:
        return True
    service = getattr(ref, "service", None)  # of an endpoint
    return namespace == (service.namespace if service else getattr(ref, "namespace", None))
