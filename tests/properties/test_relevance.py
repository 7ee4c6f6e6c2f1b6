"""A sidecar that keeps only what is relevant to it comes to the same configuration as one that keeps everything."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.compile.compiler import Compiler
from dataplane.pipeline import Demand, Pipeline
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Changes, Dropped, Listing, Put
from schemas import codec
from schemas.names import ObjectRef, ServiceRef
from schemas.records import Revocation
from tests.properties.sidecar import EDGE, PREFIXES, Sidecar, difference, hear, last_words
from tests.properties.strategies import items
from tests.properties.test_incremental import believable
from tests.states.build import CREDENTIALS, KEYS, need, service

authorities = st.sampled_from(["web", "cart.shop", "web.back.mesh:8080", "nobody"])
steps = st.lists(st.tuples(st.lists(st.tuples(items, st.booleans()), max_size=3), authorities | st.none()), max_size=10)


class Watched:
    """A pipeline, and an etcd that follows what it wants."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(MeshState(KEYS), Compiler(EDGE, credentials=CREDENTIALS))
        self.values: dict[bytes, bytes] = {}
        self.revisions: dict[bytes, int] = {}
        self.revision = 1
        self.watched: set[bytes] = set()
        self.heard: dict[bytes, Revocation] = {}
        self.settle()

    def put(self, after: Mapping[bytes, bytes]) -> None:
        self.revision += 1
        events = difference(self.values, after, self.revision)
        self.values = dict(after)
        hear(self.heard, Changes(KEYS.revocations(), self.revision, tuple(events)))
        self.revisions |= {one.key: self.revision for one in events}
        for prefix in sorted(self.watched):
            mine = tuple(one for one in events if one.key.startswith(prefix))
            self.pipeline.take(Changes(prefix, self.revision, mine))
        self.settle()

    def settle(self) -> None:
        while True:
            wanted, again = self.pipeline.wanted(), self.pipeline.to_list_again()
            for prefix in sorted(self.watched - wanted):
                self.pipeline.take(Dropped(prefix))
            for prefix in sorted((wanted - self.watched) | again):
                self.pipeline.take(self.listing(prefix))
            if self.watched == wanted and not again:
                break
            self.watched = set(wanted)
        assert self.pipeline.build() is not None

    def listing(self, prefix: bytes) -> Listing:
        puts = (Put(key, value, self.revisions[key]) for key, value in sorted(self.values.items()))
        return Listing(prefix, self.revision, tuple(one for one in puts if one.key.startswith(prefix)))

    def check(self) -> None:
        everything = Sidecar(EDGE)
        for authority in self.pipeline.compiler.learnt:
            everything.learn(authority, detour=False)
        everything.take(last_words(self.heard))
        for prefix in PREFIXES:
            everything.take(self.listing(prefix))
        assert self.pipeline.compiler.resources() == everything.compiler.resources()
        assert self.pipeline.compiler.problems() == everything.compiler.problems()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps, st.booleans())
def test_what_is_dropped_makes_no_difference(
    history: list[tuple[list[tuple[tuple[bytes, bytes], bool]], str | None]], declared: bool
) -> None:
    watched = Watched()
    own = service("orders", needs=[need("web"), need("cart.back")] if declared else None)
    watched.put({KEYS.object(own.ref): codec.encode(own)})
    for step, authority in history:
        after = dict(watched.values)
        for (key, value), delete in step:
            if delete:
                after.pop(key, None)
            else:
                after[key] = value
        if not believable(after):
            continue  # what a bad value leaves in force is a matter of history
        watched.put(after)
        if authority is not None:
            watched.pipeline.take(Demand(authority))
            watched.settle()
        watched.check()


def test_memory_is_that_of_the_dependencies() -> None:
    watched = Watched()
    own = service("orders", needs=[need(f"dependency-{number}") for number in range(10)])
    objects = [own, *(service(f"dependency-{number}") for number in range(10))]
    objects += [service(f"other-{number}.elsewhere") for number in range(1000)]
    watched.put({KEYS.object(one.ref): codec.encode(one) for one in objects})
    assert len(watched.pipeline.state.stored) == 11
    watched.check()

    watched.put(
        {**watched.values, KEYS.object(own.ref): codec.encode(service("orders", needs=[need("other-7.elsewhere")]))}
    )
    kept = {KEYS.parse(key) for key in watched.pipeline.state.stored}
    assert kept == {ObjectRef("Service", "shop", "orders"), ObjectRef("Service", "elsewhere", "other-7")}
    assert ServiceRef("elsewhere", "other-7") in watched.pipeline.compiler.scope.named
    watched.check()
