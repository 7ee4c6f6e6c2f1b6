"""What two real Envoys count of real traffic, as a scrape of the agent shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.compile.request_metrics import MAX_SERIES
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import wait_until
from tests.dataplane.compile.scrapes import counts, number, scraped
from tests.dataplane.compile.shop import GREETING, Shop, apps, ask
from tests.states.build import bundle, federates, policy, rate_limit, rule, telemetry, who
from tests.states.routes import http_route
from tests.support.pki import Authority

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
BY_ROUTE = http_route(
    "- matches: [{path: {value: /r}}]\n  backendRefs: [{name: orders, port: 8080}]",
    spec="parentRefs: [{kind: Service, name: orders, port: 8080}]",
)


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        yield Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports)


def test_requests_and_errors_by_source_destination_route_and_code(shop: Shop) -> None:
    shop.set(LET_WEB, BY_ROUTE)
    of = {"source": "web.shop", "destination": "orders.shop"}
    for _ in range(3):
        assert shop.call("/r/1").status == 200
    assert shop.call("/other?x=1").status == 404
    counts(shop.web, "requests_total", 3, side="client", code="2xx", route="HTTPRoute shop/orders rule 0 match 0", **of)
    counts(shop.orders, "requests_total", 3, side="server", code="2xx", route="", **of)
    counts(shop.web, "requests_total", 1, side="client", code="4xx")
    assert shop.call("/gone", host="payments.shop").status == 503
    counts(shop.web, "requests_total", 1, code="5xx", source="web.shop", destination="unknown")
    counts(shop.web, "request_errors_total", 1, destination="unknown", grpc_status="")
    assert number(shop.web, "request_errors_total", destination="orders.shop") == 0


def test_how_long_they_took(shop: Shop) -> None:
    shop.set(LET_WEB)
    before = number(shop.web, "request_duration_seconds_count")
    shop.call("/slow")
    counts(shop.web, "request_duration_seconds_count", before + 1)
    bounds = {dict(key)["le"] for key in scraped(shop.web)["hostmesh_request_duration_seconds_bucket"]}
    assert {"0.001", "0.25", "60.0", "+Inf"} <= bounds
    assert 0 <= number(shop.web, "request_duration_seconds_sum") < 60


def test_grpc_failures_are_errors(shop: Shop) -> None:
    shop.set(LET_WEB)
    """By their status; what the app makes up is none."""
    for envoy in (shop.web, shop.orders):
        assert not number(envoy, "request_errors_total", grpc_status="UNIMPLEMENTED")
    shop.pay("/shop.Payments/Nothing")
    for envoy in (shop.web, shop.orders):
        counts(envoy, "request_errors_total", 1, destination="orders.shop", grpc_status="UNIMPLEMENTED")


def test_connections_and_their_bytes(shop: Shop) -> None:
    shop.set(LET_WEB)
    requests = number(shop.web, "requests_total")
    of = {"source": "web.shop", "destination": "orders.shop"}
    before = number(shop.web, "connections_total", **of)
    said = shop.bound_tcp()
    shop.tunnel("orders.shop:7000")
    shop.tunnel("nobody.shop:7000")
    counts(shop.web, "connections_total", before + 2, side="client", **of)
    counts(shop.orders, "connections_total", before + 2, side="server", **of)
    counts(shop.orders, "connection_sent_bytes_total", 2 * len(said), side="server", **of)
    assert number(shop.web, "requests_total") == requests
    assert said.startswith(GREETING)


def test_nothing_that_somebody_sends_is_in_a_metric(shop: Shop) -> None:
    """Neither what a caller writes, nor how many identities a trusted stranger makes."""
    shop.set(LET_WEB)
    before = number(shop.web, "requests_total", destination="unknown", code="5xx")
    with shop.keep_alive() as connection:
        for one in range(30):
            ask(connection, f"/evil-{one}", f"EVIL{one}", {"Host": "orders.shop", "User-Agent": f"evil-{one}"})
            shop.call("/", host=f"evil-{one}.shop")
    counts(shop.web, "requests_total", before + 30, destination="unknown", code="5xx")
    partner = Authority.create()
    root = partner.certificate.public_bytes(Encoding.DER)
    shop.set(LET_WEB, federates("partner", "partner.example"), bundle(1, root, trust_domain="partner.example"))
    for one in range(5):
        leaf = partner.issue(uri=f"spiffe://partner.example/ns/evil/svc/evil-{one}")
        assert shop.ask_as(leaf) == 403
    counts(shop.orders, "requests_total", 5, source="other", destination="orders.shop", code="4xx")
    for envoy in (shop.web, shop.orders):
        assert "evil" not in envoy.admin("/stats/prometheus?filter=mesh")
        assert "evil" not in str(scraped(envoy)).lower()
        assert number(envoy, "request_series") < 40 < number(envoy, "request_series_limit") == MAX_SERIES


def test_counting_is_switched_off_and_on_by_side(shop: Shop) -> None:
    client, server = number(shop.web, "requests_total"), number(shop.orders, "requests_total")
    for mode in ("CLIENT", "SERVER", "CLIENT_AND_SERVER"):
        shop.set(LET_WEB, telemetry("quiet", {"metrics": [{"match": {"mode": mode}, "disabled": True}]}))
        shop.call("/off")
    shop.set(LET_WEB)
    shop.call("/on")
    counts(shop.web, "requests_total", client + 2)  # SERVER's, and the last
    counts(shop.orders, "requests_total", server + 2)


def test_envoy_tells_of_itself(shop: Shop) -> None:
    found = scraped(shop.web)
    assert found["hostmesh_envoy_up"] == {(): 1.0}
    assert found["hostmesh_envoy_memory_allocated_bytes"][()] > 1_000_000
    with shop.keep_alive() as connection:
        ask(connection, "/", "GET", {"Host": "orders.shop"})
        counts(shop.web, "envoy_http_connections_active", 1, side="client")


def test_envoy_counts_no_answers_beside(shop: Shop) -> None:
    """What nobody reads, and each request would pay for."""
    shop.set(LET_WEB)
    assert shop.call("/").status == 200
    for envoy in (shop.web, shop.orders):
        counted = envoy.admin("/stats?usedonly&filter=%5Ecluster%5C.(outbound%7Capp)")
        assert "upstream_rq_total" in counted
        assert "upstream_rq_2" not in counted
        assert "upstream_rq_time" not in counted
        assert "downstream_rq_time" not in envoy.admin("/stats?usedonly&filter=%5Ehttp%5C.(in%7Cout)bound")


def test_what_is_denied_is_counted_by_listener_and_reason(shop: Shop) -> None:
    shop.set(LET_WEB, policy("no-web", "DENY", rule(who("web")), on=["orders"]))
    of = {"side": "server", "port": "http"}
    before = number(shop.orders, "denied_total", reason="policy", **of)
    assert shop.call("/").status == 403
    counts(shop.orders, "denied_total", before + 1, reason="policy", **of)
    shop.set(LET_WEB, rate_limit("one", {"limit": {"requests": 1, "unit": "Hour"}}))
    assert [shop.call("/").status for _ in range(2)] == [200, 429]
    counts(shop.orders, "denied_total", 1, reason="rate-limit", side="server")
    assert shop.call("/a%252fb").status == 400
    wait_until(
        "the caller's sidecar has counted", lambda: number(shop.web, "denied_total", side="client", port="proxy")
    )


def test_what_an_audit_would_have_refused(shop: Shop) -> None:
    shop.set(LET_WEB, policy("trial", "AUDIT", rule(who("web")), on=["orders"]))
    for _ in range(2):
        assert shop.call("/").status == 200
    counts(shop.orders, "audited_total", 2, port="http", rule="shop/trial[0]")
