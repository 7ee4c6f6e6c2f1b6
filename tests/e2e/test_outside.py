"""Servers outside of the mesh, by every protocol: called by name, and by routes of a service of the mesh."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.objects import AnyObject, ExternalService, Metadata
from schemas.objects.external import ExternalServiceSpec
from tests.e2e.app import GRPC, HTTP, HTTP2, TCP
from tests.e2e.asking import PORTS, Ask
from tests.e2e.mesh import WEB, E2eMesh
from tests.e2e.rows import EVERY, ONE, Table, all_hold, route
from tests.e2e.test_route_fields import header_filter, mirror, named
from tests.e2e.test_route_parents import ask_at, connected, tcp_route
from tests.states.build import need_external, service

_PARTNER = {"kind": "ExternalService", "name": "partner"}
_BOUND: Mapping[int, int] = {HTTP: 9205, HTTP2: 9206, GRPC: 9207, TCP: 9208}
_PROTOCOLS = {HTTP: "http", HTTP2: "http2", GRPC: "grpc", TCP: "tcp"}

TABLE = Table()


@TABLE.row(EVERY, {"backendRefs": [_PARTNER]})
async def outside(ask: Ask) -> None:
    answer = await ask()
    assert answer.instance == "reports-1"
    assert answer.sent("x-forwarded-client-cert") == []


@TABLE.row(EVERY, {"filters": [mirror(_PARTNER)], "backendRefs": [ONE]})
async def mirrored_outside(ask: Ask) -> None:
    plan = f"{ask.where}-{ask.way}"
    assert (await ask(plan=f"{plan}:")).instance == "api-1"
    await ask.arrive(plan, {"api-1": 1, "reports-1": 1})


def objects(address: str) -> tuple[AnyObject, ...]:
    """The partner is at that address; routes lead there from api, and its own add a header."""
    ports = [{"name": name, "port": 10_000 + at, "targetPort": at, "protocol": name} for at, name in _PROTOCOLS.items()]
    spec = {"ports": ports, "endpoints": [{"address": address}], "tls": {"mode": "DISABLE"}}
    partner = ExternalService(
        api_version="mesh/v1",
        metadata=Metadata(name="partner", namespace="shop"),
        spec=msgspec.convert(spec, ExternalServiceSpec),
    )
    needs = [need_external("partner", port=10_000 + at, bind=bound) for at, bound in _BOUND.items()]
    added = {"filters": [header_filter("Request", set=named(x_out="yes"))]}
    return (
        partner,
        service("web", *WEB.spec.ports, needs=[*(WEB.spec.dependencies or ()), *needs]),
        *TABLE.routes(),
        *(
            route(
                f"partner-{at}",
                at,
                [{**added, "backendRefs": [{**_PARTNER, "port": 10_000 + at}]}],
                parentRefs=[{**_PARTNER, "port": 10_000 + at}],
            )
            for at in (HTTP, HTTP2, GRPC)
        ),
        tcp_route({**_PARTNER, "port": 10_000 + TCP}),
        tcp_route({**_PARTNER, "port": 10_000 + TCP, "weight": 0}, name="partner", parent=_PARTNER),
    )


async def test_outside(mesh: E2eMesh) -> None:
    async with mesh.applied(*objects(mesh.instances["reports-1"].local)):
        await all_hold(mesh, TABLE)
        for way in EVERY:
            answer = await ask_at(mesh, way, _BOUND[PORTS[way]], "partner.shop.mesh")
            assert (answer.instance, answer.sent("x-out")) == ("reports-1", ["yes"])
        assert await connected(mesh) == "reports-1"
        assert await connected(mesh, _BOUND[TCP]) == "", "its own route leads nowhere"
