"""Flows seen lately: kinds of requests, bounded, whatever callers send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from envoy.extensions.access_loggers.filters.process_ratelimit.v3 import process_ratelimit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.compile.buckets import A_SECOND, BURST, bucket, file_name
from dataplane.compile.flow_samples import KINDS, Sample, add_samples
from dataplane.envoy.audits import audits
from dataplane.flows import MAX_FLOWS, MAX_METHOD, MAX_OF_CALLER, MAX_PATH, MAX_TOLD, Flows, route_of
from dataplane.questions import with_flows, write_buckets
from schemas import codec
from schemas.questions import MAX_ANSWER_BYTES, Answer
from tests.states.build import identity

WEB, CART = identity("web"), identity("cart")


def sample(
    path: str = "/",
    *,
    by: str | None = WEB,
    method: str = "GET",
    authority: str = "orders.shop",
    denied: bool = False,
) -> Sample:
    return Sample(by, method, authority, path, "10.1.0.2", denied, "shop/web-may[0]")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/orders/4711/items", "/orders/{*}/items"),
        ("/o/0dc1f3ab-7f0e-9a35-8c41-3f1c5d1b2a77", "/o/{*}"),
        ("/o/65f0c1d2e3a4b5c6d7e8f901", "/o/{*}"),
        ("/v1/orders", "/v1/orders"),
        ("/shop.Orders/Get", "/shop.Orders/Get"),
        ("/a-long-name-of-a-page-without-numbers", "/a-long-name-of-a-page-without-numbers"),
        ("/", "/"),
    ],
)
def test_routes(path: str, route: str) -> None:
    assert route_of(path) == route


def test_kinds_of_requests_are_kept_apart_and_counted() -> None:
    flows = Flows(1000)
    flows.take("inbound|http", [sample("/orders/1"), sample("/orders/2"), sample("/orders/3", denied=True)], 1001)
    flows.take("inbound|http", [sample("/orders/4"), sample("/orders/5", by=CART)], 1002)
    flows.take("inbound|admin", [sample("/orders/6")], 1003)
    told, omitted = flows.told()
    assert [(one.source, one.port, one.route, one.path, one.denied, one.samples) for one in told] == [
        (WEB, "admin", "/orders/{*}", "/orders/6", False, 1),
        (CART, "http", "/orders/{*}", "/orders/5", False, 1),
        (WEB, "http", "/orders/{*}", "/orders/4", False, 3),
        (WEB, "http", "/orders/{*}", "/orders/3", True, 1),
    ]
    assert (told[2].first, told[2].last, omitted, flows.since) == (1001, 1002, 0, 1000)


def test_what_can_not_be_judged_is_counted_only() -> None:
    flows = Flows(0)
    long = "x" * MAX_PATH
    flows.take("inbound|http", [sample(by=None), sample("/" + long), sample(authority="h" + long)], 1)
    flows.take("inbound|http", [sample(method="M" * (MAX_METHOD + 1)), sample(by=identity("s") + long * 2)], 2)
    assert flows.told() == ((), 5)


# As long as Envoy takes them, and of any character.
_WORDS = st.builds(lambda word, times: word * times, st.sampled_from(("a", "b/", "é", "/1")), st.integers(1, 1000))
_MORE = st.lists(st.tuples(st.integers(0, 6), _WORDS, _WORDS, _WORDS), max_size=20)


@settings(deadline=None, max_examples=5)
@given(_MORE, st.sampled_from((0, 500, 5000, MAX_TOLD)))
def test_bounded(more: list[tuple[int, str, str, str]], max_bytes: int) -> None:
    flows = Flows(0)
    for caller in range(6):
        long = [(f"/{'x' * 900}/a{number}b", f"M{number}") for number in range(200)]
        by, authority = identity(f"s{caller}"), "é" * 1000
        flows.take("inbound|http", [sample(path, by=by, method=m, authority=authority) for path, m in long], 1)
    flows.take(
        "inbound|http",
        [
            sample(f"/{path}", by=identity(f"s{caller}"), method=method[: MAX_METHOD + 1], authority=authority)
            for caller, path, authority, method in more
        ],
        2,
    )
    told, omitted = flows.told(max_bytes)
    kept = flows._flows
    assert len(kept) <= MAX_FLOWS
    for caller in range(7):
        assert sum(key.source == identity(f"s{caller}") for key in kept) <= MAX_OF_CALLER
    assert len(told) + omitted >= 1200
    rest = len(codec.encode(Answer(service="s", namespace="n", instance="i")))
    whole = len(codec.encode(Answer(service="s", namespace="n", instance="i", flows=told)))
    assert whole - rest <= max_bytes + 10  # the name of the list, and its length
    assert MAX_TOLD + 1000 <= MAX_ANSWER_BYTES


@pytest.mark.parametrize("of", ["method", "path", "authority"])
def test_no_caller_keeps_others_from_being_told(of: str) -> None:
    """Envoy takes methods of 56,000 bytes."""
    flows = Flows(0)
    flows.take("inbound|http", [sample("/kept", by=CART)], 1)
    for number in range(MAX_OF_CALLER):
        flows.take("inbound|http", [sample(**{of: f"/{number:x}" + "x" * 56_000})], 2)  # type: ignore[arg-type]  # by name
    told, _ = flows.told()
    assert [one.path for one in told] == ["/kept"]
    assert len(codec.encode(Answer(service="s", namespace="n", instance="i", flows=told))) < 1000


@pytest.mark.parametrize("max_bytes", [1000, 3000, 20_000, MAX_ANSWER_BYTES])
def test_an_answer_is_no_longer_than_asked_for(max_bytes: int) -> None:
    flows = Flows(1_800_000_000)
    flows.take("inbound|http", [sample(f"/{'x' * number}") for number in range(MAX_OF_CALLER)], 1_800_000_001)
    audits = {f"shop/a-policy-{number}[0]": 1000 for number in range(100)}
    said = with_flows(Answer(service="s", namespace="n", instance="i"), flows, audits, max_bytes)
    assert len(codec.encode(said)) <= max_bytes
    assert len(said.flows) + said.omitted == MAX_OF_CALLER
    if max_bytes < 3000:
        assert (said.audits, "AUDIT policies: their counts do not fit" in said.problem) == ({}, True)
    else:
        assert (said.audits, said.problem) == (audits, "")
    assert len(said.flows) == MAX_OF_CALLER or len(codec.encode(said)) > max_bytes - 1000 - MAX_OF_CALLER


def test_who_walks_through_paths_drives_out_its_own() -> None:
    flows = Flows(0)
    flows.take("inbound|http", [sample("/kept", by=CART)], 1)
    flows.take("inbound|http", [sample(f"/a{number}b") for number in range(MAX_FLOWS * 2)], 2)
    told, _ = flows.told()
    assert {one.path for one in told if one.source == CART} == {"/kept"}


def test_buckets() -> None:
    for kind, a_second in A_SECOND.items():
        (wrapped,) = json.loads(bucket(kind))["resources"]
        tokens = wrapped["resource"]
        assert (wrapped["name"], tokens["max_tokens"], tokens["tokens_per_fill"], tokens["fill_interval"]) == (
            f"samples-{kind}",
            BURST,
            a_second,
            "1s",
        )


def test_audits_as_envoy_tells_them() -> None:
    text = (
        "http.inbound|http.rbac.policy.shop/try[0].shadow_denied: 3\n"
        "http.inbound|http2.rbac.policy.shop/try[0].shadow_denied: 2\n"
        "http.inbound|http.rbac.policy.mesh-system/x[12].shadow_denied: 0\n"
        "http.inbound|http.rbac.shadow_denied: 5\n"
        "http.inbound|http.rbac.policy.shop/try[0].shadow_allowed: 7\n"
    )
    assert audits(text) == {"shop/try[0]": 5, "mesh-system/x[12]": 0}


def test_no_report_of_requests_is_without_its_bucket(tmp_path: Path) -> None:
    """Asked last, for a token that was taken is gone; and each file that a listener names is one that agents write."""
    manager = hcm_pb2.HttpConnectionManager()
    add_samples(manager, "inbound|http", str(tmp_path))
    write_buckets(tmp_path)
    files = set()
    for log in manager.access_log:
        limit = process_ratelimit_pb2.ProcessRateLimitFilter()
        assert log.filter.and_filter.filters[-1].extension_filter.typed_config.Unpack(limit)
        path = Path(limit.dynamic_config.config_source.path_config_source.path)
        (wrapped,) = json.loads(path.read_bytes())["resources"]
        assert wrapped["name"] == limit.dynamic_config.resource_name
        files.add(path)
    assert files | {tmp_path / file_name("limited")} == set(tmp_path.iterdir())
    assert len(files) == len(manager.access_log) == len(KINDS)
