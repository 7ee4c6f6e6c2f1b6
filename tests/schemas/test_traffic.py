"""BackendTrafficPolicy: which fields contradict each other, what is written as people write it, durations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import codec
from schemas.checking import json_path
from schemas.durations import Duration, PositiveDuration, milliseconds
from schemas.errors import InvalidInput
from schemas.objects.traffic import BackendTrafficPolicySpec
from schemas.traffic_faults import traffic_faults


def faults(**spec: Any) -> list[str]:
    whole = msgspec.convert({"targetRefs": [{"name": "orders"}], **spec}, BackendTrafficPolicySpec)
    found = list(traffic_faults(whole))
    assert all(fault.remedy for fault in found)
    return [f"{json_path(fault.path)}: {fault.message}" for fault in found]


def balancer(**fields: Any) -> list[str]:
    return faults(loadBalancer=fields)


def hashed(**fields: Any) -> list[str]:
    return balancer(type="ConsistentHash", consistentHash=fields)


HASH = {"type": "SourceIP"}


@pytest.mark.parametrize(
    ("found", "path", "said"),
    [
        (balancer(type="ConsistentHash"), "$.loadBalancer.consistentHash", "missing"),
        (balancer(type="Random", consistentHash=HASH), "$.loadBalancer.consistentHash", "says nothing"),
        (balancer(type="Random", slowStart={"window": "1s"}), "$.loadBalancer.slowStart", "none for type Random"),
        (hashed(type="Header"), "$.loadBalancer.consistentHash.header", "missing"),
        (hashed(type="SourceIP", cookie={"name": "a"}), "$.loadBalancer.consistentHash.cookie", "says nothing"),
        (hashed(**HASH, tableSize=12), "$.loadBalancer.consistentHash.tableSize", "prime"),
        (hashed(**HASH, tableSize=13, ringHash={}), "$.loadBalancer.consistentHash.tableSize", "Maglev"),
        (
            hashed(**HASH, ringHash={"minimumRingSize": 9, "maximumRingSize": 8}),
            "$.loadBalancer.consistentHash.ringHash.minimumRingSize",
            "above maximumRingSize",
        ),
        (balancer(zoneAware={}), "$.loadBalancer.zoneAware", "one of"),
        (balancer(zoneAware={"preferLocal": {}, "failover": {}}), "$.loadBalancer.zoneAware", "one of"),
        (
            balancer(zoneAware={"failover": {"zones": [{"from": "a", "to": ["b"]}, {"from": "a", "to": ["c"]}]}}),
            "$.loadBalancer.zoneAware.failover.zones[1].from",
            "twice",
        ),
        (
            balancer(zoneAware={"failover": {"zones": [{"from": "a", "to": ["b", "b"]}]}}),
            "$.loadBalancer.zoneAware.failover.zones[0].to[1]",
            "before already",
        ),
        (
            balancer(zoneAware={"failover": {"zones": [{"from": "a", "to": ["a"]}]}}),
            "$.loadBalancer.zoneAware.failover.zones[0].to[0]",
            "before already",
        ),
        (
            faults(circuitBreaker={"maxParallelRetries": 1, "retryBudget": {}}),
            "$.circuitBreaker.maxParallelRetries",
            "either",
        ),
        (
            faults(healthCheck={"passive": {"baseEjectionTime": "1m", "maxEjectionTime": "59s"}}),
            "$.healthCheck.passive.maxEjectionTime",
            "below baseEjectionTime",
        ),
    ],
)
def test_a_contradiction_is_one_fault_at_its_place(found: list[str], path: str, said: str) -> None:
    [one] = found
    assert one.startswith(f"{path}: ")
    assert said in one


def test_what_is_fine_is_fine() -> None:
    assert not faults()
    assert not hashed(type="Cookie", cookie={"name": "a"}, tableSize=5_000_011)
    assert not balancer(slowStart={"window": "1s"}, zoneAware={"failover": {}})
    assert not faults(circuitBreaker={"retryBudget": {}}, healthCheck={"passive": {"maxEjectionTime": "30s"}})


WRITTEN = """
apiVersion: mesh/v1
kind: BackendTrafficPolicy
metadata: {{name: a, namespace: shop}}
spec: {{targetRefs: [{{name: orders}}], {spec}}}
"""


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("loadBalancer: {type: Maglev}", "$.spec.loadBalancer.type"),
        ("loadBalancer: {slowStart: {window: 0s}}", "$.spec.loadBalancer.slowStart.window"),
        ("loadBalancer: {slowStart: {window: 10}}", "$.spec.loadBalancer.slowStart.window"),
        ("circuitBreaker: {maxConnections: -1}", "$.spec.circuitBreaker.maxConnections"),
        ("circuitBreaker: {maxRequestsPerConnection: 0}", "$.spec.circuitBreaker.maxRequestsPerConnection"),
        ("healthCheck: {panicThreshold: 101}", "$.spec.healthCheck.panicThreshold"),
        ("healthCheck: {passive: {consecutive5xxErrors: 1}}", "$.spec.healthCheck.passive.consecutive5xxErrors"),
        ("timeout: {http: {connectionIdleTimeout: 5 min}}", "$.spec.timeout.http.connectionIdleTimeout"),
        ("http2: {maxConcurrentStreams: 0}", "$.spec.http2.maxConcurrentStreams"),
    ],
)
def test_what_is_out_of_range_is_refused_at_its_place(spec: str, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.load_yaml(WRITTEN.format(spec=spec), "a.yaml")
    [problem] = caught.value.problems
    assert problem.path == path


def test_the_name_that_is_nearly_right_is_told() -> None:
    with pytest.raises(InvalidInput, match="consecutive5XxErrors"):
        codec.load_yaml(WRITTEN.format(spec="healthCheck: {passive: {consecutive5xxErrors: 1}}"), "a.yaml")


def test_json_schema_has_the_fields() -> None:
    schema = codec.json_schema()["$defs"]
    assert "consecutive5XxErrors" in schema["PassiveHealthCheck"]["properties"]
    assert set(schema["LoadBalancer"]["properties"]["type"]["enum"]) >= {"ConsistentHash", "Random"}


@pytest.mark.parametrize(
    ("text", "ms"), [("10s", 10_000), ("1h30m", 5_400_000), ("250ms", 250), ("1m1m", 120_000), ("0s", 0)]
)
def test_durations(text: str, ms: int) -> None:
    assert milliseconds(msgspec.convert(text, Duration)) == ms
    if ms:
        assert msgspec.convert(text, PositiveDuration) == text


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1.5s", "1s ", "1d", "100000s", "1s1s1s1s1s", "10s\n"])
def test_no_durations(text: str) -> None:
    for type_ in (Duration, PositiveDuration):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text, type_)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("0h0s", PositiveDuration)
