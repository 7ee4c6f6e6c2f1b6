"""Random states, acks, refusals and reconnects, between a session and a client that obeys Envoy's rules."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from dataplane.ads.delta import DeltaSession
from dataplane.ads.order import WILDCARD_TYPES
from dataplane.ads.references import children_of
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
from tests.dataplane.ads import xds
from tests.dataplane.ads.model import ModelEnvoy, Response
from tests.support.pki import Authority

LEAVES = [Authority.create().issue(f"secret {number}") for number in range(2)]
BODIES = 3  # versions of one resource
CLUSTERS = "abc"
CLIENT_WAITS = 3  # it waits 15 s, the session 5
WAITS = 12  # each unblocks something, of which there is little
LISTENERS = "lm"

State = dict[ResourceKey, Resource]


@st.composite
def destinations(draw: st.DrawFn) -> State:
    """Clusters with their endpoints and secrets."""
    result: list[Resource] = []
    for name in sorted(draw(st.sets(st.sampled_from(CLUSTERS)))):
        secret = draw(st.sampled_from(["", "s", "t"]))
        result.append(xds.cluster(name, timeout=1 + draw(st.integers(0, BODIES - 1)), secret=secret))
        result.append(xds.endpoints(name, 1000 + draw(st.integers(0, BODIES - 1))))
        if secret:
            result.append(xds.secret(secret, draw(st.sampled_from(LEAVES))))
    return {resource.key: resource for resource in result}


@st.composite
def states(draw: st.DrawFn) -> State:
    """Consistent: listeners have routes or a filter, and those lead to clusters."""
    reached = draw(destinations())
    result = list(reached.values())
    clusters = {name for kind, name in reached if kind == CLUSTER}
    for name in sorted(draw(st.sets(st.sampled_from(LISTENERS)))) if clusters else ():
        if draw(st.booleans()):
            result.append(xds.tcp_listener(name, 1000, f"{name} bytes"))
            result.append(xds.extension(f"{name} bytes", draw(st.sampled_from(sorted(clusters)))))
            continue
        route = draw(st.sampled_from(["q", "r"]))
        used = draw(st.lists(st.sampled_from(sorted(clusters)), min_size=1, max_size=2, unique=True))
        result.append(xds.listener(name, 1000, route, prefix=str(draw(st.integers(0, BODIES - 1)))))
        result.append(xds.routes(route, {f"/{index}": one for index, one in enumerate(used)}))
    return {resource.key: resource for resource in result}


@st.composite
def plans(draw: st.DrawFn, min_size: int = 1) -> list[State]:
    """One state after the other; some are the one before, with clusters that are new or changed."""
    result = [draw(states())]
    for is_other in draw(st.lists(st.booleans(), min_size=min_size - 1, max_size=5)):
        result.append(draw(states()) if is_other else _without_unused(result[-1] | draw(destinations())))
    return result


def _without_unused(state: State) -> State:
    used = {child for resource in state.values() for child in children_of(resource)}
    return {key: resource for key, resource in state.items() if key.type_url != SECRET or key in used}


def step(revision: int, before: State, after: State) -> Update:
    changed = tuple(resource for key, resource in sorted(after.items()) if before.get(key) != resource)
    return Update(revision, changed, tuple(sorted(before.keys() - after.keys())))


@dataclass
class World:
    """A session and a client with a queue each way; the test decides which one moves."""

    client: ModelEnvoy
    table: ResourceTable
    session: DeltaSession
    to_client: deque[Response]
    check_routes: bool = True

    @classmethod
    def start(cls, refuses: set[str]) -> World:
        table = ResourceTable()
        world = cls(ModelEnvoy(refuses), table, DeltaSession(table), deque())
        world.client.connect()
        return world

    def move(self, choice: int) -> bool:
        """Let one message arrive, of the queue that `choice` prefers; False when there is none."""
        if not self.client.outgoing and not self.to_client:
            return False
        prefers_server = choice % 2 == 0
        if bool(self.client.outgoing) if prefers_server else not self.to_client:
            self.to_client.extend(self.session.on_request(self.client.outgoing.popleft()))
        else:
            self.client.receive(self.to_client.popleft())
            if self.check_routes:
                assert not list(self.client.broken_routes())
        return True

    def update(self, update: Update) -> None:
        self.to_client.extend(self.session.on_update(self.table.apply(update)))

    def cut(self, *, server_restarts: bool, state: State) -> None:
        """The stream ends; a restarted server knows nothing before its first update."""
        if server_restarts:
            revision = self.table.revision
            self.table = ResourceTable()
            if revision:
                self.table.apply(step(revision, {}, state))
        self.session = DeltaSession(self.table)
        self.to_client.clear()
        self.client.connect()

    def drain(self) -> None:
        """Until nothing moves. Time passes only where it must."""
        for wait in range(1, WAITS):
            while self.move(0):
                pass
            patient = wait % CLIENT_WAITS != 0 or not self.client.withholds
            if (
                patient
                and self.session.held_back_since is not None
                and (self.outdated() or not {ROUTES, EXTENSION}.issubset(self.client.asked))
            ):
                # It came back without routes or filters, and never says whether it has any; or clusters are not acked.
                event("the session waited")
                responses = self.session.stop_waiting()
                if wait > 1 or not any(response.type_url == CLUSTER for response in responses):
                    self.check_routes = False  # it has given up the order, as it must after a while
                self.to_client.extend(responses)
            elif self.client.withholds and self.outdated():
                event("the client waited")
                self.client.time_out()
            else:
                return
        raise AssertionError(f"still held back after waiting {WAITS} times")

    def outdated(self) -> bool:
        """A cluster is warming that is no longer desired as it is: what it waits for may be gone."""
        client = self.client
        return any(self.table.get(CLUSTER, name) != client.held[CLUSTER][name] for name in client.warming(CLUSTER))


def run(world: World, plan: Sequence[State], choices: Sequence[int]) -> State:
    """Play the states with other things in between; then let everything arrive. Gives the last state."""
    state: State = {}
    remaining = deque(choices)
    for revision, after in enumerate(plan, start=1):
        world.update(step(revision, state, after))
        state = after
        while remaining and (choice := remaining.popleft()) < 7:
            if choice == 4:
                world.cut(server_restarts=False, state=state)
            elif choice == 5:
                world.cut(server_restarts=True, state=state)
            elif choice == 6:  # the next changes meet a client that has all of these
                while world.move(0):
                    pass
            else:
                world.move(choice)
    world.drain()
    return state


def state_of(*resources: Resource) -> State:
    return {resource.key: resource for resource in resources}


ONLY_A, ONLY_B = ((xds.cluster(name), xds.endpoints(name, 1000)) for name in "ab")
BYTES = state_of(*ONLY_A, xds.tcp_listener("l", 1000, "l bytes"), xds.extension("l bytes", "a"))
HTTP = state_of(*ONLY_A, xds.listener("l", 1000, "q"), xds.routes("q", {"/": "a"}))
HTTP_B = state_of(*ONLY_B, xds.listener("l", 1000, "q"), xds.routes("q", {"/": "b"}))

CHOICES = st.lists(st.integers(0, 7), max_size=120)


@settings(max_examples=150, deadline=None)
@given(plans(), CHOICES)
# Routes wait for a cluster that came after them; the listener that they replace still needs its filter.
@example([BYTES, HTTP, HTTP | state_of(*ONLY_B)], [6, 7])
# It comes back, and says late what it has; until then it has been taken away, and something else put there.
@example([BYTES, {}, HTTP_B], [6, 4, 0])
def test_client_ends_with_the_desired_state_and_never_routes_to_a_missing_cluster(
    plan: list[State], choices: list[int]
) -> None:
    world = World.start(set())
    state = run(world, plan, choices)
    assert world.session.held_back_since is None, "something waits for ever"
    held = {resource.key: resource for kind in world.client.held.values() for resource in kind.values()}
    assert held == state
    assert not world.client.warming(CLUSTER) | world.client.warming(LISTENER)
    assert world.session.acked_revision == len(plan)
    assert world.session.nacks == ()


@settings(max_examples=150, deadline=None)
@given(plans(), CHOICES, st.data())
def test_what_is_refused_is_named_and_all_else_goes_through(
    plan: list[State], choices: list[int], data: st.DataObject
) -> None:
    everything = sorted(
        {resource for state in plan for resource in state.values()}, key=lambda one: (one.key, one.version)
    )
    # Secrets are left out: what waits for a refused one waits as long as Envoy would.
    candidates = [resource for resource in everything if resource.key.type_url != SECRET]
    bad = data.draw(st.sets(st.sampled_from(candidates))) if candidates else set()
    world = World.start({resource.version for resource in bad})
    # A route to a cluster that was refused when it was new leads nowhere; that is the operator's to repair.
    world.check_routes = not any(resource.key.type_url == CLUSTER for resource in bad)
    state = run(world, plan, choices)
    client, refused = world.client, {(nack.type_url, nack.resource) for nack in world.session.nacks}
    for key, resource in state.items():
        asked = key.type_url in client.asked and (
            key.type_url in WILDCARD_TYPES or key.name in client.names[key.type_url]
        )
        if not asked:
            continue
        held = client.held[key.type_url].get(key.name)
        if resource in bad:
            assert key in refused
            assert held is None or held not in bad
        else:
            assert held == resource
            assert key not in refused
    extra = {key for kind, held in client.held.items() for key in (ResourceKey(kind, name) for name in held)} - set(
        state
    )
    if not any(kind in (CLUSTER, LISTENER, ROUTES, EXTENSION) for kind, _ in refused):
        assert not extra
    assert all(key.type_url in (CLUSTER, ENDPOINTS, SECRET, ROUTES, EXTENSION) for key in extra)
    if refused:
        assert world.session.acked_revision < len(plan)


@settings(max_examples=150, deadline=None)
@given(plans(min_size=2), st.data())
def test_squashed_updates_lead_to_the_same_end(plan: list[State], data: st.DataObject) -> None:
    kept = [*data.draw(st.lists(st.sampled_from(plan[:-1]), max_size=3)), plan[-1]]
    ends = []
    for states_played in (plan, kept):
        world = World.start(set())
        run(world, states_played, [])
        ends.append(world.client.held)
    assert ends[0] == ends[1]
