"""What the agent says of a stream that is open is what Envoy says of one that begins."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.compile.inbound import listener_name
from dataplane.compile.open_streams import Connection, OpenStream
from dataplane.compile.resources import ROUTES, ResourceKey
from dataplane.compile.verdict import Judge
from schemas import codec
from schemas.objects import AuthorizationPolicy
from tests.properties.sidecar import Sidecar, from_listings
from tests.properties.strategies import PORTS, policies
from tests.properties.verdict import Request, passes, passes_on, requests
from tests.states.build import KEYS, ORDERS, ROOT_DER, bundle, federates, revocation, service, workload

SOMEWHERE = Connection(("192.0.2.1", 1), ("192.0.2.2", 2))
FEDERATED = federates("other", "other.test")
BASE = {
    KEYS.object(service("orders").ref): codec.encode(service("orders", *PORTS)),
    KEYS.object(FEDERATED.ref): codec.encode(FEDERATED),
    **dict([bundle(1, ROOT_DER), bundle(1, ROOT_DER, trust_domain="other.test")]),
}
REQUESTS = requests(PORTS)

revocations = st.builds(
    revocation, st.sampled_from(["web", "orders", "web.back"]), st.integers(1, 3), revoked=st.booleans()
)


def stream(request: Request) -> OpenStream:
    if request.port.protocol == "tcp":
        return OpenStream(SOMEWHERE, (request.caller,), "CONNECT", "")
    return OpenStream(SOMEWHERE, (request.caller,), request.method, f"{request.path}?a=1#b")


def goes_on(judge: Judge, sidecar: Sidecar, request: Request) -> bool:
    routes = sidecar.envoy[ResourceKey(ROUTES, listener_name(request.port))]
    return not judge.denies(routes, stream(request))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(st.lists(policies(), max_size=4), st.lists(revocations, max_size=3)), min_size=1, max_size=3))
def test_the_agent_judges_as_envoy_does(
    states: list[tuple[list[AuthorizationPolicy], list[tuple[bytes, bytes]]]],
) -> None:
    """Whatever the rules were before: one judge sees them all."""
    judge = Judge()
    for found, revoked in states:
        stored = {KEYS.object(one.ref): codec.encode(one) for one in found}
        sidecar = from_listings(workload(ORDERS), BASE | stored | dict(revoked))
        for request in REQUESTS:
            assert goes_on(judge, sidecar, request) == passes(sidecar.envoy, request), request
        for who, port in sorted({(one.caller, one.port) for one in REQUESTS if one.port.passes_bytes}):
            asked = [one for one in REQUESTS if (one.caller, one.port) == (who, port)]
            routes = sidecar.envoy[ResourceKey(ROUTES, listener_name(port))]
            connection = OpenStream(SOMEWHERE, (who,), None, "")
            if judge.denies(routes, connection):
                assert not any(passes(sidecar.envoy, one) for one in asked), connection
            elif passes_on(sidecar.envoy, port):
                assert all(passes(sidecar.envoy, one) for one in asked), connection
