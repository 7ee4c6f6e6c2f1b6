"""Every HTTP listener has every protection, because one builder makes them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

import dataplane
from dataplane.compile.hardening import HTTP2_MAX_STREAMS, PATHS
from dataplane.compile.http import Edge, connection_manager
from dataplane.compile.resources import LISTENER
from schemas.http_requests import REFUSED
from tests.states.build import compiled, mesh_of
from tests.states.examples import STATES

_Manager = hcm_pb2.HttpConnectionManager


def managers() -> Iterator[tuple[str, hcm_pb2.HttpConnectionManager]]:
    """Of every listener of every example, and of an edge."""
    for one in STATES:
        resources = compiled(one.workload, mesh_of(one.values), learnt=one.learnt).resources()
        for key, resource in resources.items():
            if key.type_url != LISTENER:
                continue
            listener = listener_pb2.Listener.FromString(resource.body)
            if listener.HasField("internal_listener"):
                continue  # Envoy's own: no client reaches it
            for chain in listener.filter_chains:
                for found in chain.filters:
                    manager = _Manager()
                    if found.typed_config.Unpack(manager):
                        yield f"{one.name} {key.name}", manager
    manager = _Manager()
    connection_manager(name="edge", inbound=False, edge=Edge(trusted_hops=1)).typed_config.Unpack(manager)
    yield "edge", manager


@pytest.mark.fault(21)
@pytest.mark.fault(22)
def test_every_listener_has_every_protection() -> None:
    found = dict(managers())
    kinds = {name.split(" ")[-1].split("|")[0] for name in found}
    assert kinds == {"inbound", "outbound", "gateway", "edge"}
    for name, one in found.items():
        assert one.normalize_path.value, name
        assert one.merge_slashes, name
        assert one.path_with_escaped_slashes_action == _Manager.REJECT_REQUEST, name
        common = one.common_http_protocol_options
        assert common.headers_with_underscores_action == common.REJECT_REQUEST, name
        assert common.max_headers_count.value <= 100, name
        assert one.max_request_headers_kb.value <= 60, name
        assert common.idle_timeout.seconds > 0, name
        assert one.request_headers_timeout.seconds > 0, name
        assert one.stream_idle_timeout.seconds > 0, name
        http2 = one.http2_protocol_options
        assert 0 < http2.max_concurrent_streams.value <= HTTP2_MAX_STREAMS, name
        assert 0 < http2.max_outbound_control_frames.value <= 1000, name
        assert http2.max_consecutive_inbound_frames_with_empty_payload.value == 1, name
        assert http2.initial_connection_window_size.value <= 2**22, name
        assert not one.http_protocol_options.allow_chunked_length, name
        assert not one.http_protocol_options.accept_http_10, name
        # Headers that steer Envoy are believed of nobody; nor who somebody says that he is.
        assert one.HasField("internal_address_config"), name
        assert {each.address_prefix for each in one.internal_address_config.cidr_ranges} == {"255.255.255.255"}, name
        assert one.use_remote_address.value, name
        assert one.forward_client_cert_details in (_Manager.SANITIZE, _Manager.SANITIZE_SET), name
        assert one.http_filters[0].name == PATHS, name
    # What refuses paths and methods is one thing, first in all of them: what it does is for tests/authz to say.
    refusals = len(REFUSED) + 1
    (refuses,) = {one.http_filters[0].SerializeToString(deterministic=True) for one in found.values()}
    rules, made = http_rbac_pb2.RBAC(), hcm_pb2.HttpFilter.FromString(refuses)
    assert (made.disabled, made.typed_config.Unpack(rules), len(rules.rules.policies)) == (False, True, refusals)
    answers = {
        tuple(each.SerializeToString() for each in one.local_reply_config.mappers[:refusals]) for one in found.values()
    }
    (mappers,) = answers
    assert {hcm_pb2.ResponseMapper.FromString(each).status_code.value for each in mappers} == {400}


def test_nobody_else_makes_a_connection_manager() -> None:
    (folder,) = dataplane.__path__
    makers = {
        str(path.relative_to(folder))
        for path in Path(folder).rglob("*.py")
        if re.search(r"HttpConnectionManager\(|_Manager\(", path.read_text())
    }
    # The second reads them; the third is of an internal listener, which only Envoy's own tracer reaches.
    assert makers == {"compile/http.py", "ads/references.py", "compile/tracing.py"}


def test_the_edge_tells_the_app_who_called() -> None:
    manager = _Manager()
    connection_manager(name="edge", inbound=False, edge=Edge()).typed_config.Unpack(manager)
    assert not manager.skip_xff_append
    assert manager.xff_num_trusted_hops == 0
    assert not manager.preserve_external_request_id
