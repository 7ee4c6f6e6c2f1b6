"""Does an Envoy run what the compiler makes from scratch of what etcd holds? By Envoy's own ``/config_dump``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import json_format

from dataplane import config
from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Resource, ResourceKey
from dataplane.compile.workload import Credentials
from dataplane.identity.store import IdentityStore
from dataplane.snapshot.state import MeshState
from tests.e2e.mesh import KEYS, E2eMesh
from tests.states.build import listings

_MESSAGES = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
    SECRET: secret_pb2.Secret,
}
# In each part of the dump: the list, the way to the resource in an element, the type.
_DYNAMIC = (
    ("dynamic_active_clusters", ("cluster",), CLUSTER),
    ("dynamic_endpoint_configs", ("endpoint_config",), ENDPOINTS),
    ("dynamic_listeners", ("active_state", "listener"), LISTENER),
    ("dynamic_route_configs", ("route_config",), ROUTES),
    ("dynamic_active_secrets", ("secret",), SECRET),
)
_SECONDS = 20.0


async def assert_runs_the_model(mesh: E2eMesh, *names: str) -> None:
    """Of each of the instances; waits a little for what is on its way. Private keys are not compared."""
    for name in names:
        deadline = time.monotonic() + _SECONDS
        while (runs := await _running(mesh, name)) != (model := await _model(mesh, name)):
            assert time.monotonic() < deadline, f"{name}: {_difference(runs, model)}"


def _difference(runs: dict[ResourceKey, Any], model: dict[ResourceKey, Any]) -> str:
    """By name first: easier to read."""
    lines = [f"Envoy alone has {key}" for key in sorted(runs.keys() - model.keys())]
    lines += [f"Envoy lacks {key}" for key in sorted(model.keys() - runs.keys())]
    both = sorted(runs.keys() & model.keys())
    lines += [f"{key} is {runs[key]}, expected {model[key]}" for key in both if runs[key] != model[key]]
    return "\n".join(lines)


async def _model(mesh: E2eMesh, name: str) -> dict[ResourceKey, Any]:
    instance = mesh.instances[name]
    async with mesh.etcd() as client:
        listing = await client.list(KEYS.data())
    state = MeshState(KEYS)
    for one in listings({kv.key: kv.value for kv in listing.kvs}, listing.revision):
        state.apply(one)
    identity = IdentityStore(mesh.local.state_dir(instance)).load()
    assert identity is not None
    assert identity.spiffe_id.service is not None
    settings = config.load(mesh.local.settings_file(instance))
    workload = settings.workload(identity.spiffe_id.service, identity.spiffe_id.trust_domain)
    compiler = Compiler(workload, Credentials(identity.chain_pem, identity.key_pem), identity.bundle)
    compiler.rebuild(state)
    # Secrets have no place in a dump before something uses them, and everything that Envoy runs here does.
    return {key: _comparable(one) for key, one in compiler.resources().items()}


def _comparable(resource: Resource) -> Any:
    message = _MESSAGES[resource.key.type_url].FromString(resource.body)
    return _plain(resource.key.type_url, message)


async def _running(mesh: E2eMesh, name: str) -> dict[ResourceKey, Any]:
    dump = await mesh.admin(name).config_dump()
    draining = {
        listener["name"]
        for part in dump["configs"]
        for listener in part.get("dynamic_listeners", ())
        if "active_state" not in listener
    }
    found = {}
    for type_url, content in _dynamic(dump):
        message = json_format.ParseDict(content, _MESSAGES[type_url]())
        key = getattr(message, "name", None) or message.cluster_name
        if type_url == ENDPOINTS and key.startswith("app|"):
            continue  # of a static cluster, in which it is compared
        if type_url == ROUTES and key in draining:
            continue  # connections that are open may use it until the drain time is over
        found[ResourceKey(type_url, key)] = _plain(type_url, message)
    return found


def _dynamic(dump: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in dump["configs"]:
        for listed, way, type_url in _DYNAMIC:
            for element in part.get(listed, ()):
                for step in way:
                    element = element.get(step, {})
                if not element:  # a listener that was refused is listed without being active
                    continue
                content = {key: value for key, value in element.items() if key != "@type"}
                yield type_url, content


def _plain(type_url: str, message: Any) -> Any:
    if type_url == ENDPOINTS:  # Envoy adds health, weights and empty localities to what it was given
        addresses = [
            (endpoint.endpoint.address.socket_address.address, endpoint.endpoint.address.socket_address.port_value)
            for locality in message.endpoints
            for endpoint in locality.lb_endpoints
        ]
        return sorted(addresses)
    if type_url == SECRET:
        message.tls_certificate.ClearField("private_key")
    return json_format.MessageToDict(message)
