"""What to send next to one client: the part of a session that delta and state-of-the-world ADS share.

                      ┌───────────────── Interest, one a type ──────────────────┐
    update ─ changed ─▶ owed ── batches, in the order of order.py ──▶ in flight ─ accept ─▶ held
    request ─ subscribe ─▶ ▲                                             │
                           └──────── split in two ◀──────── refuse ──────┴─ alone ─▶ refused

At most one batch of a type is in flight, so updates meanwhile collapse to the newest. Desired state is the shared
`ResourceTable`. Nothing is sent before the table has had its first update: an agent that has just started must not
take away what Envoy still serves with.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from dataplane.ads.interest import Batch, Interest, Owed
from dataplane.ads.order import RESENT_WITH_PARENT, STEPS, TYPES, WILDCARD_TYPES, Act, Step
from dataplane.ads.table import Change, ResourceTable, Since
from dataplane.compile.resources import CLUSTER, EXTENSION, LISTENER, ROUTES, Resource, ResourceKey
from schemas.records import Nack

MAX_BATCH_BYTES = (
    2 << 20
)  # gRPC clients take 4 MiB by default; half of it leaves room for framing and one large resource


class Push:
    """Interests of one client against the desired state of `table`. Every method that changes something is followed
    by a call of `batches`."""

    def __init__(self, table: ResourceTable) -> None:
        self._table = table
        self._interests = {type_url: Interest() for type_url in TYPES}
        self.held_requests: set[str] = set()
        """Clusters that don't exist and that the client asks for by name although it takes all: Envoy does so on demand
        (envoy.filters.http.on_demand), and holds requests until they exist."""
        self._base = Since(table.sequence, 0)  # all that was there before us is owed, and nothing known to be acked
        self._nonces = 0
        self._awaited: dict[ResourceKey, dict[ResourceKey, Since]] = {}
        """Child, parent, since when: the client was given `parent` and will subscribe to `child` because of it."""
        self._waited_enough = -1
        """Nothing new is held back any more for what was owed since this place in the order of updates, or before."""
        self._resuming = False
        self._sent_again_for: int | None = None
        self._removals_first = False
        """For one round, after clusters were given up on: what they were blocked by may be one that is to go."""

    def interest(self, type_url: str) -> Interest | None:
        """None for a type that the mesh does not serve."""
        return self._interests.get(type_url)

    # What the client says.

    def subscribe(
        self, type_url: str, names: Iterable[str], *, wildcard: bool = False, holds: Mapping[str, str] | None = None
    ) -> None:
        """Add a subscription. `holds`, name to version, is what the client has kept from an earlier stream."""
        interest = self._interests[type_url]
        names = list(names)
        for name, version in (holds or {}).items():
            present = self._table.get(type_url, name)
            if present is None or present.version != version:
                present = Resource(ResourceKey(type_url, name), version, b"")  # its body is the client's alone
            interest.held[name] = present
        now = self._table.sequence
        # Of clusters and listeners nothing is known to be acked before the first request; others follow from those.
        since = Since(now, 0 if type_url in WILDCARD_TYPES and not interest.asked else self._table.revision)
        interest.asked = True
        interest.names.update(names)
        for name in names:
            on_demand = type_url == CLUSTER and (wildcard or interest.wildcard)
            if on_demand and self._table.get(CLUSTER, name) is None and not interest.may_hold(name):
                self.held_requests.add(name)
                continue
            key = ResourceKey(type_url, name)
            again = name not in interest.held or holds is None or type_url in RESENT_WITH_PARENT
            interest.owe(name, min([since, *self._awaited.pop(key, {}).values()]), now, again=again)
        if wildcard and not interest.wildcard:
            interest.wildcard = True
            interest.answer_empty = not holds
            for name in self._table.names(type_url):
                interest.owe(name, since, now)
        if holds:
            self._resuming = self._resuming or type_url == CLUSTER
            # It kept that from before this stream: what came meanwhile must not take away what that leads to.
            kept = since._replace(sequence=self._base.sequence)
            for name, resource in interest.held.items():
                interest.owe(name, kept, now)
                self._expect_children(resource, kept)

    def unsubscribe(self, type_url: str, names: Iterable[str], *, wildcard: bool = False) -> None:
        """Drop a subscription; what only it covered counts as gone from the client."""
        interest = self._interests[type_url]
        names = set(names)
        interest.names -= names
        if type_url == CLUSTER:
            self.held_requests -= names
        if wildcard:
            interest.wildcard = False
            names |= interest.held.keys() | interest.owed.keys() | interest.offered | interest.refused.keys()
        if interest.wildcard:
            # The name is still covered: the protocol wants it sent, or its absence, so that the client knows.
            for name in names:
                interest.owe(name, Since(self._table.sequence, self._table.revision), self._table.sequence, again=True)
        else:
            interest.forget(names - interest.names)

    def acknowledge(self, type_url: str, nonce: str) -> None:
        """The client accepted the batch in flight; any other nonce is stale and changes nothing."""
        interest = self._interests[type_url]
        if interest.in_flight is not None and interest.in_flight.nonce == nonce:
            interest.accept(interest.in_flight)

    def refuse(self, type_url: str, nonce: str, message: str) -> None:
        """The client refused the batch in flight and keeps what it had."""
        interest = self._interests[type_url]
        if interest.in_flight is not None and interest.in_flight.nonce == nonce:
            interest.refuse(interest.in_flight, message, self._table.sequence)

    # What the mesh says.

    def changed(self, change: Change) -> None:
        """The table has changed."""
        for key in change.keys:
            if key.type_url == CLUSTER:
                self.held_requests.discard(key.name)
            interest = self._interests.get(key.type_url)
            if interest is not None and interest.covers(key.name):
                interest.owe(key.name, change.since, self._table.sequence)

    # What to send.

    def batches(self) -> list[Batch]:
        """All that may be sent now; each is in flight from here on."""
        if self._table.sequence == 0:
            return []
        self._settle()
        result: list[Batch] = []
        outstanding: Mapping[tuple[str, Act], int] | None = None  # found out when first needed: mostly nothing is owed
        steps = sorted(STEPS, key=lambda step: step.act is not Act.REMOVE) if self._removals_first else STEPS
        self._removals_first = False
        for step in steps:
            interest = self._interests[step.type_url]
            nothing = not interest.owed and not interest.answer_empty
            if nothing or not interest.asked or interest.in_flight is not None:
                continue
            if outstanding is None:
                outstanding = self._outstanding_kinds()
            batch = self._next_batch(step, interest, outstanding)
            if batch is not None:
                interest.in_flight = batch
                interest.answer_empty = False
                interest.offered.update(resource.key.name for resource in batch.resources)
                for resource in batch.resources:
                    self._expect_children(resource, batch.owed[resource.key.name].since)
                result.append(batch)
                outstanding = None
        return result

    def _settle(self) -> None:
        """Strike out what is owed no longer: held by now, refused as it is, or gone without ever having been there."""
        for type_url, interest in self._interests.items():
            for name in list(interest.refused):
                wanted, held = self._table.get(type_url, name), interest.held.get(name)
                if (held is not None and held.version) == (wanted is not None and wanted.version) and (
                    held is not None or not interest.may_hold(name)
                ):
                    del interest.refused[name]  # it has what is desired, or nothing, as is desired
            if not interest.owed or interest.in_flight is not None:
                continue  # what it holds is not known before the answer
            for name, owed in list(interest.owed.items()):
                wanted, held = self._table.get(type_url, name), interest.held.get(name)
                version = wanted.version if wanted else None
                if interest.refuses(name, version):
                    # A changed parent waits for it all the same: it gets the last good one, or word that there is none.
                    if not owed.again or type_url not in RESENT_WITH_PARENT or (held is not None and not held.body):
                        del interest.owed[name]
                elif not owed.again and (
                    held.version == version if held else wanted is None and not interest.may_hold(name)
                ):
                    del interest.owed[name]

    def _act(self, type_url: str, interest: Interest, name: str) -> Act:
        """Telling that a name does not exist breaks nothing, so it goes with what is put."""
        gone = self._table.get(type_url, name) is None and interest.may_hold(name)
        return Act.REMOVE if gone else Act.PUT

    def _outstanding_kinds(self) -> dict[tuple[str, Act], int]:
        """By kind of thing, since which update the oldest of it is outstanding: owed, in flight or awaited."""
        oldest: dict[tuple[str, Act], int] = {}

        def note(kind: tuple[str, Act], since: Since) -> None:
            oldest[kind] = min(since.sequence, oldest.get(kind, since.sequence))

        for type_url, interest in self._interests.items():
            for name, owed in interest.owed.items():
                note((type_url, self._act(type_url, interest, name)), owed.since)
            if interest.in_flight is not None:
                for owed in interest.in_flight.owed.values():
                    note((type_url, interest.in_flight.act), owed.since)
        for child, parent, since in self._expected():
            # A listener waits for its own secrets by itself; nobody else has to.
            if parent.type_url == CLUSTER or child.type_url in (ROUTES, EXTENSION):
                note((child.type_url, Act.PUT), since)
        return oldest

    def _next_batch(self, step: Step, interest: Interest, outstanding: Mapping[tuple[str, Act], int]) -> Batch | None:
        blocking = [outstanding[kind] for kind in step.acked if kind in outstanding]
        if step.act is Act.PUT:
            # New things may be late for a while only; the old must stay for as long as anything may use it.
            blocking = [sequence for sequence in blocking if sequence > self._waited_enough]
        limit = min(blocking, default=math.inf)
        if step.act is Act.REMOVE and step.type_url == CLUSTER and self._unheard_of():
            return None
        if any(self._interests[type_url].keeps_older for type_url in step.not_refused):
            return None
        eligible = {
            name: owed
            for name, owed in interest.owed.items()
            if owed.newest < limit and self._act(step.type_url, interest, name) is step.act
        }
        if not eligible and (interest.owed or not interest.answer_empty or step.act is not Act.PUT):
            return None
        owed: dict[str, Owed] = {}
        resources: list[Resource] = []
        removed: list[str] = []
        size = 0
        for name in sorted(interest.choose(eligible)):
            resource = self._table.get(step.type_url, name)
            if resource is not None and interest.refuses(name, resource.version):
                resource = interest.held.get(name)
            size += len(resource.body) if resource else len(name)
            if owed and size > MAX_BATCH_BYTES:
                break
            owed[name] = interest.owed.pop(name)
            if resource is not None:
                resources.append(resource)
            else:
                removed.append(name)
        self._nonces += 1
        revision = self._table.revision
        if len(resources) == 1:
            revision = self._table.revision_of(resources[0].key)
        return Batch(step.type_url, step.act, str(self._nonces), revision, tuple(resources), tuple(removed), owed)

    # Children that the client will ask for.

    def _expect_children(self, parent: Resource, since: Since) -> None:
        if self._table.get(*parent.key) is not parent:
            return  # an earlier version, known by name only; the present one will be sent
        for child in self._table.children(parent.key):
            interest = self._interests[child.type_url]
            if not interest.covers(child.name):
                parents = self._awaited.setdefault(child, {})
                parents[parent.key] = min(since, parents.get(parent.key, since))
            elif child.type_url in RESENT_WITH_PARENT:
                interest.owe(child.name, since, self._table.sequence, again=True)

    def _expected(self) -> Iterator[tuple[ResourceKey, ResourceKey, Since]]:
        """Child, parent, since when: children not asked for yet although they exist and their parent was not refused.

        Forgets those that no parent names any more.
        """
        for child, parents in list(self._awaited.items()):
            for parent, since in list(parents.items()):
                interest = self._interests[parent.type_url]
                if child not in self._table.children(parent) or not interest.covers(parent.name):
                    del parents[parent]
                    continue
                refusal = interest.refused.get(parent.name)
                present = self._table.get(*parent)
                refused = refusal is not None and present is not None and refusal.version == present.version
                if not refused and self._table.get(*child) is not None:
                    yield child, parent, since
            if not parents:
                del self._awaited[child]

    def _unheard_of(self) -> bool:
        """A client that came back with clusters has routes and filters that may use them; it has not yet said which."""
        kinds = (LISTENER, ROUTES, *([EXTENSION] if self._table.names(EXTENSION) else []))
        return self._resuming and not all(self._interests[kind].asked for kind in kinds)

    @property
    def held_back_since(self) -> int | None:
        """The place in the order of updates of the oldest thing that is held back for the sake of the order, or behind
        clusters that are not acked; None: nothing is. No progress while it stays the same: see `stop_waiting`."""
        return min(
            (
                owed.since.sequence
                for type_url, interest in self._interests.items()
                if interest.asked and (interest.in_flight is None or type_url == CLUSTER)
                for owed in interest.owed.values()
            ),
            default=None,
        )

    def stop_waiting(self) -> None:
        """To be called when `held_back_since` has stayed the same for too long.

        First, clusters that are not acked are sent again as they are desired by now: Envoy withholds the ack while any
        cluster is warming, and what it warms with may have been replaced since. If that does not help, the order is
        given up for what is held back: a moment of 503 is better than no updates, of policies say.
        """
        clusters = self._interests[CLUSTER]
        stuck = self.held_back_since
        if clusters.in_flight is not None and clusters.owed and self._sent_again_for != stuck:
            self._removals_first = clusters.in_flight.act is Act.PUT  # what is behind may be what helps
            clusters.abandon(self._table.sequence)
            self._sent_again_for = stuck
            return
        self._sent_again_for = None
        self._waited_enough = self._table.sequence
        self._resuming = False

    # What can be said of the client.

    def _outstanding(self) -> Iterator[Since]:
        for type_url, interest in self._interests.items():
            for owed in interest.owed.values():
                yield owed.since
            for refusal in interest.refused.values():
                yield refusal.since
            if interest.in_flight is not None:
                for owed in interest.in_flight.owed.values():
                    yield owed.since
            if not interest.asked and type_url in WILDCARD_TYPES and self._table.names(type_url):
                yield self._base
        yield from (since for _, _, since in self._expected())

    @property
    def acked_revision(self) -> int:
        """The newest revision whose every consequence the client has acked, 0 for none.

        A resource that the client was never given a reason to subscribe to (nothing that it holds names it, or, for a
        client that asks for clusters or listeners by name, it did not ask) is no consequence: no request can meet it.
        """
        began = self._table.began_anew
        until = (0 if since.sequence <= began else since.acked_until for since in self._outstanding())
        return min(until, default=self._table.revision)

    @property
    def acked_sequence(self) -> int:
        """The newest update, as the table counts them, up to which the client has acked every consequence."""
        return min((since.sequence - 1 for since in self._outstanding()), default=self._table.sequence)

    def is_current(self, type_url: str) -> bool:
        """Whether the client has everything of a type that it uses as it is desired now."""
        interest = self._interests[type_url]
        if not self._table.sequence or interest.owed or interest.in_flight is not None or interest.refused:
            return False
        if not all(self._interests[kind].asked for kind in WILDCARD_TYPES):
            return False  # what it kept from an earlier stream is not known yet
        return not any(child.type_url == type_url for child, _, _ in self._expected())

    def _desired_version(self, type_url: str, name: str) -> str | None:
        resource = self._table.get(type_url, name)
        return resource.version if resource else None

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """What the client refuses as it is now desired, sorted by type and name."""
        refusing = {type_url: one.refused for type_url, one in self._interests.items() if one.refused}
        return tuple(
            Nack(type_url=type_url, resource=name, message=refusal.message, revision=refusal.revision)
            for type_url, refused in sorted(refusing.items())
            for name, refusal in sorted(refused.items())
            if refusal.version == self._desired_version(type_url, name)  # else something else is on its way
        )
