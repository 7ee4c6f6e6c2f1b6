"""When whom was seen last, from counters of an Envoy that may start anew, by an agent that may too."""

from __future__ import annotations

from dataplane.plaintext_seen import MAX_SOURCES_TOLD, TELL_EVERY_S, PlaintextSeen, read
from schemas.records import PlaintextPort, PlaintextSource

EXPOSITION = """# TYPE envoy_mesh_plaintext_all_seen counter
envoy_mesh_plaintext_all_seen{port="8080"} 3
envoy_mesh_plaintext_seen{port="8080",source="10.0.0.1"} 2
envoy_mesh_plaintext_seen{port="8080",source="2001:db8::1"} 1
envoy_mesh_plaintext_seen{port="x",source="10.0.0.1"} 1
envoy_mesh_requests{port="8080"} 9
"""


def test_envoys_counters_are_read() -> None:
    assert read(EXPOSITION) == {(8080, ""): 3, (8080, "10.0.0.1"): 2, (8080, "2001:db8::1"): 1}


def test_what_grew_was_seen_and_is_told_once_in_a_while() -> None:
    seen = PlaintextSeen()
    seen.open([80, 81], 100)
    assert seen.said() == (PlaintextPort(port=80, since=100), PlaintextPort(port=81, since=100))
    assert not seen.take({}, 110)
    assert seen.take({(80, ""): 2, (80, "a"): 2}, 120)
    told = PlaintextPort(
        port=80, since=100, last_seen=120, signs=2, counted=2, sources=(PlaintextSource(address="a", last_seen=120),)
    )
    assert seen.said()[0] == told
    assert not seen.take({(80, ""): 3, (80, "a"): 3}, 120 + TELL_EVERY_S - 1)
    assert seen.said()[0] == told, "each report is a write in etcd"
    assert seen.take({(80, ""): 4, (80, "a"): 4}, 120 + TELL_EVERY_S)
    assert (seen.said()[0].last_seen, seen.said()[0].signs) == (120 + TELL_EVERY_S, 4)
    assert seen.take({(80, ""): 5, (80, "a"): 4, (80, "b"): 1}, 151), "somebody new is news at once"
    assert [one.address for one in seen.said()[0].sources] == ["b", "a"]
    seen.open([81], 152)
    assert [one.port for one in seen.said()] == [81]


def test_of_many_addresses_the_latest_are_told() -> None:
    seen = PlaintextSeen()
    seen.open([80], 0)
    for number in range(20):
        seen.take({(80, ""): number + 1, (80, f"10.0.0.{number}"): 1}, 1000 * number)
    sources = seen.said()[0].sources
    assert [one.address for one in sources] == [f"10.0.0.{19 - one}" for one in range(MAX_SOURCES_TOLD)]
    assert not seen.take({(80, ""): 20}, 99_999), "nobody came meanwhile"


def test_an_envoy_that_starts_anew_counts_from_nothing() -> None:
    seen = PlaintextSeen()
    seen.open([80], 0)
    seen.take({(80, ""): 7, (80, "a"): 7}, 10)
    seen.take({}, 100)  # it says nothing of a counter that is still 0
    assert (seen.said()[0].last_seen, seen.said()[0].signs) == (10, 7)
    assert seen.take({(80, ""): 7, (80, "a"): 7}, 200), "as many as the Envoy before it had counted"
    assert (seen.said()[0].last_seen, seen.said()[0].signs) == (200, 14)
    assert seen.said()[0].sources == (PlaintextSource(address="a", last_seen=200),)
    second = PlaintextSeen.restored(seen.said())
    second.open([80], 300)
    second.take({}, 300)
    assert second.take({(80, ""): 7}, 400), "nor with an agent of its own"
    assert second.said()[0].last_seen == 400


