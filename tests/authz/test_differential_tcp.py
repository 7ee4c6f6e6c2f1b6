"""Random policies and random connections: whom a port of TCP, and one whose bytes pass, lets in."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.judge import Request, judge
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation
from schemas.objects.service import ServicePort
from tests.authz.judge_envoy import APP, JudgeEnvoy, judge_envoy
from tests.authz.rules import OTHER_DOMAIN, rules_of
from tests.authz.strategies import CALLERS, DRESSES, policies
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.states.build import federates, port, service

TCP = tuple(port(f"raw{one}", 7000 + one, "tcp") for one in range(5))
BYTES = tuple(port(f"pass{one}", 7100 + one, identity_header=False) for one in range(5))
ADDRESSES = tuple(sorted({one.address for one in DRESSES}))
FIXED = (service("orders", *TCP, *BYTES), federates("other", OTHER_DOMAIN))


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(1))


@pytest.fixture(scope="module")
def envoy(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[JudgeEnvoy]:
    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as app,
        judge_envoy(envoys("orders"), own_address()) as started,
    ):
        threading.Thread(target=app.serve_forever, args=(0.05,), daemon=True).start()
        started.app_ports = {one.name: app.server_address[1] for one in BYTES}
        yield started
        app.shutdown()


def at(found: list[AuthorizationPolicy], of: ServicePort) -> list[AuthorizationPolicy]:
    """The same, but for this port only; where bytes pass, of nothing that stands in a request."""

    def narrowed(one: Operation) -> Operation:
        kept = Operation() if of.protocol != "tcp" else one
        return replace(kept, ports=(of.port,), not_ports=None)

    result = []
    for number, one in enumerate(found):
        metadata = replace(one.metadata, name=f"{of.name}-{number}")
        rules = tuple(
            replace(rule, to=tuple(map(narrowed, (Operation(),) if rule.to is None else rule.to)))
            for rule in one.spec.rules
        )
        result.append(replace(one, metadata=metadata, spec=replace(one.spec, rules=rules)))
    return result


_some = st.lists(policies("ALLOW") | policies("DENY"), min_size=1, max_size=3)
_each = st.lists(_some, min_size=len(TCP) + len(BYTES), max_size=len(TCP) + len(BYTES))


@settings(deadline=None, max_examples=3, suppress_health_check=list(HealthCheck))
@given(_each)
@pytest.mark.fault(21)
def test_whom_connections_are_taken_from(envoy: JudgeEnvoy, each: list[list[AuthorizationPolicy]]) -> None:
    """As sidecars ask: CONNECT over HTTP/2, or the bytes themselves. Each port has policies of its own."""
    ports = (*TCP, *BYTES)
    found = [one for of, some in zip(ports, each, strict=True) for one in at(some, of)]
    envoy.run(*FIXED, *found, ports=[one.port for one in ports])
    for number, of in enumerate(ports):
        rules, address = rules_of(found, of), ADDRESSES[number % len(ADDRESSES)]
        for caller in CALLERS:
            verdict = judge(rules, of, Request(caller, address=address))
            if of in TCP:
                status = envoy.connect_by_http2(caller, of.port, address)
                assert (status, verdict.allowed) in ((APP, True), (403, False)), (caller, of, status, verdict)
            else:
                assert envoy.passes_bytes(caller, of.port, address) is verdict.allowed, (caller, of, verdict)
    assert envoy.ports_that_pass_bytes() == {one.name for one in BYTES}
