"""The rules of one port of ORDERS, as both planes make them of what is stored."""

from collections.abc import Iterable
from dataclasses import replace

from authz.judge import Request, judge
from authz.nearest import near_misses
from authz.rules import PortRule, PortRules, port_rules
from schemas.names import ObjectRef
from schemas.objects import AuthorizationPolicy, Mesh
from schemas.objects.service import ServicePort
from tests.states.build import ORDERS, TRUST_DOMAIN, mesh_saying, ref

OTHER_DOMAIN = "other.test"
"""A trust domain that the mesh federates with."""
ALLOWING = mesh_saying(authorization={"defaultAction": "ALLOW"})
"""By default."""
TELLING = mesh_saying(denialHeader=True)


def rules_of(
    found: Iterable[AuthorizationPolicy],
    port: ServicePort,
    *,
    revoked: Iterable[str] = (),
    unread: Iterable[ObjectRef] = (),
    plaintext: bool = True,
    mesh: Mesh | None = None,
) -> PortRules:
    return port_rules(
        ORDERS,
        port,
        list(found),
        trust_domain=TRUST_DOMAIN,
        is_trusted=lambda domain: domain == OTHER_DOMAIN,
        unreadable=list(unread),
        revoked=[ref(one) for one in revoked],
        plaintext=plaintext,
        mesh=mesh,
    )


def first_near(rules: PortRules, port: ServicePort, request: Request) -> str:
    """The name of the first near miss that matches, judged offline; empty: none is near."""
    for name, sources, operations in near_misses(rules.allow):
        asked = replace(rules, deny=(), allow=(PortRule(rules.allow[0].policy, 0, sources, operations),))
        if judge(asked, port, request).allowed:
            return name
    return ""
