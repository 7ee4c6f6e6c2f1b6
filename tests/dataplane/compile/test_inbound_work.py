"""What a change of the rules costs: each is read once a port, keys of tokens once for all ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from authz import key_sources
from dataplane.compile import authorization
from dataplane.compile.inbound import inbound_listeners, inbound_routes
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
