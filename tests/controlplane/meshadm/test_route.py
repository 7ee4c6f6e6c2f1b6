"""`route` by what a replica has, and how routes are listed."""

import json
from pathlib import Path

from schemas.objects import HTTPRoute, Service
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.schemas.values import OBJECTS

_ROUTE = ("route", "web.shop", "orders.shop")


async def test_by_what_a_replica_has(cli: Cli, fake: FakeReplica) -> None:
    fake.add(*OBJECTS)
    said = await cli.ok(*_ROUTE, "GET", "http://x.example.com:8080/a?q=1", "-H", "x=y")
    assert said.splitlines() == [
        "HTTPRoute shop/split rule 0: host *.example.com, method GET, path /a/*, header x = y, query q = 1",
        "  100 % to orders.shop:8080 [version=v2]",
        "  filter URLRewrite",
        "  filter Fault",
        "  timeout 10s",
        "  2 retries on 503, lost connections, resets",
        "  session by header mesh-session",
        "note: service web.shop does not exist: no sidecar of it can run",
        "note: x.example.com is no name of orders.shop at the proxy port: so only through a bound port",
    ]
    plain = json.loads(await cli.ok(*_ROUTE, "CONNECT", "orders.shop:5432", "-o", "json"))
    assert plain["route"] == {"kind": "TCPRoute", "namespace": "shop", "name": "db"}
    assert plain["backends"] == [{"target": "orders.shop:5432", "percent": 100.0}]


async def test_why_not(cli: Cli, fake: FakeReplica) -> None:
    fake.add(*(one for one in OBJECTS if isinstance(one, Service | HTTPRoute)))
    said = await cli.ok(*_ROUTE, "GET", "http://orders.shop:8080/a")
    assert "answered 404: no rule matches" in said
    assert "HTTPRoute shop/split rule 0 match 0: the host is orders.shop, not *.example.com" in said


async def test_routes_are_listed_with_what_they_are_for(cli: Cli, fake: FakeReplica) -> None:
    fake.add(*OBJECTS)
    for kind, row in {
        "http": ["shop", "split", "orders:web", "1", "orders.shop"],
        "grpcroutes": ["shop", "calls", "orders:9000", "1", "orders.shop"],
        "tcproute": ["shop", "db", "orders:5432", "1", "orders.shop"],
    }.items():
        (_, line) = (await cli.ok("get", kind, "-A")).splitlines()
        assert line.split()[:5] == row


async def test_from_outside(cli: Cli) -> None:
    """By files alone; a Gateway is no service."""
    file = Path(__file__).parents[3] / "deploy" / "examples" / "edges" / "gateway.yaml"
    asked = ("GET", "https://shop.example.com/x", "-f", str(file))
    said = await cli.ok("route", "outside", "edge.shop", *asked)
    assert said.startswith("HTTPRoute shop/public rule 0")
    done = await cli("route", "outside", "nobody.shop", *asked)
    assert "Gateway nobody.shop: does not exist" in done.stderr


async def test_from_outside_to_one_of_several_gateways(cli: Cli, tmp_path: Path) -> None:
    """Whose host name is nearer is asked, whatever gateway the operator thinks of."""
    listener = "{name: http, port: 80, protocol: HTTP, hostname: 'HOST'}"
    texts = [
        f"apiVersion: mesh/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{service: {service}, listeners: [{listener.replace('HOST', host)}]}}\n"
        for name, service, host in (
            ("edge", "edge", "*.example.com"), ("other", "edge", "a.example.com"), ("third", "far", "b.example.com"),
            ("zone", "edge", "*.example.com"),
        )
    ]  # fmt: skip
    file = tmp_path / "gateways.yaml"
    file.write_text("---\n".join(texts))
    asked = ("-f", str(file))
    done = await cli("route", "outside", "edge.shop", "GET", "http://a.example.com/", *asked)
    assert "Gateway shop/other listener http, in the same service, goes before" in done.stderr
    assert "meshadm route outside other.shop" in done.stderr
    done = await cli("route", "outside", "zone.shop", "GET", "http://b.example.com/", *asked)
    assert "Gateway shop/edge listener http" in done.stderr, "of two for the same hosts the first by name counts"
    for name, host in (("other", "a"), ("edge", "b"), ("third", "b")):
        said = await cli.ok("route", "outside", f"{name}.shop", "GET", f"http://{host}.example.com/", *asked)
        assert "404" in said
