from __future__ import annotations

import json
import ssl

import pytest

from controlplane.domain.validate import validate
from schemas.errors import Problem
from schemas.objects import AnyObject
from tests.controlplane.domain.objects import delete, known_for, objects, put, service
from tests.states.build import ROOT_DER
from tests.support.tokens import NOBODYS

MESH = objects("kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: shop.example}")[0]


def check(text: str, *stored: AnyObject) -> list[Problem]:
    """Problems of applying the objects of `text`, where `stored` are there."""
    changes = [put(value, f"a.yaml:{number}") for number, value in enumerate(objects(text), 1)]
    return validate(changes, known_for(changes, *stored))


def policy(body: str, kind: str = "AuthorizationPolicy", name: str = "p") -> str:
    return f"kind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {body}"


def svc(body: str, name: str = "web") -> str:
    return f"kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {body}"


def tokens(rule: str) -> str:
    return policy(f"{{jwtRules: [{{issuer: a, {rule}}}]}}", "RequestAuthentication")


# In quotes, and without what would begin another document.
ROOT_PEM = json.dumps(ssl.DER_cert_to_PEM_cert(ROOT_DER)).replace("-", r"\x2d")
ONE_PORT = "ports: [{name: http, port: 8080, protocol: http}]"
ORDERS = service("orders")
BOTH = service("both", ports=(8080, 9090))