def test_a_port_that_opens_again_makes_up_nobody() -> None:
    """Its counters are those of the same Envoy, which does not forget."""
    seen = PlaintextSeen()
    seen.open([80], 0)
    counts = {(80, ""): 5, (80, "a"): 5}
    seen.take(counts, 10)
    seen.open([], 20)
    seen.open([80], 5000)
    assert seen.take(counts, 5001)
    assert seen.said() == (PlaintextPort(port=80, since=5000, counted=5),)
    assert seen.take({(80, ""): 6, (80, "b"): 1, (80, "a"): 5}, 5002)
    assert seen.said()[0].sources == (PlaintextSource(address="b", last_seen=5002),)


def test_an_agent_that_starts_anew_goes_on() -> None:
    before = PlaintextPort(
        port=80, since=5, last_seen=50, signs=7, counted=7, sources=(PlaintextSource(address="a", last_seen=50),)
    )
    seen = PlaintextSeen.restored([before])
    seen.open([80, 81], 60)
    assert seen.said() == (PlaintextPort(port=81, since=60),), "who came meanwhile is not known before Envoy is asked"
    assert seen.take({(80, ""): 7}, 70), "what was held back is told"
    assert seen.said()[0] == before, "Envoy has counted nobody since"
    assert not seen.take({(80, ""): 7}, 80)
    assert seen.take({(80, ""): 8}, 90)
    assert (seen.said()[0].last_seen, seen.said()[0].since) == (90, 5)


def test_what_came_before_an_agent_is_not_dated_by_it() -> None:
    """It does not know the counters of single addresses; of the port, the one that it was told."""
    before = PlaintextPort(
        port=80, since=0, last_seen=10, signs=3, counted=3, sources=(PlaintextSource(address="a", last_seen=10),)
    )
    seen = PlaintextSeen.restored([before])
    seen.open([80], 5000)
    seen.take({(80, ""): 3, (80, "a"): 2, (80, "b"): 1}, 5000)
    assert seen.said() == (before,)
    assert seen.take({(80, ""): 4, (80, "a"): 2, (80, "b"): 2}, 5001)
    assert [(one.address, one.last_seen) for one in seen.said()[0].sources] == [("b", 5001), ("a", 10)]


def test_who_came_while_no_agent_was_there_counts_from_an_address_that_nobody_knows() -> None:
    before = PlaintextPort(port=80, since=0, last_seen=10, signs=3, counted=3)
    seen = PlaintextSeen.restored([before])
    seen.open([80], 5000)
    assert seen.take({(80, ""): 4, (80, "a"): 4}, 5000)
    assert seen.said() == (PlaintextPort(port=80, since=0, last_seen=5000, signs=4, counted=4),)


def test_an_envoy_that_started_anew_before_its_agent_did_makes_up_nobody() -> None:
    """Signs are summed over Envoys, which each count for themselves."""
    first = PlaintextSeen()
    first.open([80], 0)
    first.take({(80, ""): 7}, 10)
    assert first.said()[0].signs == 7
    first.take({(80, ""): 2}, 100)
    (told,) = first.said()
    assert (told.last_seen, told.signs, told.counted) == (100, 9, 2)
    assert first.take({}, 200), "or the next agent would take two more for those"
    (told,) = first.said()
    assert (told.last_seen, told.signs, told.counted) == (100, 9, 0)
    first.take({(80, ""): 2}, 300)
    (told,) = first.said()
    assert (told.last_seen, told.signs, told.counted) == (300, 11, 2)
    second = PlaintextSeen.restored([told])
    second.open([80], 9000)
    second.take({(80, ""): 2}, 9000)
    assert second.said() == (told,)


def test_the_last_ones_are_told_too_so_that_the_next_agent_does_not_take_them_for_new() -> None:
    seen = PlaintextSeen()
    seen.open([80], 0)
    seen.take({(80, ""): 1}, 100)
    seen.said()
    assert not seen.take({(80, ""): 2}, 105)
    assert seen.take({(80, ""): 2}, 100 + TELL_EVERY_S)
    assert (seen.said()[0].last_seen, seen.said()[0].counted) == (105, 2)
    assert not seen.take({(80, ""): 2}, 9000)
