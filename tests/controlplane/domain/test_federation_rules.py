"""What a replica takes of TrustBundle and ExternalService."""

from __future__ import annotations

import json

import pytest

from controlplane.domain.validate import validate
from schemas.errors import Problem
from schemas.objects import ExternalService
from spiffe.bundle import record
from spiffe.jwks import encode
from tests.controlplane.domain.objects import delete, known_for, objects, put, service
from tests.spiffe.certificates import AUTHORITY, Signer

MESH = objects("kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: shop.example}")[0]
THEIRS = objects(
    "kind: TrustBundle\nmetadata: {name: other}\nspec: {trustDomain: taken.example, bundle: '{\"keys\": []}'}"
)[0]
BUNDLE = encode(record("td.example", [Signer.root(AUTHORITY).certificate], 1)).decode()
ID = "spiffe://td.example/ns/shop/svc/stock"
ORDERS = service("orders")


def bundle(spec: str, name: str = "theirs") -> str:
    return f"kind: TrustBundle\nmetadata: {{name: {name}}}\nspec: {spec}"


def external(more: str, identity: str = ID, name: str = "stock") -> str:
    ports = "ports: [{name: http, port: 8080, protocol: http}]"
    tls = f"tls: {{mode: MESH, spiffeId: '{identity}'}}"
    return f"kind: ExternalService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{ports}, {tls}, {more}}}"


def web(where: str) -> str:
    return f"{{trustDomain: td.example, bundleEndpoint: {{url: '{where}', profile: https_web}}}}"


AT = "endpoints: [{address: 192.0.2.1}]"
SPIFFE = "bundleEndpoint: {url: 'https://192.0.2.1/', profile: https_spiffe, endpointSpiffeId: '%s'}"

FAULTS = {
    "our own trust domain": (bundle("{trustDomain: shop.example, bundle: '{\"keys\": []}'}"), "trustDomain", "itself"),
    "a trust domain twice": (
        bundle("{trustDomain: taken.example, bundle: '{\"keys\": []}'}"),
        "trustDomain",
        "TrustBundle mesh-system/other is of taken.example already",
    ),
    "no source": (bundle("{trustDomain: td.example}"), "", "neither"),
    "no bundle": (bundle("{trustDomain: td.example, bundle: 'x'}"), "bundle", "not JSON"),
    "a bundle without keys": (bundle("{trustDomain: td.example, bundle: '{}'}"), "bundle", "no array of keys"),
    "another's bundle": (
        bundle(f"{{trustDomain: mallory.example, bundle: '{BUNDLE}'}}"),
        "bundle",
        "of another trust domain",
    ),
    "https_spiffe without an identity": (
        bundle("{trustDomain: td.example, bundleEndpoint: {url: 'https://192.0.2.1/', profile: https_spiffe}}"),
        "bundleEndpoint.endpointSpiffeId",
        "needs the identity",
    ),
    "https_spiffe without a first bundle": (
        bundle(f"{{trustDomain: td.example, {SPIFFE % ID}}}"),
        "bundle",
        "here already",
    ),
    "https_spiffe by a whole trust domain": (
        bundle(f"{{trustDomain: td.example, {SPIFFE % 'spiffe://td.example'}}}"),
        "bundleEndpoint.endpointSpiffeId",
        "not a workload",
    ),
    "https_web with an identity": (
        bundle(
            "{trustDomain: td.example, bundleEndpoint: "
            f"{{url: 'https://a.example/', profile: https_web, endpointSpiffeId: '{ID}'}}}}"
        ),
        "bundleEndpoint.endpointSpiffeId",
        "https_web",
    ),
    "an external service like a service": (external(AT, name="orders"), "*metadata.name", "Service shop/orders alike"),
    "an external service of a whole trust domain": (external(AT, "spiffe://td.example"), "tls.spiffeId", "workload"),
    "an external service in capitals": (external(AT, ID.replace("td", "TD")), "tls.spiffeId", "canonical"),
    "an external service at a name": (
        external("endpoints: [{address: stock.example}]"),
        "endpoints[0].address",
        "reached by IP address",
    ),
    "a port that it has not": (
        external("endpoints: [{address: 192.0.2.1, ports: {grpc: 1}}]"),
        "endpoints[0].ports",
        "no port 'grpc'",
    ),
}


def check(text: str) -> list[Problem]:
    changes = [put(value) for value in objects(text)]
    return validate(changes, known_for(changes, MESH, THEIRS, ORDERS))


@pytest.mark.spiffe(14)
@pytest.mark.spiffe(23)
@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_problem_with_its_place(name: str) -> None:
    text, path, message = FAULTS[name]
    [problem] = check(text)
    where = f"$.{path[1:]}" if path.startswith("*") else f"$.spec{'.' * bool(path)}{path}"
    assert problem.path == where
    assert message in problem.message
    assert problem.remedy


GOOD = (
    bundle(web("https://bundles.td.example/bundle.json?of=td")),
    bundle(
        f"{{trustDomain: td.example, bundle: {json.dumps(BUNDLE)}, {SPIFFE % 'spiffe://td.example/control-plane'}}}"
    ),
    bundle(f"{{trustDomain: td.example, {SPIFFE % 'spiffe://taken.example/publisher'}}}"),
    external(AT),
)


@pytest.mark.parametrize("text", GOOD, ids=["web", "spiffe", "another trust domain's server", "external"])
def test_good_ones(text: str) -> None:
    assert check(text) == []


@pytest.mark.spiffe(22)
@pytest.mark.parametrize(
    "url",
    [
        "http://td.example/",
        "https://me@td.example/",
        "https://me:secret@td.example/",
        "https:///bundle",
        "//td.example",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Exception, match="https URL without user info"):
        objects(bundle(web(url)))


@pytest.mark.parametrize("namespace", ["shop"])
def test_a_trust_bundle_is_of_no_namespace(namespace: str) -> None:
    """Else an editor of that namespace could have anybody trusted."""
    with pytest.raises(Exception, match="is not of a namespace"):
        objects(GOOD[0].replace("{name: theirs}", f"{{name: theirs, namespace: {namespace}}}"))


def test_a_dependency_on_an_external_service_needs_it() -> None:
    stock = objects(external(AT))[0]
    assert isinstance(stock, ExternalService)
    caller = objects(
        "kind: Service\nmetadata: {name: web, namespace: shop}\n"
        "spec: {ports: [{name: http, port: 80, protocol: http}], "
        "dependencies: [{kind: ExternalService, name: stock, bindPort: 9101}]}"
    )[0]
    assert not validate([put(caller)], known_for([put(caller)], stock))
    [problem] = validate([put(caller)], known_for([put(caller)], MESH))
    assert "ExternalService shop/stock, which does not exist" in problem.message
    [problem] = validate([delete(stock)], known_for([delete(stock)], stock, caller))
    assert "Service shop/web needs it" in problem.message