FAULTS = {
    "health check of a port that is not there": (
        svc(f"{{{ONE_PORT}, healthCheck: {{type: TCP, port: admin}}}}"),
        "$.spec.healthCheck.port",
        "no port 'admin'",
    ),
    "no identity header on a TCP port": (
        svc("{ports: [{name: raw, port: 1, protocol: tcp, identityHeader: false}]}"),
        "$.spec.ports[0].identityHeader",
        "has no choice",
    ),
    "health check by HTTP/1.1 of an HTTP/2 port": (
        svc("{ports: [{name: h2, port: 1, protocol: http2}], healthCheck: {type: HTTP}}"),
        "$.spec.healthCheck.type",
        "speaks http2",
    ),
    "health check with a part of another type": (
        svc(f"{{{ONE_PORT}, healthCheck: {{type: TCP, http: {{path: /}}}}}}"),
        "$.spec.healthCheck.http",
        "says nothing for type TCP",
    ),
    "dependency on nothing": (
        svc(f"{{{ONE_PORT}, dependencies: [{{name: nobody}}]}}"),
        "$.spec.dependencies[0]",
        "Service shop/nobody, which does not exist",
    ),
    "dependency of another namespace": (
        svc(f"{{{ONE_PORT}, dependencies: [{{name: orders, namespace: other}}]}}"),
        "$.spec.dependencies[0]",
        "Service other/orders",
    ),
    "port that the dependency lacks": (
        svc(f"{{{ONE_PORT}, dependencies: [{{name: orders, port: 1}}]}}"),
        "$.spec.dependencies[0].port",
        "has no port 1",
    ),
    "bindPort to one of several": (
        svc(f"{{{ONE_PORT}, dependencies: [{{name: both, bindPort: 9101}}]}}"),
        "$.spec.dependencies[0].bindPort",
        "has several",
    ),
    "bindPort twice": (
        svc(
            f"{{{ONE_PORT}, dependencies: [{{name: orders, bindPort: 91}}, {{name: both, port: 8080, bindPort: 91}}]}}"
        ),
        "$.spec.dependencies[1].bindPort",
        "91 is already taken",
    ),
    "port beside *": (
        svc(f"{{{ONE_PORT}, dependencies: [{{name: '*', bindPort: 91}}]}}"),
        "$.spec.dependencies[0].bindPort",
        "says nothing",
    ),
    "port name twice": (
        svc("{ports: [{name: a, port: 1, protocol: tcp}, {name: a, port: 2, protocol: tcp}]}"),
        "$.spec.ports[1].name",
        "'a'",
    ),
    "port number twice": (
        svc("{ports: [{name: a, port: 1, protocol: tcp}, {name: b, port: 1, protocol: tcp}]}"),
        "$.spec.ports[1].port",
        "1 a second time",
    ),
    "policy for nothing": (
        policy("{targetRefs: [{name: orders}, {name: nobody}]}"),
        "$.spec.targetRefs[1]",
        "shop/nobody",
    ),
    "policy port that no target has": (
        policy("{targetRefs: [{name: orders}, {name: both}], rules: [{to: [{ports: [9090, 7]}]}]}"),
        "$.spec.rules[0].to[0].ports[1]",
        "no targeted service has port 7",
    ),
    "identity with a bad path": (
        policy("{rules: [{from: [{identities: ['spiffe://a/ns//svc/b']}]}]}"),
        "$.spec.rules[0].from[0].identities[0]",
        "path segment",
    ),
    "identity of a trust domain": (
        policy("{rules: [{from: [{identities: ['spiffe://a']}]}]}"),
        "$.spec.rules[0].from[0].identities[0]",
        "not a workload",
    ),
    "identity that no certificate carries": (
        policy("{action: DENY, rules: [{from: [{identities: ['spiffe://SHOP.example/ns/a/svc/b']}]}]}"),
        "$.spec.rules[0].from[0].identities[0]",
        "not in canonical form",
    ),
    "traffic policy for nothing": (
        policy("{targetRefs: [{name: nobody}]}", "BackendTrafficPolicy"),
        "$.spec.targetRefs[0]",
        "does not exist",
    ),
    "traffic policy with one target twice": (
        policy("{targetRefs: [{name: both}, {name: both}]}", "BackendTrafficPolicy"),
        "$.spec.targetRefs[1]",
        "twice",
    ),
    "second traffic policy of a service": (
        policy("{targetRefs: [{name: orders}]}", "BackendTrafficPolicy", "second"),
        "$.spec.targetRefs[0]",
        "BackendTrafficPolicy shop/first already speaks for Service shop/orders",
    ),
    "traffic policy that contradicts itself": (
        policy("{targetRefs: [{name: orders}], loadBalancer: {type: ConsistentHash}}", "BackendTrafficPolicy", "first"),
        "$.spec.loadBalancer.consistentHash",
        "missing",
    ),
    "telemetry for nothing": (
        policy("{targetRefs: [{name: nobody}], accessLogging: [{}]}", "Telemetry"),
        "$.spec.targetRefs[0]",
        "does not exist",
    ),
    "telemetry with one target twice": (
        policy("{targetRefs: [{name: both}, {name: both}], accessLogging: [{}]}", "Telemetry"),
        "$.spec.targetRefs[1]",
        "twice",
    ),
    "second telemetry of a service": (
        policy("{targetRefs: [{name: orders}], accessLogging: [{disabled: true}]}", "Telemetry", "second"),
        "$.spec.accessLogging",
        "already says that",
    ),
    "limit for nothing": (
        policy("{targetRefs: [{name: nobody}], rules: [{limit: {requests: 1, unit: Day}}]}", "RateLimitPolicy"),
        "$.spec.targetRefs[0]",
        "does not exist",
    ),
    "limit with one target twice": (
        policy(
            "{targetRefs: [{name: both}, {name: both}], rules: [{limit: {requests: 1, unit: Day}}]}", "RateLimitPolicy"
        ),
        "$.spec.targetRefs[1]",
        "twice",
    ),
    "limit of a port that no target has": (
        policy(
            "{targetRefs: [{name: both}], rules: [{limit: {requests: 1, unit: Day}, ports: [8080, 7]}]}",
            "RateLimitPolicy",
        ),
        "$.spec.rules[0].ports[1]",
        "no targeted service has port 7",
    ),
    "limit of paths on tcp": (
        policy(
            "{targetRefs: [{name: db}], rules: [{limit: {requests: 1, unit: Day}, matches: [{method: GET}]}]}",
            "RateLimitPolicy",
        )
        + "\n---\n"
        + svc("{ports: [{name: raw, port: 1, protocol: tcp}]}", "db"),
        "$.spec.rules[0].matches",
        "of a tcp port nothing is known but who calls",
    ),
    "limit for an identity of a trust domain": (
        policy(
            "{targetRefs: [{name: both}], rules: "
            "[{limit: {requests: 1, unit: Day}, from: [{identities: ['spiffe://a']}]}]}",
            "RateLimitPolicy",
        ),
        "$.spec.rules[0].from[0].identities[0]",
        "not a workload",
    ),
    "telemetry without a collector": (
        policy("{tracing: {provider: {protocol: http}}}", "Telemetry"),
        "$.spec.tracing.provider",
        "says no collector",
    ),
    "telemetry with two collectors": (
        policy(
            "{tracing: {provider: {protocol: http, address: 'otel:4318', backendRef: {name: orders, port: 8080}}}}",
            "Telemetry",
        ),
        "$.spec.tracing.provider.address",
        "`backendRef` too",
    ),
    "telemetry to a port that is not": (
        policy("{tracing: {provider: {address: 'otel:0'}}}", "Telemetry"),
        "$.spec.tracing.provider.address",
        "no port",
    ),
    "telemetry to a service that is not": (
        policy("{tracing: {provider: {backendRef: {name: otel, port: 4317}}}}", "Telemetry"),
        "$.spec.tracing.provider.backendRef",
        "does not exist",
    ),
    "telemetry to a port that the service lacks": (
        policy("{tracing: {provider: {backendRef: {name: orders, port: 4317}}}}", "Telemetry"),
        "$.spec.tracing.provider.backendRef.port",
        "has no port 4317",
    ),
    "telemetry to a port of another protocol": (
        policy("{tracing: {provider: {backendRef: {name: orders, port: 8080}}}}", "Telemetry"),
        "$.spec.tracing.provider.backendRef.port",
        "speaks http",
    ),
    "a tag without a value": (
        policy("{tracing: {customTags: [{name: a}]}}", "Telemetry"),
        "$.spec.tracing.customTags[0]",
        "exactly one",
    ),
    "a tag twice": (
        policy("{tracing: {customTags: [{name: a, literal: b}, {name: a, literal: c}]}}", "Telemetry"),
        "$.spec.tracing.customTags[1].name",
        "there already",
    ),
    "a tag that holds secrets": (
        policy("{tracing: {customTags: [{name: a, requestHeader: authorization}]}}", "Telemetry"),
        "$.spec.tracing.customTags[0].requestHeader",
        "secrets",
    ),
    "a token issuer without keys": (tokens(""), "$.spec.jwtRules[0]", "either jwks or jwksUri"),
    "a token issuer with keys here and elsewhere": (
        tokens(f"jwks: '{NOBODYS}', jwksUri: 'https://a.example/k'"),
        "$.spec.jwtRules[0]",
        "either jwks or jwksUri",
    ),
    "keys that are none": (tokens("jwks: '{}'"), "$.spec.jwtRules[0].jwks", "no array of keys"),
    "a secret among the keys": (
        tokens("""jwks: '{"keys": [{"kty": "oct", "k": "AAAA"}]}'"""),
        "$.spec.jwtRules[0].jwks",
        "is a secret",
    ),
    "keys at no URL": (tokens("jwksUri: 'https://[a/'"), "$.spec.jwtRules[0].jwksUri", "is no URL"),
    "keys at port 0": (tokens("jwksUri: 'https://a.example:0/'"), "$.spec.jwtRules[0].jwksUri", "is no URL"),
    "CAs that are none": (
        tokens("jwksUri: 'https://a.example/k', jwksCa: PEM"),
        "$.spec.jwtRules[0].jwksCa",
        "no PEM certificates",
    ),
    "CAs of nobody": (
        tokens(f"jwks: '{NOBODYS}', jwksCa: {ROOT_PEM}"),
        "$.spec.jwtRules[0].jwksCa",
        "is for jwksUri",
    ),
    "keys that are fetched all the time": (
        tokens("jwksUri: 'https://a.example/k', jwksRefreshInterval: 59s999ms"),
        "$.spec.jwtRules[0].jwksRefreshInterval",
        "between 1m and 24h",
    ),
    "keys that are fetched too seldom": (
        tokens("jwksUri: 'https://a.example/k', jwksRefreshInterval: 24h1s"),
        "$.spec.jwtRules[0].jwksRefreshInterval",
        "between 1m and 24h",
    ),
    "a mesh of another name": (
        "kind: Mesh\nmetadata: {name: other}\nspec: {trustDomain: shop.example}",
        "$.metadata.name",
        "one Mesh",
    ),
    "another trust domain": (
        "kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: other.example}",
        "$.spec.trustDomain",
        "from shop.example to other.example",
    ),
}
TELEMETRY = objects(policy("{targetRefs: [{name: orders}], accessLogging: [{}]}", "Telemetry", "first"))[0]
FIRST = objects(policy("{targetRefs: [{name: orders}]}", "BackendTrafficPolicy", "first"))[0]


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_problem_with_its_place(name: str) -> None:
    text, path, message = FAULTS[name]
    [problem] = check(text, ORDERS, BOTH, FIRST, TELEMETRY, MESH)
    assert problem.path == path
    assert message in problem.message
    assert problem.subject.startswith("a.yaml:1: ")
    assert problem.remedy


