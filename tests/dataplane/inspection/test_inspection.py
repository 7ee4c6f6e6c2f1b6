"""What is told of any state, and that no difference goes unseen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from dataplane import lastgood
from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, ResourceKey
from dataplane.inspection.differ import differences
from dataplane.inspection.running import MESSAGES, modelled, running
from dataplane.inspection.words import described
from tests.states.build import CREDENTIALS, State, compiled, mesh_of
from tests.states.examples import STATES

_LISTS = {
    CLUSTER: ("dynamic_active_clusters", "cluster"),
    ENDPOINTS: ("dynamic_endpoint_configs", "endpoint_config"),
    ROUTES: ("dynamic_route_configs", "route_config"),
    EXTENSION: ("ecds_filters", "ecds_filter"),
    SECRET: ("dynamic_active_secrets", "secret"),
}


def messages_of(state: State) -> dict[ResourceKey, Any]:
    return modelled(compiled(state.workload, mesh_of(state.values), learnt=state.learnt).resources())


def dump_of(messages: dict[ResourceKey, Any]) -> dict[str, Any]:
    """As Envoy lays it out."""
    parts: dict[str, list[Any]] = {}
    for key, message in messages.items():
        content = json_format.MessageToDict(message, preserving_proto_field_name=True) | {"@type": key.type_url}
        if key.type_url == LISTENER:
            entry: dict[str, Any] = {"name": key.name, "active_state": {"listener": content}}
            parts.setdefault("dynamic_listeners", []).append(entry)
        else:
            listed, inner = _LISTS[key.type_url]
            parts.setdefault(listed, []).append({inner: content})
    return {"configs": [{name: entries} for name, entries in parts.items()]}


SHOP, BOUND = (next(state for state in STATES if state.name == name) for name in ("shop-web", "routes-tcp"))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_every_state_is_told_and_is_like_itself(state: State) -> None:
    messages = messages_of(state)
    mesh = mesh_of(state.values)
    sections = described(messages, mesh, state.workload)
    told = [one for section in sections.values() for one in section]
    assert len(told) == len(messages)
    for one in told:
        assert one.does, one.name
        assert one.origin, one.name
    assert differences(running(dump_of(messages)).messages, messages) == []
    assert CREDENTIALS.key_pem.decode() not in str(sections)


def test_a_cluster_is_told_with_its_object_and_the_identity_it_insists_on() -> None:
    clusters = described(messages_of(SHOP), mesh_of(SHOP.values), SHOP.workload)["clusters"]
    orders = next(one for one in clusters if one.name.startswith("outbound|orders.shop|"))
    assert "Service shop/orders" in orders.origin
    assert "spiffe://mesh.test/ns/shop/svc/orders" in orders.does[0]


@pytest.mark.parametrize("kind", [CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET])
def test_what_one_side_lacks_is_told(kind: str) -> None:
    model = messages_of(BOUND if kind == EXTENSION else SHOP)
    key = next(key for key in sorted(model) if key.type_url == kind and model[key].ByteSize())
    less = {other: one for other, one in model.items() if other != key}
    assert [(one.name, one.how) for one in differences(less, model)] == [(key.name, "missing")]
    assert [(one.name, one.how) for one in differences(model, less)] == [(key.name, "extra")]


def test_another_field_is_told_with_both_values() -> None:
    model = messages_of(SHOP)
    runs = copy.deepcopy(model)
    key = next(key for key in sorted(runs) if key.type_url == CLUSTER and key.name.startswith("outbound|"))
    runs[key].connect_timeout.seconds = 77
    (found,) = differences(runs, model)
    assert (found.name, found.how) == (key.name, "other")
    assert "connect_timeout: runs 77s, the model says 2s" in str(found)


def test_another_address_is_told() -> None:
    model = messages_of(SHOP)
    runs = copy.deepcopy(model)
    key = next(key for key in sorted(runs) if key.type_url == ENDPOINTS and runs[key].endpoints)
    runs[key].endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "10.9.9.9"
    (found,) = differences(runs, model)
    assert "10.9.9.9" in str(found)


def test_what_envoy_refused_is_told_and_what_drains_is_not_counted() -> None:
    messages = messages_of(SHOP)
    dump = dump_of(messages)
    (part,) = (part for part in dump["configs"] if "dynamic_listeners" in part)
    part["dynamic_listeners"][0]["error_state"] = {"details": "address in use"}
    gone = {"name": "old", "draining_state": {"listener": {"name": "old"}}}
    part["dynamic_listeners"].append(gone)
    routes = next(part for part in dump["configs"] if "dynamic_route_configs" in part)
    routes["dynamic_route_configs"].append({"route_config": {"name": "old"}})
    found = running(dump)
    assert found.refused == {part["dynamic_listeners"][0]["name"]: "address in use"}
    assert differences(found.messages, messages) == []


def test_a_field_of_a_newer_envoy_does_not_matter() -> None:
    messages = messages_of(SHOP)
    dump = json.loads(json.dumps(dump_of(messages)))
    clusters = next(part for part in dump["configs"] if "dynamic_active_clusters" in part)
    clusters["dynamic_active_clusters"][0]["cluster"]["field_of_tomorrow"] = 1
    assert differences(running(dump).messages, messages) == []


def test_last_good_leads_to_the_same_model(tmp_path: Path) -> None:
    state = mesh_of(SHOP.values)
    path = tmp_path / "last-good"
    lastgood.write_file(path, lastgood.dump(state, now=1))
    saved = lastgood.read_file(path)
    assert saved is not None
    again = modelled(compiled(SHOP.workload, lastgood.restore(saved)).resources())
    assert differences(again, messages_of(SHOP)) == []
    assert MESSAGES.keys() == {CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET}
