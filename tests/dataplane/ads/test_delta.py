"""Delta sessions, message by message."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.delta import DeltaSession
from dataplane.ads.sotw import SotwSession
from dataplane.ads.table import ResourceTable
from dataplane.compile.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    ResourceKey,
    Update,
)
from schemas.records import Nack
from tests.dataplane.ads import xds

A, B = xds.cluster("a"), xds.cluster("b")
A2, A3 = xds.cluster("a", timeout=2), xds.cluster("a", timeout=3)
EA, EB = xds.endpoints("a", 1), xds.endpoints("b", 2)
L, R = xds.listener("l", 1, "r"), xds.routes("r", {"/": "a"})
SHORT = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS", EXTENSION: "ECDS", SECRET: "SDS"}
LONG = {short: long for long, short in SHORT.items()}

Said = list[tuple[str, list[str], list[str]]]


class Talk:
    """A client that says what it is told to, and notes what it hears as (type, resources, removed)."""

    def __init__(self, *resources: Resource) -> None:
        self.table = ResourceTable()
        if resources:
            self.table.apply(Update(1, resources))
        self.session = DeltaSession(self.table)
        self.nonces: dict[str, str] = {}

    def ask(self, kind: str, *names: str, drop: Sequence[str] = (), holds: Sequence[Resource] = ()) -> Said:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=LONG[kind],
            resource_names_subscribe=names,
            resource_names_unsubscribe=drop,
            initial_resource_versions={one.key.name: one.version for one in holds},
        )
        return self._heard(self.session.on_request(request))

    def ack(self, kind: str, refusal: str = "", nonce: str = "") -> Said:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=LONG[kind], response_nonce=nonce or self.nonces[kind])
        if refusal:
            request.error_detail.message = refusal
        return self._heard(self.session.on_request(request))

    def update(self, revision: int, *changed: Resource, removed: Sequence[ResourceKey] = ()) -> Said:
        change = self.table.apply(Update(revision, changed, tuple(removed)))
        return self._heard(self.session.on_update(change))

    def _heard(self, responses: Sequence[discovery_pb2.DeltaDiscoveryResponse]) -> Said:
        for response in responses:
            self.nonces[SHORT[response.type_url]] = response.nonce
        return [
            (SHORT[one.type_url], [resource.name for resource in one.resources], list(one.removed_resources))
            for one in responses
        ]


def running() -> Talk:
    """A client that has everything of a, and acked it."""
    talk = Talk(A, EA, L, R)
    talk.ask("CDS")
    talk.ack("CDS")
    talk.ask("EDS", "a")
    talk.ack("EDS")
    talk.ask("LDS")
    talk.ack("LDS")
    talk.ask("RDS", "r")
    talk.ack("RDS")
    assert talk.session.acked_revision == 1
    return talk


def test_nothing_is_said_before_the_first_update_not_even_that_there_is_nothing() -> None:
    talk = Talk()
    assert talk.ask("CDS", holds=[A]) == []
    assert talk.session.acked_revision == 0
    assert talk.update(4, A) == []
    assert talk.session.held_back_since is None


def test_a_starting_client_is_answered_even_when_there_is_nothing() -> None:
    talk = Talk(R)
    assert talk.ask("CDS") == [("CDS", [], [])]


def test_what_has_to_wait_is_not_answered_as_empty_meanwhile() -> None:
    talk = Talk(A, EA, L, R)
    talk.ask("CDS")
    assert talk.ask("LDS") == []
    talk.ask("EDS", "a")
    talk.ack("EDS")
    assert talk.ack("CDS") == [("LDS", ["l"], [])]


def test_wildcards_get_all_and_names_get_what_they_name() -> None:
    for wildcard in ((), ("*",)):
        assert Talk(A, B, EA, EB).ask("CDS", *wildcard) == [("CDS", ["a", "b"], [])]
    assert Talk(A, B, EA, EB).ask("CDS", "b") == [("CDS", ["b"], [])]
    assert Talk(A, B, EA, EB).ask("EDS", "a") == [("EDS", ["a"], [])]


def test_a_name_that_does_not_exist_is_answered_at_once_and_sent_when_it_does() -> None:
    talk = Talk(A)
    assert talk.ask("CDS", "c", "a") == [("CDS", ["a"], ["c"])]
    assert talk.ack("CDS") == []
    assert talk.update(2, xds.cluster("c")) == [("CDS", ["c"], [])]


def test_acked_revision_waits_for_children_that_were_not_even_asked_for() -> None:
    talk = Talk(A, EA, L, R)
    seen = [talk.session.acked_revision]
    for step in ("CDS", "EDS", "LDS", "RDS"):
        talk.ask(step, *{"EDS": ["a"], "RDS": ["r"]}.get(step, []))
        talk.ack(step)
        seen.append(talk.session.acked_revision)
    assert seen == [0, 0, 0, 0, 1]


def test_what_nothing_refers_to_is_no_consequence() -> None:
    talk = running()
    assert talk.update(2, xds.endpoints("nobody", 1), xds.routes("nobody", {})) == []
    assert talk.session.acked_revision == 2


@pytest.mark.parametrize("acked", [True, False], ids=["gone", "going"])
def test_a_chain_that_comes_back_is_not_judged_by_filters_from_before(acked: bool) -> None:
    """Envoy stays subscribed to them for as long as it drains the chain, and takes them at once where it is back."""
    talk, judged, plain = running(), xds.tcp_listener("t", 2, "t"), xds.listener("t", 2, "r")
    assert talk.update(2, judged, xds.extension("t", "a")) == [("LDS", ["t"], [])]
    talk.ack("LDS")
    assert talk.ask("ECDS", "t") == [("ECDS", ["t"], [])]
    talk.ack("ECDS")
    assert talk.update(3, plain, removed=[ResourceKey(EXTENSION, "t")]) == [("LDS", ["t"], [])]
    assert talk.ack("LDS") == [("ECDS", [], ["t"])]
    if acked:
        talk.ack("ECDS")
        assert talk.update(4, judged, xds.extension("t", "b")) == [("ECDS", ["t"], [])]
    else:
        assert talk.update(4, judged, xds.extension("t", "b")) == []
        assert talk.ack("ECDS") == [("ECDS", ["t"], [])]
    assert talk.ack("ECDS") == [("LDS", ["t"], [])]


def test_updates_in_flight_collapse_to_the_newest() -> None:
    talk = running()
    assert talk.update(2, EB, xds.endpoints("a", 2)) == [("EDS", ["a"], [])]
    assert talk.update(3, xds.endpoints("a", 3)) == []
    assert talk.update(4, xds.endpoints("a", 4)) == []
    assert talk.session.acked_revision == 1
    assert talk.ack("EDS") == [("EDS", ["a"], [])]
    assert talk.session.acked_revision == 2
    assert talk.ack("EDS") == []
    assert talk.session.acked_revision == 4


def test_back_to_what_it_has_while_nothing_was_sent_is_nothing_to_send() -> None:
    talk = running()
    talk.update(2, A2)
    talk.update(3, A3)
    talk.update(4, A2)
    assert talk.ack("CDS") == []


def test_stale_nonces_change_nothing() -> None:
    talk = running()
    old = talk.nonces["EDS"]
    talk.update(2, xds.endpoints("a", 2))
    assert talk.ack("EDS", nonce=old) == []
    assert talk.ack("EDS", "no", nonce=old) == []
    assert (talk.session.acked_revision, talk.session.nacks) == (1, ())


def test_change_set_that_moves_a_route_to_a_new_cluster_goes_step_by_step() -> None:
    talk = running()
    routes = xds.routes("r", {"/": "b"})
    assert talk.update(2, B, EB, routes, removed=[A.key, EA.key]) == [("CDS", ["b"], [])]
    assert talk.ask("EDS", "b") == [("EDS", ["b"], [])], "before the ack of the cluster, which waits for it"
    assert talk.ack("EDS") == [], "the cluster is not acked, so not warm"
    assert talk.ack("CDS") == [("RDS", ["r"], [])]
    assert talk.session.acked_revision == 1
    assert talk.ack("RDS") == [("CDS", [], ["a"])]
    assert talk.ask("EDS", drop=["a"]) == []
    assert talk.ack("CDS") == []
    assert talk.session.acked_revision == 2


def test_routes_wait_for_a_subscription_that_the_cluster_brings_but_not_for_ever() -> None:
    talk = running()
    talk.update(2, B, EB, xds.routes("r", {"/": "b"}))
    assert talk.ack("CDS") == [], "acked, as by a starting Envoy, but its endpoints were not asked for yet"
    assert talk.session.held_back_since == 2
    change = [(SHORT[one.type_url], one.resources[0].name) for one in talk.session.stop_waiting()]
    assert change == [("RDS", "r")]
    assert talk.session.held_back_since is None


def test_endpoints_follow_their_changed_cluster() -> None:
    assert running().update(2, A2) == [("CDS", ["a"], []), ("EDS", ["a"], [])]


def test_a_lone_culprit_is_named_kept_and_not_sent_again_until_it_changes() -> None:
    talk = running()
    talk.update(7, A2)
    assert talk.ack("CDS", "I don't like it") == []
    nack = Nack(type_url=CLUSTER, resource="a", message="I don't like it", revision=7)
    assert talk.session.nacks == (nack,)
    assert talk.update(8, xds.endpoints("x", 1)) == []
    assert talk.session.acked_revision == 1
    talk.ack("EDS")
    assert talk.update(9, A3) == [("CDS", ["a"], []), ("EDS", ["a"], [])]
    assert not talk.session.nacks  # what was refused is wanted no more
    assert talk.session.acked_revision == 1
    talk.ack("EDS")
    talk.ack("CDS")
    assert not talk.session.nacks
    assert talk.session.acked_revision == 9


def test_a_culprit_is_cleared_by_going_back_to_what_the_client_kept() -> None:
    talk = running()
    talk.update(2, R, xds.routes("r", {"/": "b"}))
    talk.ack("RDS", "no")
    assert talk.update(3, R) == []
    assert (talk.session.nacks, talk.session.acked_revision) == ((), 3)


def test_a_refused_batch_is_split_until_the_culprit_is_alone() -> None:
    talk = Talk(*(xds.cluster(name) for name in "abcd"))
    assert talk.ask("CDS") == [("CDS", ["a", "b", "c", "d"], [])]
    assert talk.ack("CDS", "something") == [("CDS", ["a", "b"], [])]
    assert not talk.session.nacks
    assert talk.ack("CDS") == [("CDS", ["c", "d"], [])]
    assert talk.ack("CDS", "something") == [("CDS", ["c"], [])]
    assert talk.ack("CDS", "c is bad") == [("CDS", ["d"], [])]
    assert talk.ack("CDS") == []
    assert [nack.resource for nack in talk.session.nacks] == ["c"]


def test_changed_cluster_gets_the_last_good_endpoints_when_the_newest_were_refused() -> None:
    talk = running()
    talk.update(2, xds.endpoints("a", 2))
    talk.ack("EDS", "no")
    change = talk.session.on_update(talk.table.apply(Update(3, (A2,))))
    assert [one.resources[0].resource.value for one in change] == [A2.body, EA.body]
    talk.ack("EDS", nonce=change[1].nonce)
    assert [nack.resource for nack in talk.session.nacks] == ["a"]


def test_clusters_that_are_not_acked_are_sent_again_as_they_are_by_now() -> None:
    talk = running()
    assert talk.update(2, A2) == [("CDS", ["a"], []), ("EDS", ["a"], [])]
    talk.ack("EDS")
    assert talk.update(3, A3) == [], "one at a time"
    assert talk.session.held_back_since == 3
    [clusters, endpoints] = talk.session.stop_waiting()
    assert clusters.resources[0].version == A3.version
    talk.ack("CDS", nonce=clusters.nonce)
    talk.ack("EDS", nonce=endpoints.nonce)
    assert talk.session.acked_revision == 3


def test_clusters_stay_while_a_refused_route_leaves_the_older_one_at_work() -> None:
    talk = running()
    talk.update(2, B, EB, xds.routes("r", {"/": "b"}), removed=[A.key, EA.key])
    talk.ask("EDS", "b")
    talk.ack("EDS")
    talk.ack("CDS")
    assert talk.ack("RDS", "no") == [], "cluster a is what the older routes lead to"
    assert talk.update(3, xds.routes("r", {"/": "b", "/b": "b"})) == [("RDS", ["r"], [])]
    assert talk.ack("RDS") == [("CDS", [], ["a"])]


def test_reconnect_sends_only_what_differs_and_takes_away_last() -> None:
    talk = Talk(A2, B, EA, EB, L, R)
    gone = xds.cluster("gone")
    assert talk.ask("CDS", holds=[A, B, gone]) == [("CDS", ["a"], [])]
    assert talk.ask("EDS", "a", "b", holds=[EA, EB]) == [("EDS", ["a", "b"], [])], "a cluster may be waiting for them"
    assert talk.ask("LDS", holds=[L]) == []
    assert talk.ack("EDS") == []
    assert talk.ack("CDS") == [], "its routes were not heard of, and may lead to what is gone"
    assert talk.ask("RDS", "r", holds=[R]) == [("CDS", [], ["gone"])]
    assert talk.session.acked_revision == 0
    assert talk.ack("CDS") == []
    assert talk.session.acked_revision == 1


def test_unsubscribed_names_are_not_sent_and_are_sent_when_asked_for_again() -> None:
    talk = running()
    assert talk.ask("EDS", drop=["a"]) == []
    assert talk.update(2, xds.endpoints("a", 5)) == []
    assert talk.ask("EDS", "a") == [("EDS", ["a"], [])]


def test_a_revision_that_goes_back_is_not_taken_for_acked() -> None:
    talk = running()
    talk.update(100, xds.endpoints("a", 2))
    talk.update(50, xds.endpoints("a", 3))
    assert talk.session.acked_revision == 0
    talk.ack("EDS")
    talk.ack("EDS")
    assert talk.session.acked_revision == 50


def test_unknown_types_are_left_unanswered() -> None:
    session = DeltaSession(ResourceTable())
    assert session.on_request(discovery_pb2.DeltaDiscoveryRequest(type_url="type.googleapis.com/x.Y")) == []


# State of the world: what differs from delta.


def sotw(session: SotwSession, kind: str, *names: str, nonce: str = "", refusal: str = "") -> list[tuple[str, int]]:
    request = discovery_pb2.DiscoveryRequest(type_url=LONG[kind], resource_names=names, response_nonce=nonce)
    if refusal:
        request.error_detail.message = refusal
    return [(one.nonce, len(one.resources)) for one in session.on_request(request)]


def test_sotw_clusters_are_the_full_set_each_time_and_endpoints_only_what_changed() -> None:
    table = ResourceTable()
    table.apply(Update(1, (A, B, EA, EB)))
    session = SotwSession(table)
    assert sotw(session, "CDS") == [("1", 2)]
    assert sotw(session, "EDS", "a", "b") == [("2", 2)]
    sotw(session, "EDS", "a", "b", nonce="2")
    sotw(session, "CDS", nonce="1")
    [clusters, endpoints] = session.on_update(table.apply(Update(2, (A2,))))
    assert [len(clusters.resources), len(endpoints.resources)] == [2, 1]
    sotw(session, "EDS", "a", "b", nonce=endpoints.nonce)
    sotw(session, "CDS", nonce=clusters.nonce)
    [clusters] = session.on_update(table.apply(Update(3, (), (B.key, EB.key))))
    assert len(clusters.resources) == 1
    sotw(session, "CDS", nonce=clusters.nonce)
    sotw(session, "EDS", "a")
    assert session.acked_revision == 3


def test_sotw_refused_full_set_is_offered_again_in_parts_beside_the_last_good() -> None:
    table = ResourceTable()
    table.apply(Update(1, (A, B)))
    session = SotwSession(table)
    sotw(session, "CDS")
    sotw(session, "CDS", nonce="1")
    [both] = session.on_update(table.apply(Update(2, (A2, xds.cluster("b", timeout=2)))))
    [first] = session.on_request(_nack(both.nonce))
    assert [one.value for one in first.resources] == [A2.body, B.body]
    [second] = session.on_request(_nack(first.nonce))
    assert [one.value for one in second.resources] == [A.body, xds.cluster("b", timeout=2).body]
    sotw(session, "CDS", nonce=second.nonce)
    assert [nack.resource for nack in session.nacks] == ["a"]


def _nack(nonce: str) -> discovery_pb2.DiscoveryRequest:
    request = discovery_pb2.DiscoveryRequest(type_url=CLUSTER, response_nonce=nonce)
    request.error_detail.message = "no"
    return request


# On demand: Envoy takes all clusters, asks for one more by name, and holds requests until it comes.


def test_who_takes_all_clusters_and_asks_for_one_that_does_not_exist_is_kept_waiting() -> None:
    talk = running()
    assert talk.ask("CDS", "orders") == []
    assert talk.session.held_requests == {"orders"}
    assert talk.update(2, xds.endpoints("a", 9)) == [("EDS", ["a"], [])]
    assert talk.session.acked_sequence == 1
    talk.ack("EDS")
    assert talk.session.acked_sequence == 2
    assert talk.session.held_requests == {"orders"}
    assert talk.update(2, xds.cluster("orders")) == [("CDS", ["orders"], [])]
    assert talk.session.held_requests == frozenset()


def test_who_comes_back_and_waits_for_a_cluster_waits_on() -> None:
    talk = Talk(A, EA)
    assert talk.ask("CDS", "*", "orders", holds=[A]) == []
    assert talk.session.held_requests == {"orders"}
    talk.ask("CDS", drop=["orders"])
    assert talk.session.held_requests == frozenset()
