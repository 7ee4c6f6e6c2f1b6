"""Tokens, operators and host authorities: as tables for people, as plain values for programs. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from controlplane.ca.expiry import life_of
from controlplane.meshadm.table import Table, duration, joined, printable
from schemas.api import mesh_pb2 as pb
from schemas.records import HostAuthority, Revocation
from spiffe.x509 import UNREADABLE


def token_table(tokens: Sequence[pb.TokenInfo], now: float) -> Table:
    """`now`: seconds since 1970."""
    rows = tuple(
        (
            one.id,
            one.bound_to,
            f"{one.uses_left} of {one.uses}",
            "revoked" if one.revoked else _until(one.expires, now),
            printable(one.created_by),
            joined(printable(f"{use.by} as {use.identity}" if use.identity else use.by) for use in one.used),
        )
        for one in sorted(tokens, key=lambda one: (one.created, one.id))
    )
    columns = ("ID", "FOR", "USES LEFT", "EXPIRES", "CREATED BY", "USED BY")
    return Table(columns, rows, "no tokens; make one with `meshadm token create`")


def plain_tokens(reply: pb.ListTokensReply) -> dict[str, Any]:
    return {
        "revision": reply.revision,
        "tokens": [
            {
                "id": one.id,
                "boundTo": one.bound_to,
                "uses": one.uses,
                "usesLeft": one.uses_left,
                "created": _time(one.created),
                "createdBy": one.created_by,
                "expires": _time(one.expires),
                "used": [{"at": _time(use.at), "by": use.by, "identity": use.identity} for use in one.used],
                "revoked": _time(one.revoked),
                "revokedBy": one.revoked_by,
            }
            for one in sorted(reply.tokens, key=lambda one: (one.created, one.id))
        ],
    }


def revocation_table(revocations: Sequence[Revocation], now: float) -> Table:
    """`now`: seconds since 1970."""
    rows = tuple(
        (
            f"{one.namespace}/{one.service}",
            "revoked" if one.revoked else "restored",
            f"{duration(max(0, now - one.at))} ago",
            printable(one.by),
            printable(one.reason) or "-",
        )
        for one in sorted(revocations, key=lambda one: (one.namespace, one.service))
    )
    return Table(("IDENTITY", "STATE", "SINCE", "BY", "REASON"), rows, "no identity was ever revoked")


def plain_revocations(revocations: Sequence[Revocation], revision: int) -> dict[str, Any]:
    return {
        "revision": revision,
        "revocations": [
            {
                "namespace": one.namespace,
                "service": one.service,
                "revoked": one.revoked,
                "serial": one.serial,
                "at": _time(one.at),
                "by": one.by,
                "reason": one.reason,
            }
            for one in sorted(revocations, key=lambda one: (one.namespace, one.service))
        ],
    }


def operator_table(operators: Sequence[pb.OperatorInfo]) -> Table:
    rows = tuple(
        (
            one.name,
            "revoked" if one.revoked else one.role,
            joined(one.namespaces) if one.role == "editor" else "all",
            printable(one.revoked_by if one.revoked else one.granted_by),
        )
        for one in sorted(operators, key=lambda one: one.name)
    )
    return Table(("NAME", "ROLE", "NAMESPACES", "BY"), rows, "no operators; `meshadm operator grant` makes one")


def plain_operators(reply: pb.ListOperatorsReply) -> dict[str, Any]:
    return {
        "revision": reply.revision,
        "operators": [
            {
                "name": one.name,
                "role": one.role,
                "namespaces": list(one.namespaces),
                "since": _time(one.since),
                "grantedBy": one.granted_by,
                "revoked": _time(one.revoked),
                "revokedBy": one.revoked_by,
            }
            for one in sorted(reply.operators, key=lambda one: one.name)
        ],
    }


def attestor_table(authorities: Sequence[HostAuthority], now: float) -> Table:
    """One row a rule."""
    rows: list[tuple[str, ...]] = []
    for one in authorities:
        subjects, ends = joined(map(printable, _subjects(one))), _ends(one)
        for rule in one.rules:
            rows.append((one.name, printable(rule.match), rule.selector, subjects, _until(ends, now) if ends else "-"))
    columns = ("AUTHORITY", "CERTIFICATE", "MAY BE", "CA", "EXPIRES")
    return Table(columns, tuple(rows), "no host authorities; `meshadm attestor x509 add` makes one")


def plain_attestors(authorities: Sequence[HostAuthority], revision: int) -> dict[str, Any]:
    return {
        "revision": revision,
        "x509": [
            {
                "name": one.name,
                "authorities": _subjects(one),
                "rules": [{"match": rule.match, "selector": rule.selector} for rule in one.rules],
                "changed": _time(one.changed),
                "changedBy": one.changed_by,
            }
            for one in authorities
        ],
    }


def _certificates(authority: HostAuthority) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(der) for der in authority.x509_authorities]
    except UNREADABLE:
        return []


def _subjects(authority: HostAuthority) -> list[str]:
    return [one.subject.rfc4514_string() for one in _certificates(authority)]


def _ends(authority: HostAuthority) -> int:
    """When the last of its certificates ends; 0: nobody can read that."""
    life = life_of(authority)
    return life.not_after if life is not None else 0


def _until(end: int, now: float) -> str:
    return f"in {duration(end - now)}" if end > now else "expired"


def _time(seconds: int) -> str | None:
    """RFC 3339; None for 0, which stands for "not"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
