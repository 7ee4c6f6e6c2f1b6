"""What each field of a BackendTrafficPolicy does to real traffic through a real Envoy."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane.envoy import stats
from dataplane.envoy.admin import NAMED_STATISTICS
from schemas.names import ServiceRef, SpiffeId
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import wait_until
from tests.dataplane.compile.farm import BOUND_TCP, CLUSTER, HTTP, TCP, TCP_CLUSTER, Farm, farm
from tests.states.build import TRUST_DOMAIN, Item, instance, traffic

ALL = {"i1", "i2", "i3", "i4"}


@pytest.fixture(scope="module")
def fields(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Farm]:
    with farm(envoys("web"), own_address, len(ALL)) as one:
        yield one


@pytest.fixture
def mesh(fields: Farm) -> Farm:
    fields.clear()
    return fields


def policy(**spec: Any) -> Item:
    return traffic("p", "orders", **spec)


def balancer(**fields: Any) -> Item:
    return policy(loadBalancer=fields)


def hashed(**fields: Any) -> Item:
    return balancer(type="ConsistentHash", consistentHash=fields)


def passive(panic: int | None = 0, **fields: Any) -> Item:
    return policy(healthCheck={"panicThreshold": panic, "passive": fields})


def config(mesh: Farm) -> dict[str, Any]:
    """Of the cluster, as Envoy runs it."""
    running = (one["cluster"] for one in mesh.web.dump("dynamic_active_clusters"))
    return dict(next(one for one in running if one["name"] == CLUSTER))


def settles(mesh: Farm, who: set[str]) -> None:
    """Soon all requests are answered by those, or with that status: Envoy's worker learns a little later who is out."""
    wait_until(f"only {who} answer", lambda: set(mesh.served(6)) <= who)
    assert set(mesh.served(20)) == who


# -- load balancing


def test_round_robin_takes_turns(mesh: Farm) -> None:
    mesh.put(balancer(type="RoundRobin"))
    assert mesh.served(12) == dict.fromkeys(ALL, 3)


def test_random_does_not(mesh: Farm) -> None:
    mesh.put(balancer(type="Random"))
    assert config(mesh)["lb_policy"] == "RANDOM"  # as long as nobody is busy, LeastRequest does the same
    order = [mesh.ask()[1] for _ in range(48)]
    assert set(order) == ALL
    assert order != order[:4] * 12


def test_least_request_spares_who_is_busy(mesh: Farm) -> None:
    mesh.put(balancer(type="LeastRequest"), only=2)
    assert config(mesh)["lb_policy"] == "LEAST_REQUEST"  # at random it would get as little once in a while
    with mesh.holding(1):
        busy = next(app.name for app in mesh.apps if app.held)
        assert mesh.served(40)[busy] < 20  # both picks of two: one in four


@pytest.mark.parametrize(
    ("how", "sizes"),
    [
        ({"tableSize": 1009}, {"maglev_lb.min_entries_per_host": 252, "maglev_lb.max_entries_per_host": 253}),
        ({"ringHash": {"minimumRingSize": 101}}, {"ring_hash_lb.size": 104}),  # the same number for each of the four
        ({"ringHash": {"minimumRingSize": 101, "maximumRingSize": 102}}, {"ring_hash_lb.size": 102}),
    ],
    ids=["maglev", "ring", "ring-bounded"],
)
def test_a_header_keeps_its_instance(mesh: Farm, how: dict[str, Any], sizes: dict[str, int]) -> None:
    """That the sizes are heeded is Envoy's own word: what they change is how even the shares are."""
    by_header = hashed(type="Header", header={"name": "x-user"}, **how)
    mesh.put(by_header)
    assert {name: mesh.stat(name) for name in sizes} == sizes
    users = [f"u{number}" for number in range(40)]
    before = {user: mesh.ask(**{"x-user": user})[1] for user in users}
    assert set(before.values()) == ALL
    assert before == {user: mesh.ask(**{"x-user": user})[1] for user in users}
    mesh.put(by_header, only=3)  # i4 goes; nearly all who were elsewhere stay there
    after = {user: mesh.ask(**{"x-user": user})[1] for user in users}
    moved = [user for user in users if before[user] != after[user] and before[user] != "i4"]
    assert len(moved) < 15  # of some 30; without a hash three quarters of them would move


