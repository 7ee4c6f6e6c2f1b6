"""An own SVID that has ended closes the sidecar: a handshake would fail, and what is open must not go on."""

from __future__ import annotations

import pytest
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2

from dataplane.compile import inbound, tokens
from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, ResourceKey
from schemas.records import TrustBundle
from tests.states.build import CREDENTIALS, State, compiled, mesh_of
from tests.states.examples import STATES

BUNDLE = TrustBundle(trust_domain="mesh.test", sequence=0, x509_authorities=())


def expire(compiler: Compiler, state: State, *, expired: bool) -> None:
    compiler.set_identity(mesh_of(state.values), CREDENTIALS, BUNDLE, expired=expired)


@pytest.mark.fault(11)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_nothing_goes_in_or_out(state: State) -> None:
    compiler = compiled(state.workload, mesh_of(state.values))
    expire(compiler, state, expired=True)
    resources = compiler.resources()
    assert {key.name for key in resources if key.type_url == LISTENER} <= {"outbound|proxy"}
    assert not [key for key in resources if key.type_url == ENDPOINTS]
    # The last one leads nowhere at any time.
    kept = [key.name for key in resources if key.type_url == CLUSTER and not key.name.startswith("app|")]
    assert set(kept) <= {tokens.NO_KEYS}
    for key, resource in resources.items():
        if key.type_url != ROUTES:
            continue
        for host in route_pb2.RouteConfiguration.FromString(resource.body).virtual_hosts:
            if key.name.startswith("inbound|"):
                rules = http_rbac_pb2.RBACPerRoute()
                assert host.typed_per_filter_config[inbound.DENY].Unpack(rules)
                assert rules.rbac.rules.action == rbac_pb2.RBAC.DENY
                (denied,) = rules.rbac.rules.policies.values()
                assert denied.permissions[0].any
                assert denied.principals[0].any
            else:
                for route in host.routes:  # answered here, or led to a cluster that there is no more: 503 by Envoy
                    gone = bool(route.route.cluster) and ResourceKey(CLUSTER, route.route.cluster) not in resources
                    assert gone or route.direct_response.status in (502, 503)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_what_comes_after_is_what_was_before(state: State) -> None:
    mesh = mesh_of(state.values)
    compiler = compiled(state.workload, mesh)
    expire(compiler, state, expired=False)
    before = compiler.resources()
    expire(compiler, state, expired=True)
    alone = Compiler(state.workload, CREDENTIALS, BUNDLE, expired=True)
    alone.rebuild(mesh)
    assert compiler.resources() == alone.resources()
    expire(compiler, state, expired=False)
    assert compiler.resources() == before
