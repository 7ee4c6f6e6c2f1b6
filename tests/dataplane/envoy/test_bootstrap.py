"""The bootstrap: deterministic, private, and what Envoy's own schema and validator accept."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.bootstrap.internal_listener.v3 import internal_listener_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.resource_monitors.fixed_heap.v3 import fixed_heap_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from dataplane.envoy.bootstrap import BootstrapInput, bootstrap, connection_limit, digest, heap_limit, render
from routing.headers import UNSERVED
from schemas.errors import InvalidInput
from tests.support.envoy import envoy_path

GIVEN = BootstrapInput("sidecar/a", "orders.shop", "/run/mesh/ads.sock", "/run/mesh/admin.sock", 1000)
ANY_TYPES = (
    internal_listener_pb2,
    downstream_connections_pb2,
    fixed_heap_pb2,
    http_protocol_options_pb2,
)  # so that the Anys can be read


def parsed(given: BootstrapInput) -> bootstrap_pb2.Bootstrap:
    message = bootstrap_pb2.Bootstrap()
    json_format.Parse(render(bootstrap(given)), message)  # refuses unknown fields
    return message


def test_it_is_what_it_should_be() -> None:
    message = parsed(GIVEN)
    assert (message.node.id, message.node.cluster) == ("sidecar/a", "orders.shop")
    assert message.admin.address.pipe.path == "/run/mesh/admin.sock"
    assert message.admin.address.pipe.mode == 0o600
    ads = message.dynamic_resources.ads_config
    assert ads.api_type == ads.DELTA_GRPC
    assert message.dynamic_resources.cds_config.HasField("ads")
    assert message.dynamic_resources.lds_config.HasField("ads")
    (cluster,) = message.static_resources.clusters
    assert cluster.name == ads.grpc_services[0].envoy_grpc.cluster_name
    address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address
    assert address.pipe.path == "/run/mesh/ads.sock"


def test_envoy_finds_what_sidecars_tell_one_another_without_an_index() -> None:
    (header,) = parsed(GIVEN).inline_headers
    assert header.inline_header_name == UNSERVED
    assert header.inline_header_type == header.RESPONSE_HEADER


def test_state_of_the_world_is_a_choice() -> None:
    ads = parsed(dataclasses.replace(GIVEN, delta=False)).dynamic_resources.ads_config
    assert ads.api_type == ads.GRPC


def test_equal_input_equal_bytes_and_any_other_input_another_digest() -> None:
    first = render(bootstrap(GIVEN))
    assert first == render(bootstrap(GIVEN))
    changes: list[dict[str, object]] = [
        {"node_id": "sidecar/b"},
        {"cluster": "x"},
        {"ads_socket": "/x"},
        {"admin_socket": "/x"},
        {"max_connections": 1},
        {"max_heap_bytes": 1},
        {"delta": False},
    ]
    others = {digest(render(bootstrap(dataclasses.replace(GIVEN, **change)))) for change in changes}  # type: ignore[arg-type]  # one valid field each
    assert len(others | {digest(first)}) == 1 + len(changes)


def test_envoy_itself_accepts_it(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_bytes(render(bootstrap(GIVEN)))
    command = [str(envoy_path()), "--mode", "validate", "--config-path", str(config), "--disable-hot-restart"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower()


@pytest.mark.parametrize("path", ["relative.sock", "/" + "x" * 107, "/" + "ü" * 60])
def test_a_path_that_no_socket_can_have_is_refused(path: str) -> None:
    for name in ("ads_socket", "admin_socket"):
        with pytest.raises(InvalidInput, match="shorter runtimeDir"):
            bootstrap(dataclasses.replace(GIVEN, **{name: path}))  # type: ignore[arg-type]  # a path each
    bootstrap(dataclasses.replace(GIVEN, ads_socket="/" + "x" * 106))


def test_connections_fit_into_the_descriptors() -> None:
    assert connection_limit(1024) == 256
    assert connection_limit(1_048_576) * 2 < 1_048_576
    assert connection_limit(0) > 0


def test_envoy_shares_the_memory_with_the_app() -> None:
    assert heap_limit(8 * 2**30) == 4 * 2**30
    assert heap_limit(0) > 0
    actions = {
        one.name.rpartition(".")[2]: one.triggers[0].threshold.value for one in parsed(GIVEN).overload_manager.actions
    }
    assert actions["shrink_heap"] < actions["disable_http_keepalive"] < actions["stop_accepting_requests"] < 1
