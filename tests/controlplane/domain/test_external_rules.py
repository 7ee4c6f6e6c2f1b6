"""What replicas refuse of an ExternalService that is not of a mesh: each fault once, with its field and a remedy."""

from __future__ import annotations

import pytest

from controlplane.domain.reads import prefixes_needed
from controlplane.domain.validate import validate
from schemas.keys import Keyspace
from tests.controlplane.domain.objects import known_for, objects, put

MESH = objects("kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: shop.example}")[0]
PORT = "{name: http, port: 80, protocol: http}"
RAW = "{name: raw, port: 7, protocol: tcp}"
OTHER = objects(
    "kind: ExternalService\nmetadata: {name: other, namespace: shop}\n"
    f"spec: {{hosts: [taken.example], ports: [{PORT}], tls: {{mode: DISABLE}}}}"
)[0]


def external(spec: str, *, name: str = "api", ports: str = PORT) -> str:
    return f"kind: ExternalService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{ports}], {spec}}}"


SIMPLE, PLAIN, AT = "tls: {mode: SIMPLE}", "tls: {mode: DISABLE}", "endpoints: [{address: 192.0.2.1}]"
HOST = "hosts: [api.example]"
SERVER = "spiffeId: 'spiffe://td.example/ns/a/svc/b'"
FAULTS = {
    "nowhere": (external(PLAIN), "endpoints", "neither endpoints nor hosts"),
    "a host of the mesh": (external(f"hosts: [orders.shop.mesh], {PLAIN}"), "hosts[0]", "services of the mesh"),
    "a short host": (external(f"hosts: [orders], {PLAIN}"), "hosts[0]", "services of the mesh"),
    "an address as a host": (external(f"hosts: [192.0.2.1], {PLAIN}"), "hosts[0]", "no host name"),
    "a host twice": (external(f"hosts: [a.example, a.example], {PLAIN}"), "hosts[1]", "second time"),
    "a host that is taken": (external(f"hosts: [taken.example], {PLAIN}"), "hosts[0]", "shop/other already says"),
    "an address of nobody": (external(f"endpoints: [{{address: 0.0.0.0}}], {PLAIN}"), "endpoints[0].address", "no IP"),
    "no address": (external(f"endpoints: [{{address: a_b}}], {PLAIN}"), "endpoints[0].address", "neither an IP"),
    "half an address": (
        external(f"endpoints: [{{address: '10.1'}}], {PLAIN}"),
        "endpoints[0].address",
        "neither an IP",
    ),
    "a port that it has not": (
        external(f"endpoints: [{{address: 192.0.2.1, ports: {{grpc: 1}}}}], {PLAIN}"),
        "endpoints[0].ports",
        "no port 'grpc'",
    ),
    "in turns between addresses": (external(f"resolution: DNS_ROUND_ROBIN, {AT}, {PLAIN}"), "resolution", "one name"),
    "no name to verify": (external(f"{AT}, {SIMPLE}"), "tls.subjectAltNames", "nothing says which name"),
    "an address in the handshake": (
        external(f"{AT}, tls: {{mode: SIMPLE, sni: 192.0.2.1}}"),
        "tls.sni",
        "no host name",
    ),
    "no names": (
        external(f"{AT}, tls: {{mode: SIMPLE, subjectAltNames: ['a..b']}}"),
        "tls.subjectAltNames[0]",
        "neither a host name",
    ),
    "no certificates": (
        external(f"{HOST}, tls: {{mode: SIMPLE, caCertificates: x}}"),
        "tls.caCertificates",
        "no PEM certificates",
    ),
    "verified by nobody": (
        external(f"{HOST}, tls: {{mode: DISABLE, sni: a.example}}"),
        "tls.sni",
        "says nothing for mode DISABLE",
    ),
    "an identity outside": (
        external(f"{HOST}, tls: {{mode: SIMPLE, {SERVER}}}"),
        "tls.spiffeId",
        "says nothing for mode SIMPLE",
    ),
    "a certificate that nobody asks for": (
        external(f"{HOST}, tls: {{mode: SIMPLE, clientCertificate: {{certificate: a, key: b}}}}"),
        "tls.clientCertificate",
        "says nothing for mode SIMPLE",
    ),
    "a mesh without an identity": (external(f"{AT}, tls: {{mode: MESH}}"), "tls.spiffeId", "missing"),
    "a mesh by its hosts": (
        external(f"{HOST}, tls: {{mode: MESH, {SERVER}}}"),
        "endpoints",
        "missing: tls.mode is MESH",
    ),
    "a port's own": (
        external(f"{AT}, {PLAIN}", ports="{name: http, port: 80, protocol: http, tls: {mode: SIMPLE}}"),
        "ports[0].tls.subjectAltNames",
        "nothing says which name",
    ),
    "an identity header": (
        external(f"{AT}, {PLAIN}", ports="{name: http, port: 80, protocol: http, identityHeader: false}"),
        "ports[0].identityHeader",
        "no sidecar at the other end",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_problem_with_its_place(name: str) -> None:
    text, path, message = FAULTS[name]
    changes = [put(value) for value in objects(text)]
    [problem] = validate(changes, known_for(changes, MESH, OTHER))
    assert problem.path == f"$.spec.{path}"
    assert message in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    "text",
    [
        external(f"{HOST}, {SIMPLE}"),
        external(f"{HOST}, tls: {{mode: MUTUAL}}"),
        external(f"{HOST}, tls: {{mode: MUTUAL, clientCertificate: {{certificate: a/b.crt, key: a/b.key}}}}"),
        external(f"{AT}, tls: {{mode: SIMPLE, subjectAltNames: ['192.0.2.1', '2001:db8::1', a.example]}}"),
        external(f"endpoints: [{{address: 192.0.2.1}}, {{address: b.example}}], {SIMPLE}"),
        external(f"hosts: [taken.example], {PLAIN}", ports=RAW),
        external(f"{HOST}, resolution: DNS_ROUND_ROBIN, {PLAIN}"),
    ],
)
def test_good_ones(text: str) -> None:
    changes = [put(value) for value in objects(text)]
    known = known_for(changes, MESH, OTHER)
    assert not validate(changes, known)
    assert b"/mesh/v1/data/config/ExternalService/shop/" in prefixes_needed(Keyspace(), changes, known)


@pytest.mark.parametrize("path", ["/etc/shadow", "../a.key", "a/../b", ".hidden", "a//b", "a/.b", "", "a b", "a/"])
def test_paths_stay_below_the_directory(path: str) -> None:
    files = f"{{certificate: a.crt, key: '{path}'}}"
    text = external(f"{HOST}, tls: {{mode: MUTUAL, clientCertificate: {files}}}")
    with pytest.raises(Exception, match="a relative path, none of whose parts begins with"):
        objects(text)


def test_a_route_does_not_divide_connections_between_inside_and_outside() -> None:
    text = f"""{external(f"{AT}, {PLAIN}", ports=RAW)}
---
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{ports: [{{name: raw, port: 7, protocol: tcp}}]}}
---
kind: TCPRoute
metadata: {{name: db, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: db}}]
  rules: [{{backendRefs: [{{name: db}}, {{kind: ExternalService, name: api}}]}}]
"""
    changes = [put(value) for value in objects(text)]
    [problem] = validate(changes, known_for(changes, MESH))
    assert problem.path == "$.spec.rules[0].backendRefs[1].port"
    assert "between services of the mesh" in problem.message
