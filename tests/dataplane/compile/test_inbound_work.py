"""What a change of the rules costs: each is read once a port, keys of tokens once for all ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.config.rbac.v3 import rbac_pb2

from authz import key_sources
from authz.rules import Condition
from dataplane.compile import authorization, wording
from dataplane.compile.inbound import inbound_listeners, inbound_routes
from schemas.objects.authorization import Operation
from tests.states.build import ORDERS, authentication, mesh_of, policy, port, rule, service, state, who, workload
from tests.support.tokens import Issuer

PORTS = tuple(port(f"p{one}", 8080 + one, identity_header=False) for one in range(3))


def test_rules_are_read_once_a_port_and_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer("https://one.example")
    tokens = authentication("tokens", {"issuer": issuer.name, "jwks": issuer.jwks()})
    shadow = policy("shadow", "AUDIT", rule(who("web")))
    mesh = mesh_of(state("now", "", service("orders", *PORTS), tokens, shadow).values)
    said: list[str] = []

    def counting(module: object, name: str) -> None:
        real: Callable[..., object] = getattr(module, name)

        def counted(*args: object, **named: object) -> object:
            said.append(name)
            return real(*args, **named)

        monkeypatch.setattr(module, name, counted)

    counting(authorization, "port_rules")
    counting(key_sources, "public_keys")
    assert inbound_routes(mesh, workload(ORDERS))
    assert (said.count("port_rules"), said.count("public_keys")) == (len(PORTS), 1)
    said.clear()
    assert inbound_listeners(mesh, workload(ORDERS))
    assert (said.count("port_rules"), said.count("public_keys")) == (len(PORTS), 0)


def test_only_what_is_new_is_put_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Condition] = []

    def asked(condition: Condition) -> rbac_pb2.Permission:
        said.append(condition)
        return real(condition)

    real = wording._asked
    monkeypatch.setattr(wording, "_asked", asked)
    kept = wording.Wording()

    def words_for(*paths: str) -> set[str]:
        """The paths that had to be put into words."""
        said.clear()
        policies = [
            policy(f"one{path[1:]}", "ALLOW", rule(who("web"), to=[Operation(paths=(path,))])) for path in paths
        ]
        mesh = mesh_of(state("now", "", service("orders", PORTS[0]), *policies).values)
        made = inbound_routes(mesh, workload(ORDERS), wording=kept)
        new = {value for condition in said for value in condition.said}
        assert made == inbound_routes(mesh, workload(ORDERS))
        return new

    assert words_for("/a", "/b") == {"/a", "/b"}
    assert words_for("/a", "/b", "/c") == {"/c"}
    assert words_for("/c", "/d") == {"/d"}
    assert words_for("/a", "/c") == {"/a"}, "what was not asked for is forgotten"
