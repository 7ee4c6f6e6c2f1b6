"""Keys of token issuers, in words for people and as plain values. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from controlplane.meshadm import messages
from controlplane.meshadm.table import Table, count, duration, joined, printable
from schemas.api import mesh_pb2 as pb


def table(reply: pb.KeySetsReply, now: float) -> Table:
    """now: seconds since 1970."""
    rows = tuple(
        (
            printable(one.uri),
            joined(one.objects) if one.objects else "none: being forgotten",
            str(one.keys) if one.keys else "0: tokens are refused",
            f"{duration(now - one.fetched)} ago" if one.fetched else "never",
            (duration(one.next - now) if one.next > now else "now") if one.objects else "-",
            "failed" if one.failures else "ok" if one.tried else "not tried yet",
        )
        for one in reply.key_sets
    )
    columns = ("FROM", "OBJECTS", "KEYS", "FETCHED", "NEXT IN", "LAST TRY")
    return Table(columns, rows, "no RequestAuthentication has a jwksUri: see docs/request-authentication.md")


def problems(key_sets: Iterable[pb.KeySet]) -> list[str]:
    """What went wrong; a line each."""
    return [
        printable(
            f"{one.uri}: {count(one.failures, 'attempt', 'attempts')} failed, the last by {one.by}: {one.problem}"
        )
        for one in key_sets
        if one.problem
    ]


def words(one: pb.KeySet, now: float) -> Iterator[str]:
    """now: seconds since 1970."""
    yield printable(one.uri)
    if one.keys:
        yield f"  {count(one.keys, 'key', 'keys')}, unchanged for {duration(now - one.since)}"
    else:
        yield "  no keys: tokens of its issuer are refused"
    if one.fetched:
        yield f"  fetched {duration(now - one.fetched)} ago"
    yield f"  next attempt in {duration(one.next - now)}" if one.next > now else "  next attempt now"
    yield from (f"  {line}" for line in problems([one]))


def plain(reply: pb.KeySetsReply) -> dict[str, Any]:
    """``{keySets: […]}``, the messages' fields in lowerCamelCase; numbers as numbers, `caSha256` in hex."""
    return {"keySets": [plain_key_set(one) for one in reply.key_sets]}


def plain_key_set(one: pb.KeySet) -> dict[str, Any]:
    found = messages.plain(one)
    del found["jwks"]
    found["caSha256"] = one.ca_sha256.hex()
    return found
