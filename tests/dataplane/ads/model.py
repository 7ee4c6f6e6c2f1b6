"""A client that obeys Envoy's rules, as far as they matter to who serves it. All that it does is visible and immediate.

Rules, each seen in a real Envoy (see test_envoy.py):
- it subscribes to a cluster's endpoints when it gets the cluster, to its secrets when it has got the endpoints;
- a changed cluster warms beside the old one, until endpoints come that were sent after it;
- the ack of clusters is withheld while any is warming, once the first ones are warm; only then it asks for listeners;
- a listener warms until it has its routes and filters; these, and secrets, are shared by name;
- a filter that is taken away is gone at once, and connections to the listeners that had it are closed; routes stay;
- after refused endpoints no cluster waits for endpoints any more;
- of a refused response, good clusters and listeners are kept; of other types, what came before the bad one;
- on a new stream it says what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.order import TYPES, WILDCARD_TYPES
from dataplane.ads.references import children_of
from dataplane.compile.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    ResourceKey,
)

Request: TypeAlias = discovery_pb2.DeltaDiscoveryRequest
Response: TypeAlias = discovery_pb2.DeltaDiscoveryResponse


class ModelEnvoy:
    def __init__(self, refuses: set[str]) -> None:
        self.refuses = refuses
        """Versions that it finds bad."""
        self.held: dict[str, dict[str, Resource]] = {kind: {} for kind in TYPES}
        self.asked: list[str] = []
        self.names: dict[str, set[str]] = {kind: set() for kind in TYPES}
        self.active: dict[str, dict[str, Resource]] = {CLUSTER: {}, LISTENER: {}}
        self.without_endpoints: set[str] = set()
        """Clusters that have got no endpoints since they were last received."""
        self.outgoing: deque[Request] = deque()
        self._withheld: Request | None = None

    # The stream.

    def connect(self) -> None:
        """A new stream: everything that it is subscribed to, and what it holds of it."""
        self.outgoing.clear()
        self._withheld = None
        for kind in self.asked or [CLUSTER]:
            versions = {name: held.version for name, held in self.held[kind].items()}
            request = Request(type_url=kind, initial_resource_versions=versions)
            request.resource_names_subscribe.extend(sorted(self.names[kind]))
            self.outgoing.append(request)
        if not self.asked:
            self.asked.append(CLUSTER)

    def receive(self, response: Response) -> None:
        kind = response.type_url
        bad = [entry.name for entry in response.resources if entry.version in self.refuses]
        for entry in response.resources:
            if entry.name in bad:
                if kind in WILDCARD_TYPES:
                    continue
                break
            self._take(Resource(ResourceKey(kind, entry.name), entry.version, entry.resource.value))
        if not bad:
            for name in response.removed_resources:
                self._drop(kind, name)
        elif kind == ENDPOINTS:
            self.without_endpoints.clear()  # all that wait for endpoints are told of the failure, and wait no longer
        answer = Request(type_url=kind, response_nonce=response.nonce)
        if bad:
            answer.error_detail.code = 3
            answer.error_detail.message = f"bad: {', '.join(bad)}"
        was_running = LISTENER in self.asked
        self._settle()
        if kind == CLUSTER and was_running and self.warming(CLUSTER):
            self._withheld = answer
        else:
            self.outgoing.append(answer)
        if not was_running and not self.warming(CLUSTER):
            self._ask(LISTENER, set())

    @property
    def withholds(self) -> bool:
        """It has an answer ready that it sends when its clusters are warm."""
        return self._withheld is not None

    def time_out(self) -> None:
        """It waits no longer for what its clusters warm with (initial_fetch_timeout)."""
        for name in self.warming(CLUSTER):
            self.active[CLUSTER][name] = self.held[CLUSTER][name]
        self._settle()

    # What it does with what it got.

    def _take(self, resource: Resource) -> None:
        kind, name = resource.key
        if kind == CLUSTER and self.held[kind].get(name) != resource:
            self.without_endpoints.add(name)
        if kind == ENDPOINTS:
            self.without_endpoints.discard(name)
        if kind in WILDCARD_TYPES or name in self.names[kind]:
            self.held[kind][name] = resource

    def _drop(self, kind: str, name: str) -> None:
        if kind in WILDCARD_TYPES:
            self.active[kind].pop(name, None)
            self.held[kind].pop(name, None)
            self.without_endpoints.discard(name)
        elif kind == ENDPOINTS:
            self.without_endpoints.discard(name)  # a cluster without endpoints is ready to answer 503
        elif kind == EXTENSION:
            self.held[kind].pop(name, None)  # at once, from listeners in use too; routes it keeps

    def warming(self, kind: str) -> set[str]:
        return {name for name, held in self.held[kind].items() if self.active[kind].get(name) != held}

    def _settle(self) -> None:
        """Subscribe to what is needed, unsubscribe from what is not, make active what is complete."""
        self._subscribe()
        for kind in (CLUSTER, LISTENER):
            for name in self.warming(kind):
                children = children_of(self.held[kind][name])
                if name not in self.without_endpoints and all(
                    child.type_url == ENDPOINTS or child.name in self.held[child.type_url] for child in children
                ):
                    self.active[kind][name] = self.held[kind][name]
        self._subscribe()
        if self._withheld is not None and not self.warming(CLUSTER):
            self.outgoing.append(self._withheld)
            self._withheld = None

    def _subscribe(self) -> None:
        wanted: dict[str, set[str]] = {ENDPOINTS: set(), ROUTES: set(), EXTENSION: set(), SECRET: set()}
        for kind in (CLUSTER, LISTENER):
            for parent in (*self.held[kind].values(), *self.active[kind].values()):
                for child in children_of(parent):
                    if child.type_url == SECRET and parent.key.name in self.without_endpoints:
                        continue
                    wanted[child.type_url].add(child.name)
        for kind, names in wanted.items():
            if names != self.names[kind]:
                self._ask(kind, names)

    def _ask(self, kind: str, names: set[str]) -> None:
        request = Request(type_url=kind)
        request.resource_names_subscribe.extend(sorted(names - self.names[kind]))
        request.resource_names_unsubscribe.extend(sorted(self.names[kind] - names))
        for name in self.names[kind] - names:
            self.held[kind].pop(name, None)
        self.names[kind] = names
        if kind not in self.asked:
            self.asked.append(kind)
        self.outgoing.append(request)

    # What its users meet.

    def broken_routes(self) -> Iterator[str]:
        """Clusters that a request or a connection can be led to now and that can't take it; and filters that are gone
        from listeners in use, which so lead nowhere."""
        for listener in self.active[LISTENER].values():
            for child in children_of(listener):
                routes = self.held[ROUTES].get(child.name)
                if routes is not None:
                    message = route_pb2.RouteConfiguration.FromString(routes.body)
                    used = {route.route.cluster for host in message.virtual_hosts for route in host.routes}
                    yield from used - self.active[CLUSTER].keys()
                if child.type_url != EXTENSION:
                    continue
                extension = self.held[EXTENSION].get(child.name)
                if extension is None:  # it had one, or it would not be in use
                    yield f"{child.name}, a filter that is gone"
                    continue
                config = extension_pb2.TypedExtensionConfig.FromString(extension.body).typed_config
                yield from {tcp_proxy_pb2.TcpProxy.FromString(config.value).cluster} - self.active[CLUSTER].keys()