def test_a_cookie_is_given_and_kept(mesh: Farm) -> None:
    mesh.put(hashed(type="Cookie", cookie={"name": "stick", "ttl": "60s"}))
    seen = set()
    for _ in range(20):
        _, who, cookie = mesh.ask()
        assert cookie.startswith("stick=")
        assert "Max-Age=60" in cookie
        given = cookie.partition(";")[0]
        assert {mesh.ask(Cookie=given)[1] for _ in range(4)} == {who}
        seen.add(who)
    assert len(seen) > 1


def test_a_source_keeps_its_instance(mesh: Farm) -> None:
    """HTTP and TCP; the source is what the app connects from, together with where the caller stands."""
    mesh.put(hashed(type="SourceIP"))
    sources = [f"127.9.8.{number}" for number in range(1, 25)]
    calls: tuple[Callable[[str], str], ...] = (lambda at: mesh.ask(source=at)[1], mesh.bound_tcp)
    for call in calls:
        where = {at: call(at) for at in sources}
        assert where == {at: call(at) for at in sources}
        assert len(set(where.values())) > 2


def test_who_is_new_gets_little_at_first(mesh: Farm) -> None:
    """Those who came with the cluster are past the window; without it each of four gets 15 of 60."""
    slow = balancer(type="RoundRobin", slowStart={"window": "3s"})
    mesh.put(slow, only=1)
    began = time.monotonic()
    while time.monotonic() < began + 3.2:
        assert mesh.ask()[0] == 200
        time.sleep(0.2)
    mesh.put(slow)
    assert mesh.served(60)["i1"] >= 25


# -- zones


def test_requests_stay_in_the_zone_and_leave_it_when_it_fails(mesh: Farm) -> None:
    zones = ("eu/a", "eu/a", "eu/b", "us/c")
    out = {"passive": {"consecutive5XxErrors": 1, "maxEjectionPercent": 100, "baseEjectionTime": "60s"}}
    for threshold, called in ((3, ALL), (2, {"i1", "i2"})):
        forced = {"preferLocal": {"force": {"minEndpointsInZoneThreshold": threshold}}}
        mesh.put(policy(loadBalancer={"zoneAware": forced}, healthCheck=out), zones=zones)
        assert set(mesh.served(40)) == called
    for app in mesh.apps[:2]:
        app.status = 500
    settles(mesh, {"i3", "i4"})


def test_a_zone_gives_away_what_is_too_much(mesh: Farm) -> None:
    """All callers stand in eu/a, with one of four instances: three quarters leave the zone."""
    mesh.put(balancer(type="Random", zoneAware={"preferLocal": {"minEndpointsThreshold": 4}}), zones=("eu/a", "eu/b"))
    found = mesh.served(80)
    assert set(found) == ALL
    assert found["i1"] < 40
    half = {"preferLocal": {"minEndpointsThreshold": 4}}
    mesh.put(balancer(type="Random", zoneAware=half), zones=("eu/a", "eu/a", "eu/a", "eu/a"))
    assert set(mesh.served(40)) == ALL
    callers = [
        instance("web", f"w{number}", "127.0.0.9", zone, http=80) for number, zone in enumerate(["eu/a", "eu/b"])
    ]
    mesh.put(balancer(type="Random", zoneAware=half), *callers, zones=("eu/a", "eu/a", "eu/b", "eu/b"))
    assert set(mesh.served(20)) == {"i1", "i2"}
    none = {"preferLocal": {"minEndpointsThreshold": 4, "percentageEnabled": 0}}
    mesh.put(balancer(type="Random", zoneAware=none), *callers, zones=("eu/a", "eu/a", "eu/b", "eu/b"))
    assert set(mesh.served(60)) == ALL, "it is about none of the requests"


def test_failover_goes_from_zone_to_zone(mesh: Farm) -> None:
    zones = {"failover": {"zones": [{"from": "a", "to": ["c"]}]}}
    out = {"passive": {"consecutive5XxErrors": 1, "maxEjectionPercent": 100, "baseEjectionTime": "60s"}}
    mesh.put(policy(loadBalancer={"zoneAware": zones}, healthCheck=out), zones=("eu/a", "eu/b", "us/c", "us/d"))
    for name, app in (("i1", 0), ("i3", 2), ("i2", 1), ("i4", 3)):  # its own, the listed one, the region, the rest
        settles(mesh, {name})
        mesh.apps[app].status = 500


# -- changes


