"""Federated trust domains, in words for people and as plain values. Pure."""

from collections.abc import Iterable
from typing import Any

from controlplane.meshadm import messages
from controlplane.meshadm.table import Table, duration, joined, printable
from schemas.api import mesh_pb2 as pb


def domains_table(reply: pb.FederationStatusReply, now: float) -> Table:
    rows = tuple(
        (
            one.trust_domain,
            joined(one.objects) if one.objects else "none: being forgotten",
            str(one.sequence) if one.has_bundle else "none yet",
            str(one.x509_authorities) if one.x509_authorities or not one.has_bundle else "0: nobody is trusted",
            f"{duration(now - one.fetched)} ago" if one.fetched else "-",
            (duration(max(0.0, one.next - now)) if one.next > now else "now") if one.url else "-",
            printable(f"{one.profile} {one.url}") if one.url else "the object",
        )
        for one in reply.domains
    )
    columns = ("TRUST DOMAIN", "OBJECT", "BUNDLE", "AUTHORITIES", "FETCHED", "NEXT IN", "FROM")
    return Table(columns, rows, f"{reply.trust_domain} follows no other trust domain: see docs/federation.md")


def domain_lines(domains: Iterable[pb.FederatedDomain]) -> list[str]:
    """What went wrong; a line each."""
    return [printable(f"{one.trust_domain}: {one.problem}") for one in domains if one.problem]


def plain_status(reply: pb.FederationStatusReply) -> dict[str, Any]:
    """``{trustDomain, bundleSequence, domains: […]}``, each as `messages.plain` has it."""
    return {
        "trustDomain": reply.trust_domain,
        "bundleSequence": reply.bundle_sequence,
        "domains": [messages.plain(one) for one in reply.domains],
    }