def test_telemetry_of_another_rank_or_of_another_matter_is_no_rival() -> None:
    assert not check(policy("{accessLogging: [{}]}", "Telemetry", "of-the-namespace"), ORDERS, TELEMETRY)
    assert not check(policy("{targetRefs: [{name: orders}]}", "Telemetry", "says-nothing"), ORDERS, TELEMETRY)


def test_all_problems_of_all_objects_are_told() -> None:
    problems = check(
        "\n---\n".join(
            (svc(f"{{{ONE_PORT}, dependencies: [{{name: x}}, {{name: y}}]}}"), policy("{targetRefs: [{name: z}]}"))
        )
    )
    assert [(problem.subject.partition(": ")[0], problem.path) for problem in problems] == [
        ("a.yaml:1", "$.spec.dependencies[0]"),
        ("a.yaml:1", "$.spec.dependencies[1]"),
        ("a.yaml:2", "$.spec.targetRefs[0]"),
    ]


def test_references_within_the_change_set_hold() -> None:
    assert not check(
        "\n---\n".join(
            (
                svc(f"{{{ONE_PORT}, dependencies: [{{name: db, bindPort: 9101}}, {{name: '*'}}]}}"),
                svc("{ports: [{name: a, port: 1, protocol: tcp}]}", "db"),
                policy("{targetRefs: [{name: db}], rules: [{to: [{ports: [1]}]}]}"),
                policy("{rules: [{to: [{ports: [12345]}]}]}", name="for-all-of-the-namespace"),
            )
        )
    )


