"""The example states, reached in every way: the configuration is a function of the state, never of the way to it.

Where a value can't be read, the last good one of its key stays in force, on purpose: that is history. So a way that
leads through a good value to an unreadable one is compared with the same state only. Of revocations the highest serial
that ever came is in force, on purpose too: what is compared with has heard it first.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from dataplane.compile.workload import VirtualNetwork, Workload
from dataplane.watch.events import Changes, Delete, Put
from schemas.keys import DataRef
from tests.properties.sidecar import PREFIXES, Sidecar, difference, from_listings, one_by_one, whole
from tests.states.build import KEYS, ORDERS, WEB, State, listings, locality, workload
from tests.states.edges import CERTIFICATES, GATEWAY
from tests.states.examples import STATES

Events = list[Put | Delete]
Way = Callable[[Events, int], list[Changes]]


def as_known(state: State) -> State:
    """`state` without keys outside of what is watched."""
    kept = {key: value for key, value in state.values.items() if key.startswith(PREFIXES)}
    return State(state.name, state.about, kept, state.workload)


ALL = [as_known(state) for state in STATES]
BY_NAME = {state.name: state for state in ALL}


@functools.cache
def readable(name: str) -> bool:
    state = BY_NAME[name]
    return not from_listings(state.workload, state.values).mesh.quarantine


@functools.cache
def comparable(name: str) -> bool:
    state = BY_NAME[name]
    unreadable = from_listings(state.workload, state.values).mesh.quarantine
    return all(key.startswith(KEYS.revocations()) for key in unreadable)


def twice(events: Events, revision: int) -> list[Changes]:
    return [one for one in whole(events, revision) for _ in range(2)]


def backwards(events: Events, revision: int) -> list[Changes]:
    return one_by_one(list(reversed(events)), revision)


def shuffled(events: Events, revision: int) -> list[Changes]:
    mixed = random.Random(revision).sample(events, len(events))
    return one_by_one(mixed, revision)


WAYS: dict[str, Way] = {
    "whole": whole,
    "twice": twice,
    "one by one": one_by_one,
    "backwards": backwards,
    "shuffled": shuffled,
}


def walk(states: list[State], way: Way, who: State) -> Sidecar:
    sidecar = from_listings(who.workload, states[0].values, learnt=who.learnt)
    revision = 10
    for before, after in itertools.pairwise(states):
        for changes in way(difference(before.values, after.values, revision), revision):
            sidecar.take(changes)
        if comparable(after.name) and comparable(before.name):
            sidecar.check_is(after.values)
        else:
            sidecar.check()
        revision += 1000
    return sidecar


def with_what_is_unreadable(states: list[State]) -> list[list[State]]:
    """Each run of states in which something is, from the state before it to the second one after it."""
    found: list[list[State]] = []
    at = 0
    for is_readable, group in itertools.groupby(states, key=lambda state: readable(state.name)):
        length = len(list(group))
        if not is_readable:
            found.append(states[max(at - 1, 0) : at + length + 2])
        at += length
    return found


# All pairs would be a few thousand; neighbours are walked through by `test_one_state_after_the_other`. Here every state
# is an end once, and a beginning once.
_BEGINNINGS = random.Random(29).sample(ALL, len(ALL))
PAIRS = list(zip(_BEGINNINGS, [*_BEGINNINGS[7:], *_BEGINNINGS[:7]], strict=True))


def viewer(name: str, who: Workload) -> State:
    """A sidecar that has all that any state asks of a host, and whose app has called what any state's has."""
    learnt = sorted({authority for state in ALL for authority in state.learnt})
    everything = replace(
        who,
        locality=locality("eu/a"),
        virtual=VirtualNetwork(ipv6=True),
        gateway=GATEWAY,
        certificates=CERTIFICATES,
        system_ca="/etc/ssl/certs/ca-certificates.crt",
    )
    return State(name, "", {}, everything, tuple(learnt))


VIEWERS = [viewer("of orders", workload(ORDERS)), viewer("of web", workload(WEB))]


@pytest.mark.parametrize("who", VIEWERS, ids=lambda who: who.name)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["forwards", "reversed"])
def test_one_state_after_the_other(order: str, way: str, who: State) -> None:
    states = ALL if order == "forwards" else ALL[::-1]
    walk([state for state in states if readable(state.name)], WAYS[way], who)
    for around in with_what_is_unreadable(states):
        walk(around, WAYS[way], who)


def test_every_state_is_replayed_with_all_that_is_watched() -> None:
    assert {after.name for _, after in PAIRS} == {before.name for before, _ in PAIRS} == set(BY_NAME)
    for state, replayed in zip(STATES, ALL, strict=True):
        left_out = state.values.keys() - replayed.values.keys()
        assert not [key for key in left_out if isinstance(KEYS.parse(key), DataRef)], state.name


def test_pairs() -> None:
    for before, after in PAIRS:
        walk([before, after], shuffled, VIEWERS[0])


def test_squashed() -> None:
    """A sidecar that was away sees only the end: a new listing, over whatever it knew."""
    for before, after in PAIRS:
        sidecar = from_listings(VIEWERS[0].workload, before.values, learnt=VIEWERS[0].learnt)
        for listing in listings(after.values, 2000):
            sidecar.take(listing)
        if comparable(after.name):
            sidecar.check_is(after.values)
        else:
            sidecar.check()


def test_there_and_back() -> None:
    """A detour leaves nothing behind."""
    clean = [state for state in ALL if readable(state.name)]
    for home in (state for state in clean if state.name in ("shop-allowed", "policies", "missing-references")):
        walk([home, *(state for away in clean for state in (away, home))], whole, VIEWERS[0])


def test_nothing_is_said_of_what_does_not_concern() -> None:
    """Services outside of its dependencies change nothing for a sidecar."""
    shop = next(state for state in ALL if state.name == "shop")
    elsewhere = next(state for state in ALL if state.name == "several-ports")
    cart = {key: value for key, value in elsewhere.values.items() if b"/cart" in key}
    sidecar = from_listings(shop.workload, shop.values)
    for changes in whole(difference({}, cart, 20), 20):
        update = sidecar.take(changes)
        assert (update.changed, update.removed) == ((), ())
