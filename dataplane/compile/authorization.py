"""The rules of one port ▸ Envoy RBAC.

Two filters in a row: any DENY that matches refuses, then some ALLOW must match. The second one's own configuration
allows nothing, so where no policy reaches it nothing passes. What the policies mean is `authz.rules`' to say; here it
is only put into Envoy's words.
"""

from collections.abc import Iterable
from typing import NamedTuple

from envoy.config.rbac.v3 import rbac_pb2

from authz.nearest import near_misses
from authz.peers import mode_of
from authz.rules import PortRule, applies, port_rules
from dataplane.compile.wording import Wording, add_caller
from dataplane.snapshot.state import MeshState
from schemas.names import ServiceRef
from schemas.objects import PeerAuthentication
from schemas.objects.service import ServicePort


class Judging(NamedTuple):
    """What judges the requests to one port. `allow` without policies refuses everything."""

    deny: rbac_pb2.RBAC
    allow: rbac_pb2.RBAC
    audit: rbac_pb2.RBAC | None = None
    """What is to be counted, as if it were denied; None where there is nothing."""
    nearest: rbac_pb2.RBAC | None = None
    """Which ALLOW came nearest, to be told with a denial; None where that is not to be known, or known already."""
    always_nearest: str = ""
    """Its name, where that is the same for whatever no ALLOW matches."""


def rules_for(
    state: MeshState, service: ServiceRef, trust_domain: str, port: ServicePort, wording: Wording | None = None
) -> Judging:
    """wording: of the last time, and of this one."""
    wording = wording or Wording()
    rules = port_rules(
        service,
        port,
        state.authorization_policies(service.namespace),
        trust_domain=trust_domain,
        is_trusted=state.is_trusted,
        unreadable=[one for one in state.unreadable_policies if one.kind != PeerAuthentication.__name__],
        revoked=state.revoked.services(),
        plaintext=is_permissive(state, service, port),
        mesh=state.mesh(),
    )
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    if rules.revoked:
        revoked = deny.policies["revoked"]
        revoked.permissions.add(any=True)
        for one in rules.revoked:
            add_caller(revoked, str(one))
    for ref in rules.unreadable:
        deny.policies[f"{ref.namespace}/{ref.name}: unreadable"].CopyFrom(_everything())
    wording.add(deny, rules.deny)
    allow = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    wording.add(allow, rules.allow)
    audit = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    wording.add(audit, rules.audit)
    nearest, always = _nearest(rules.allow, wording)
    return Judging(deny, allow, audit if audit.policies else None, nearest if nearest.policies else None, always)


def _nearest(allow: Iterable[PortRule], wording: Wording) -> tuple[rbac_pb2.RBAC, str]:
    """Without policies where one name would be told of all: most ports ask who calls and no more, and Envoy would spend
    some 3 us on it with each request that is let in."""
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    for near in near_misses(allow):
        if near.matches_all and not rules.policies:
            return rules, near.name
        wording.add(rules, [near])
        if near.matches_all:
            break  # none of the others would be reached
    return rules, ""


def headers_judged(state: MeshState, service: ServiceRef) -> list[str]:
    """The headers that rules for the service ask for, in order."""
    operations = (
        operation
        for policy in state.authorization_policies(service.namespace)
        if applies(policy, service) and policy.spec.action != "AUDIT"
        for rule in policy.spec.rules
        for operation in rule.to or ()
    )
    return sorted(
        {one.name.lower() for each in operations for one in (*(each.headers or ()), *(each.not_headers or ()))}
    )


def is_permissive(state: MeshState, service: ServiceRef, port: ServicePort) -> bool:
    """Whether the port takes plaintext beside mTLS."""
    objects = state.peer_authentications(service.namespace)
    return mode_of(service, port.port, objects, state.unreadable_policies).permissive


def closed() -> Judging:
    """What lets nobody in."""
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    deny.policies["closed"].CopyFrom(_everything())
    return Judging(deny, rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))


def _everything() -> rbac_pb2.Policy:
    return rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=[rbac_pb2.Principal(any=True)])