CHANGES: tuple[dict[str, Any], ...] = (
    {"loadBalancer": {"type": "Random"}},
    {"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}},
    {"circuitBreaker": {"maxConnections": 1, "maxParallelRequests": 9}},
    {"healthCheck": {"passive": {}}},
    {"timeout": {"tcp": {"connectTimeout": "1s"}}, "http2": {"maxConcurrentStreams": 1}, "tcpKeepalive": {}},
    {"loadBalancer": {"zoneAware": {"failover": {}}}},
)


def test_a_change_ends_nothing_that_is_under_way(mesh: Farm) -> None:
    """HTTP requests and TCP connections that were there before any of the changes, and new ones beside them."""
    mesh.put()
    with socket.create_connection((mesh.web_address, BOUND_TCP), 10) as tcp, mesh.holding(3) as answers:
        file = tcp.makefile("rw")
        assert file.readline().strip() in ALL
        for change in CHANGES:
            mesh.put(policy(**change), zones=("eu/a", "eu/b"))
            file.write("ping\n")
            file.flush()
            assert file.readline() == "ping\n"
            assert mesh.served(3).keys() <= ALL
    assert [status for status, _, _ in answers] == [200] * 3


# -- limits


def test_parallel_requests(mesh: Farm) -> None:
    mesh.put(policy(circuitBreaker={"maxParallelRequests": 2}))
    with mesh.holding(2) as answers:
        assert mesh.ask()[0] == 503
    assert [status for status, _, _ in answers] == [200, 200]
    assert mesh.ask()[0] == 200


def test_connections_and_pending_requests(mesh: Farm) -> None:
    breaker = {"maxConnections": 1, "maxPendingRequests": 1}
    mesh.put(policy(circuitBreaker=breaker, http2={"maxConcurrentStreams": 1}), only=1)
    assert mesh.ask()[0] == 200
    before = mesh.stat("upstream_cx_total")
    with mesh.holding(1), mesh.waiting():
        assert mesh.ask()[0] == 503
        assert mesh.stat("upstream_cx_total") == before
    assert mesh.ask()[0] == 200


def test_connections_of_an_instance(mesh: Farm) -> None:
    limits = {"perEndpoint": {"maxConnections": 1}}
    mesh.put(policy(circuitBreaker=limits, http2={"maxConcurrentStreams": 1}), only=1)
    assert mesh.ask()[0] == 200
    before = mesh.stat("upstream_cx_total")
    with mesh.holding(1), mesh.waiting():
        assert mesh.stat("upstream_cx_total") == before


def test_streams_of_a_connection(mesh: Farm) -> None:
    """The next one opens another connection."""
    mesh.put(policy(http2={"maxConcurrentStreams": 1}), only=1)
    assert mesh.ask()[0] == 200
    before = mesh.stat("upstream_cx_total")
    with mesh.holding(3):
        assert mesh.stat("upstream_cx_total") == before + 2


def test_tcp_connections(mesh: Farm) -> None:
    mesh.put(policy(circuitBreaker={"maxConnections": 1}))
    with socket.create_connection((mesh.web_address, BOUND_TCP), 10) as first:
        assert first.makefile().readline().strip() in ALL
        assert mesh.bound_tcp() == ""
    active = f"cluster.{TCP_CLUSTER}.upstream_rq_active"
    wait_until("it has ended", lambda: not mesh.stats()[active])
    assert mesh.bound_tcp() in ALL


def test_requests_of_a_connection(mesh: Farm) -> None:
    mesh.put(policy(circuitBreaker={"maxRequestsPerConnection": 2}), only=1)
    before = mesh.stat("upstream_cx_total")
    mesh.served(6)
    assert mesh.stat("upstream_cx_total") - before == 3


@pytest.mark.parametrize(
    "limit",
    [{"maxParallelRetries": 0}, {"retryBudget": {"percent": 0, "minRetryConcurrency": 0}}],
    ids=["number", "budget"],
)
def test_retries(mesh: Farm, limit: dict[str, Any]) -> None:
    """One of five can't be reached: only who tries again never fails."""
    seen = {"healthCheck": {"passive": {"consecutive5XxErrors": 0}}, "loadBalancer": {"type": "RoundRobin"}}
    mesh.put(policy(**seen), unreachable(mesh))
    assert mesh.served(20)["503"] == 0
    mesh.put(policy(**seen, circuitBreaker=limit), unreachable(mesh))
    assert mesh.served(20)["503"] == 4


# -- who is left out


def test_consecutive_5xx_errors(mesh: Farm) -> None:
    mesh.put(passive(consecutive5XxErrors=3, maxEjectionPercent=100, baseEjectionTime="60s"))
    mesh.apps[0].status = 500
    assert mesh.served(40)["500"] == 3
    assert mesh.left_out() == {"i1"}
    counted = stats.read(mesh.web.admin(NAMED_STATISTICS), SpiffeId.of_service(TRUST_DOMAIN, ServiceRef("shop", "web")))
    assert counted.ejected == {"orders.shop": 1}
    assert counted.ejections["orders.shop"] >= 1


def test_consecutive_gateway_errors(mesh: Farm) -> None:
    mesh.put(passive(consecutive5XxErrors=0, consecutiveGatewayErrors=2, maxEjectionPercent=100))
    mesh.apps[0].status, mesh.apps[1].status = 500, 502
    found = mesh.served(40)
    assert found["502"] == 2
    assert found["500"] > 2
    assert mesh.left_out() == {"i2"}


def test_local_origin_failures(mesh: Farm) -> None:
    split = {"splitExternalLocalOriginErrors": True, "consecutiveLocalOriginFailures": 3, "consecutive5XxErrors": 0}
    check = {"passive": {**split, "maxEjectionPercent": 100}}
    mesh.put(policy(healthCheck=check, loadBalancer={"type": "RoundRobin"}), unreachable(mesh))
    mesh.apps[0].status = 500
    before = mesh.stat("upstream_cx_connect_fail")
    assert mesh.served(40)["500"] > 2
    assert mesh.left_out() == {mesh.nowhere}
    assert mesh.stat("upstream_cx_connect_fail") == before + 3


@pytest.mark.fault(29)
def test_who_can_not_be_reached_is_left_out_without_a_policy(mesh: Farm) -> None:
    mesh.put(unreachable(mesh))
    mesh.apps[0].status = 500  # what an app answers is its own affair
    found = mesh.served(60)
    assert found["503"] == 0
    assert found["500"] > 2
    assert mesh.left_out() == {mesh.nowhere}


def test_success_rate(mesh: Farm) -> None:
    mesh.put(
        passive(
            consecutive5XxErrors=0,
            interval="100ms",
            maxEjectionPercent=100,
            successRateStdevFactor=1000,
            successRateMinimumHosts=3,
            successRateRequestVolume=1,
        )
    )
    mesh.apps[0].status = 500
    wait_until("the bad one is left out", lambda: mesh.served(8) and mesh.left_out() == {"i1"})


def test_failure_percentage(mesh: Farm) -> None:
    """Who fails every other time has failed two of four, or of five: less than Envoy's own 85 per cent."""
    mesh.put(
        passive(
            consecutive5XxErrors=0,
            interval="200ms",
            maxEjectionPercent=100,
            failurePercentageThreshold=40,
            failurePercentageMinimumHosts=2,
            failurePercentageRequestVolume=4,
        ),
        only=2,
    )
    mesh.apps[0].status, mesh.apps[0].fails_each = 500, 2
    wait_until("the bad one is left out", lambda: mesh.served(4) and mesh.left_out() == {"i1"})


def test_no_more_than_a_part_is_left_out(mesh: Farm) -> None:
    mesh.put(passive(consecutive5XxErrors=1, maxEjectionPercent=50, baseEjectionTime="60s"))
    for app in mesh.apps:
        app.status = 500
    mesh.served(40)
    assert len(mesh.left_out()) == 2


def test_one_at_least_where_asked(mesh: Farm) -> None:
    for always in (False, True):
        mesh.clear()
        mesh.put(passive(consecutive5XxErrors=1, maxEjectionPercent=0, alwaysEjectOneEndpoint=always))
        mesh.apps[0].status = 500
        mesh.served(20)
        assert mesh.left_out() == ({"i1"} if always else set())


def test_time_outside_ends(mesh: Farm) -> None:
    """At the next interval; Envoy's own is ten seconds."""
    mesh.put(passive(consecutive5XxErrors=1, maxEjectionPercent=100, interval="100ms", baseEjectionTime="100ms"))
    mesh.apps[0].status = 500
    wait_until("it is left out", lambda: mesh.ask() and mesh.left_out() == {"i1"})
    mesh.apps[0].status = 200
    wait_until("it is back", lambda: not mesh.left_out(), 5)
    wait_until("it is called", lambda: mesh.ask()[1] == "i1")
    assert config(mesh)["outlier_detection"]["interval"] == "0.100s"


def test_time_outside_is_bounded(mesh: Farm) -> None:
    """By Envoy's own word: the bound tells only after several times outside."""
    mesh.put(passive(baseEjectionTime="10s", maxEjectionTime="40s"))
    assert mesh.ask()[0] == 200
    said = config(mesh)["outlier_detection"]
    assert (said["base_ejection_time"], said["max_ejection_time"]) == ("10s", "40s")


@pytest.mark.parametrize(("panic", "answer"), [(0, 503), (50, 500)])
def test_panic_calls_who_is_left_out(mesh: Farm, panic: int, answer: int) -> None:
    mesh.put(passive(panic, consecutive5XxErrors=1, maxEjectionPercent=100, baseEjectionTime="60s"))
    for app in mesh.apps:
        app.status = 500
    wait_until("all are left out", lambda: mesh.ask() and mesh.left_out() == ALL)
    settles(mesh, {str(answer)})


# -- connections


def test_idle_connections_are_closed(mesh: Farm) -> None:
    mesh.put(policy(timeout={"http": {"connectionIdleTimeout": "100ms"}}), only=1)
    before = mesh.stat("upstream_cx_idle_timeout")
    assert mesh.ask()[0] == 200
    wait_until("it is closed", lambda: mesh.stat("upstream_cx_idle_timeout") > before)


def test_connections_end_after_a_time(mesh: Farm) -> None:
    mesh.put(policy(timeout={"http": {"maxConnectionDuration": "100ms"}}), only=1)
    before = mesh.stat("upstream_cx_max_duration_reached")
    with mesh.holding(1) as answers:
        wait_until("its time is over", lambda: mesh.stat("upstream_cx_max_duration_reached") > before)
    assert answers[0][0] == 200  # what was under way was finished


def test_connect_timeout(mesh: Farm) -> None:
    """A host that drops packets: a listener whose queue is full."""
    address = mesh.nowhere
    quick = {"timeout": {"tcp": {"connectTimeout": "100ms"}}, "circuitBreaker": {"maxParallelRetries": 0}}
    with socket.create_server((address, HTTP), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((address, HTTP))
        mesh.put(policy(**quick), unreachable(mesh), only=0)
        before = mesh.stat("upstream_cx_connect_timeout")
        began = time.monotonic()
        assert mesh.ask()[0] == 503
        assert time.monotonic() - began < 1.5  # without the policy two seconds
        assert mesh.stat("upstream_cx_connect_timeout") == before + 1


def test_keepalive(mesh: Farm) -> None:
    """The kernel's own word: its keep-alive timer runs for the connection, and for how long. Envoy's for the rest."""
    began = time.monotonic()
    idle, alive = "00:", "02:"  # another one runs while something waits for its acknowledgement
    for asked, timer in (({}, idle), ({"tcpKeepalive": {"probes": 3, "idleTime": "100s", "interval": "10s"}}, alive)):
        mesh.clear()
        mesh.put(policy(**asked), only=1)
        assert mesh.ask()[0] == 200
        address = mesh.apps[0].address
        found: set[str] = set()
        while {one[:3] for one in found} != {timer}:
            assert time.monotonic() < began + 10
            time.sleep(0.01)
            found = timers_to(address)
        assert timer == idle or all(80 < int(one[3:], 16) / _TICKS <= 100 for one in found)
    wanted = {"keepalive_probes": 3, "keepalive_time": 100, "keepalive_interval": 10}
    assert config(mesh)["upstream_connection_options"]["tcp_keepalive"] == wanted


_TICKS = os.sysconf("SC_CLK_TCK")  # a second of the kernel's timers


def timers_to(address: str) -> set[str]:
    """Of established connections, as /proc/net/tcp has them (proc(5)): fields 2 remote, 3 state, 5 timer."""
    wanted = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{HTTP:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {line.split()[5] for line in lines if line.split()[2] == wanted and line.split()[3] == "01"}


def unreachable(mesh: Farm) -> Item:
    """An instance where nobody listens."""
    return instance("orders", "i9", mesh.nowhere, http=HTTP, raw=TCP)
