"""What is compiled for any of the example states, a real Envoy takes and serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from dataplane.compile.resources import CLUSTER, Resource
from dataplane.compile.telemetry import runtime
from dataplane.compile.workload import Credentials, KeyPair
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import FedEnvoy
from tests.states.build import ORDERS, State, compiled, identity, mesh_of, workload
from tests.states.examples import STATES
from tests.support.pki import Authority


def credentials() -> Credentials:
    leaf = Authority.create().issue(uri=identity("orders"))
    return Credentials(leaf.chain_pem, leaf.key_pem)


def run(envoy: FedEnvoy, state: State, inbound: str, local: str, own: Credentials) -> None:
    same = state.workload.inbound_address == state.workload.local_address
    of = replace(state.workload, inbound_address=inbound, local_address=inbound if same else local)
    if of.virtual is not None:  # no host that runs tests has the mesh's IPv6 range
        of = replace(of, virtual=replace(of.virtual, ipv6=False))
    if of.gateway is not None:
        of = replace(of, gateway=replace(of.gateway, address=inbound))
    pairs = {files: KeyPair(own.chain_pem, own.key_pem, one.names) for files, one in of.certificates.items()}
    of = replace(of, certificates=pairs)
    try:
        envoy.run(compiled(of, mesh_of(state.values), own, state.learnt))
    except AssertionError as error:
        raise AssertionError(f"state {state.name}: {error}\n{envoy.log()}") from None


def test_every_state_one_after_the_other(envoys: EnvoyFactory, own_address: Callable[[], str]) -> None:
    envoy, inbound, local, own = envoys("walker"), own_address(), own_address(), credentials()
    envoy.stop()
    envoy.drain_seconds = 1  # else it keeps the listeners of all states, and tells of them whenever it is asked
    envoy.start()
    for state in (*STATES, *reversed(STATES)):
        run(envoy, state, inbound, local, own)


def test_it_is_the_server_that_judges(envoys: EnvoyFactory, own_address: Callable[[], str]) -> None:
    """The test above can fail: a resource that Envoy must refuse is refused."""
    envoy = envoys("refuser")
    bad = Resource.of(CLUSTER, "bad", cluster_pb2.Cluster(name="bad", lb_policy="CLUSTER_PROVIDED"))
    level = runtime(mesh_of({}), workload(ORDERS))  # without it Envoy goes no further
    with pytest.raises(AssertionError, match="bad"):
        envoy.give({level.key: level, bad.key: bad})
