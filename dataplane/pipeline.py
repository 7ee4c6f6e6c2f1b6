"""Events in, updates out: the pure middle of the sidecar, snapshot and compile together.

Nothing is given out until every prefix that the workload needs has been listed: a configuration made of half a mesh
would take away what works. The same holds when the workload's dependencies change and more prefixes are asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dataplane.compile import authorization
from dataplane.compile.compiler import Compiler
from dataplane.compile.reach import reached
from dataplane.compile.resources import Update
from dataplane.compile.scope import Scope
from dataplane.compile.tokens import places_of_keys
from dataplane.compile.workload import Credentials, KeyPair
from dataplane.snapshot.relevance import Relevance, routes_from
from dataplane.snapshot.state import Change, MeshState
from dataplane.watch.events import Changes, Delete, Dropped, Event, Listing
from schemas.errors import Problem
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import (
    ROUTE_KINDS,
    AuthorizationPolicy,
    Gateway,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    Telemetry,
)
from schemas.objects.common import CertificateFiles
from schemas.records import TrustBundle

# What is wanted, and what is relevant, does not depend on these: rules of the own ports.
_OF_RULES = frozenset((AuthorizationPolicy.__name__, PeerAuthentication.__name__, RateLimitPolicy.__name__))
# A route, or a gateway's, may lead to services that nobody declared; so may spans.
_LEADING = (*ROUTE_KINDS, Gateway.__name__, Telemetry.__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """Envoy holds a request to `authority`, of which it knows nothing yet."""

    authority: str


def base_prefixes(state: MeshState) -> frozenset[bytes]:
    """What every sidecar watches."""
    return frozenset(
        (state.keyspace.config(), state.keyspace.trust(), state.keyspace.revocations(), state.keyspace.epoch())
    )


@dataclass(slots=True)
class Pipeline:
    state: MeshState
    compiler: Compiler
    _pending: list[Change] = field(default_factory=list)
    _built: bool = False
    _learning: list[str] = field(default_factory=list)
    _wanted_by: tuple[Service | None, int, tuple[ServiceRef, ...]] = (None, -1, ())
    """The declaration, the number of authorities learnt, and what is in scope by its hosts."""
    _scope: Scope = field(default_factory=Scope)
    _services: frozenset[ServiceRef] = frozenset()
    """What is in scope, and what routes lead to from there; meaningless where everything is in scope."""
    _wants_callers: bool = False
    _again: set[bytes] = field(default_factory=set)
    _wanted: frozenset[bytes] = frozenset()
    _relevance: Relevance | None = None
    """None: something has come since that may say something else of it, and of what is wanted."""

    def take(self, event: Event | Demand) -> bool:
        """One event of the watch stage, or from Envoy. True where it shows that etcd was restored: everything must be
        listed again."""
        if isinstance(event, Demand):
            relevance = self.relevance()
            if self.compiler.learn(event.authority):
                self._learning.append(event.authority)
                self._relevance = None
                self._follow(relevance)
            return False
        before = self.state.epoch
        if isinstance(event, Dropped) or event.prefix != self.state.keyspace.config():
            self._apply(event)
        elif isinstance(event, Listing):
            self._take_listing(event)
        else:
            relevance = self.relevance()
            events = tuple(one for one in event.events if self._keeps(relevance, one.key))
            self._apply(replace(event, events=events))
            self._follow(relevance)
        return before is not None and self.state.epoch not in (None, before)

    def permissive_ports(self) -> tuple[int, ...]:
        """Of the own Service, those that take plaintext."""
        own = self.compiler.workload.service
        service = self.state.service(own)
        ports = service.spec.ports if service is not None else ()
        return tuple(port.port for port in ports if authorization.is_permissive(self.state, own, port))

    def relevance(self) -> Relevance:
        """What the state keeps of the configuration, by what is known so far."""
        if self._relevance is None:
            self._find_wanted()
            services = None if self._scope.everything else self._services
            own = self.compiler.workload.service
            self._relevance = Relevance(own, services, routes_from(self.state.gateways(own)), self._scope.hosted_in)
        return self._relevance

    def to_list_again(self) -> frozenset[bytes]:
        """Prefixes under which more has become relevant than was kept; each is said once."""
        again, self._again = frozenset(self._again), set()
        return again

    def _take_listing(self, listing: Listing) -> None:
        """What it holds says what is relevant in it: the own Service, then what that one depends on."""
        while True:
            relevance = self.relevance()
            items = tuple(one for one in listing.items if self._keeps(relevance, one.key))
            self._apply(replace(listing, items=items))
            if self.relevance() == relevance:
                return

    def _keeps(self, relevance: Relevance, key: bytes) -> bool:
        return relevance.services is None or relevance.keeps(self.state.keyspace.parse(key))

    def _follow(self, before: Relevance) -> None:
        """Forget what is relevant no longer, and ask for what has become relevant."""
        after, config = self.relevance(), self.state.keyspace.config()
        if after == before:
            return
        if after.wants_more_than(before):
            self._again.add(config)
            self.state.listed.discard(config)
        kept = (*self.state.stored, *self.state.quarantine)
        gone = sorted({key for key in kept if key.startswith(config) and not self._keeps(after, key)})
        self._apply(Changes(config, 0, tuple(Delete(key, 0) for key in gone)))

    def _apply(self, event: Event) -> None:
        changes = self.state.apply(event)
        self._pending += changes
        refs = [change.ref for change in changes if isinstance(change.ref, ObjectRef)]
        if any(ref.kind not in _OF_RULES for ref in refs):
            self._relevance = None
        if any(map(self._leads, refs)):
            self._wanted = frozenset()

    def _leads(self, ref: ObjectRef) -> bool:
        """Whether it may ask for something beside the configuration."""
        if ref.kind == RequestAuthentication.__name__:
            return ref.namespace == self.compiler.workload.service.namespace
        return ref.kind in _LEADING

    def wanted(self) -> frozenset[bytes]:
        """The prefixes that the workload needs now. It grows by the first listing, which says on whom it depends."""
        self.relevance()
        return self._wanted

    def _find_wanted(self) -> None:
        service = self.compiler.workload.service
        declared, learnt = self.state.service(service), len(self.compiler.learnt)
        hosted = tuple(self.state.hosted(self._scope.hosted_in))
        by_declaration = declared is not self._wanted_by[0] or learnt != self._wanted_by[1]
        changed = not self._wanted or by_declaration or hosted != self._wanted_by[2]
        if changed:
            self._scope = self.compiler.wanted_scope(self.state)
            hosted = tuple(self.state.hosted(self._scope.hosted_in))
            self._wanted_by = (declared, learnt, hosted)
            if not self._scope.everything:
                led_to = reached(self.state, self._scope, self.compiler.workload)
                self._services = self._scope.named.union(led_to, hosted)
        callers = bool(self.state.zone_bound if self._scope.everything else self.state.zone_bound & self._services)
        if changed or callers != self._wants_callers:
            self._wants_callers = callers
            self._wanted = self._wanted_for({service} if callers else set())

    def _wanted_for(self, callers: set[ServiceRef]) -> frozenset[bytes]:
        """callers: the own service, where what a zone gets depends on the instances of it."""
        keyspace = self.state.keyspace
        keys = {keyspace.key_set(one) for one in places_of_keys(self.state, self.compiler.workload.service)}
        if self._scope.everything:
            return base_prefixes(self.state) | keys | {keyspace.endpoints()}
        return base_prefixes(self.state) | keys | {keyspace.endpoints_of(one) for one in self._services | callers}

    @property
    def complete(self) -> bool:
        """Whether all that is wanted has been listed."""
        return self.wanted() <= self.state.listed

    def build(self, *, from_last_good: bool = False) -> Update | None:
        """What the events since the last one make of the configuration; None while something is still to be listed.

        from_last_good: what the state holds was complete when it was saved, and nobody answers who knows better.
        """
        if not (from_last_good or self.complete):
            return None
        changes, self._pending = self._pending, []
        if not self._built:
            self._built = True
            return self.compiler.rebuild(self.state)
        return self.compiler.update(self.state, changes)

    def learnt(self) -> list[str]:
        """What the last update of `build` has taken in of what was demanded, each once: as soon as Envoy has acked that
        update, the detours to them may be opened."""
        learning, self._learning = self._learning, []
        return learning

    def open_detours(self, authorities: list[str]) -> Update:
        return self.compiler.open_detours(self.state, authorities)

    def set_identity(self, credentials: Credentials, bundle: TrustBundle, *, expired: bool = False) -> Update | None:
        """A new SVID goes out at once, and what its end means; None before the first configuration, which holds it."""
        if self._built:
            return self.compiler.set_identity(self.state, credentials, bundle, expired=expired)
        self.compiler.credentials, self.compiler.first_bundle, self.compiler.expired = credentials, bundle, expired
        return None

    def set_ends_open(self, ends_open: bool) -> Update | None:
        """Whether the agent can end what is open, by now; None where that is no news, or before the first
        configuration, which holds it."""
        compiler = self.compiler
        if ends_open == compiler.workload.ends_open:
            return None
        if self._built:
            return compiler.set_ends_open(self.state, ends_open)
        compiler.workload = replace(compiler.workload, ends_open=ends_open)
        return None

    def set_certificates(self, certificates: Mapping[CertificateFiles, KeyPair]) -> Update:
        """What the files of this host hold by now, those that `certificates_wanted` names; after a first `build`."""
        return self.compiler.set_certificates(self.state, certificates)

    @property
    def certificates_wanted(self) -> Mapping[CertificateFiles, str]:
        """As of the last update, each with who asks for it."""
        return self.compiler.certificates_wanted

    @property
    def trust_sequence(self) -> int:
        """Of the own trust domain's bundle that the newest configuration trusts by."""
        found = (self.state.trust_bundle(self.compiler.workload.trust_domain), self.compiler.first_bundle)
        return max((bundle.sequence for bundle in found if bundle is not None), default=0)

    def problems(self) -> list[Problem]:
        return [*self.state.problems(), *self.compiler.problems()]