def test_an_object_twice() -> None:
    changes = [put(ORDERS, "a.yaml:1"), delete(ORDERS, "b.yaml:7")]
    [problem] = validate(changes, known_for(changes, ORDERS))
    assert problem.subject == "b.yaml:7: Service shop/orders"
    assert "first at a.yaml:1" in problem.message


def test_the_mesh_can_not_be_deleted() -> None:
    changes = [delete(MESH)]
    [problem] = validate(changes, known_for(changes, MESH))
    assert "can't be deleted" in problem.message


# -- what others say of a service that goes or shrinks

WEB = objects(svc(f"{{{ONE_PORT}, dependencies: [{{name: both, port: 9090, bindPort: 9101}}]}}"))[0]
ALLOW = objects(policy("{targetRefs: [{name: both}], rules: [{to: [{ports: [9090]}]}]}"))[0]


def test_deleting_a_service_names_all_that_refer_to_it() -> None:
    changes = [delete(BOTH, "arguments")]
    problems = validate(changes, known_for(changes, BOTH, WEB, ALLOW, ORDERS))
    assert {problem.subject for problem in problems} == {"arguments: Service shop/both"}
    assert [problem.message.partition(" needs")[0] for problem in problems] == [
        "AuthorizationPolicy shop/p",
        "Service shop/web",
    ]


def test_deleting_a_service_with_all_that_refer_to_it() -> None:
    changes = [delete(BOTH), delete(WEB), delete(ALLOW)]
    assert not validate(changes, known_for(changes, BOTH, WEB, ALLOW))


def test_removing_a_port_names_who_needs_it() -> None:
    changes = [put(service("both", ports=(8080,)))]
    problems = validate(changes, known_for(changes, BOTH, WEB, ALLOW))
    assert [problem.message.partition(": ")[0] for problem in problems] == [
        "AuthorizationPolicy shop/p needs it as it is",
        "Service shop/web needs it as it is",
    ]


def test_a_second_port_makes_a_bound_port_ambiguous() -> None:
    web = objects(svc(f"{{{ONE_PORT}, dependencies: [{{name: orders, bindPort: 9101}}]}}"))[0]
    changes = [put(service("orders", ports=(8080, 9090)))]
    [problem] = validate(changes, known_for(changes, ORDERS, web))
    assert "Service shop/web needs it" in problem.message


def test_what_was_broken_before_is_not_this_change_sets_fault() -> None:
    dangling = objects(svc(f"{{{ONE_PORT}, dependencies: [{{name: gone}}, {{name: both, port: 8080}}]}}"))[0]
    changes = [put(service("both", ports=(8080,)))]
    assert not validate(changes, known_for(changes, BOTH, dangling))
