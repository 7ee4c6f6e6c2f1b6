"""[edge] Names for the app of this sidecar: its DNS server, wired to what the sidecar knows.

app ─▶ DnsServer ─▶ Names ─┬─▶ the state, of what the sidecar holds
                           ├─▶ etcd, of all else; forgotten when a change of it passes by
                           └─▶ delivery: what the app is about to call comes into scope before it is answered
"""

from collections import Counter
from collections.abc import Callable

import trio

from dataplane.compile import virtual
from dataplane.compile.workload import VirtualNetwork
from dataplane.config import SidecarSettings
from dataplane.delivery import Delivery
from dataplane.dns.forward import Forwarder, ResolvConf
from dataplane.dns.names import Names
from dataplane.dns.server import DnsServer, Unknown
from dataplane.dns.upstreams import Server
from dataplane.dns.zone import Named
from dataplane.pipeline import Demand
from dataplane.snapshot.reading import read
from dataplane.watch.events import Changes, Event
from routing.names import HOST_SUFFIX
from schemas.errors import Corrupt, Unavailable
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import ExternalService, Mesh, Service
from trio_etcd import Client, EtcdError, Get, RangeResult

_NAMED_KINDS = (Service.__name__, ExternalService.__name__)
# Seconds that an answer waits for Envoy to listen at the address. It takes milliseconds; who asks waits for 5 s.
LEARN_S = 2.0
LOOKUP_S = 2.0


class Naming:
    """One run of it. number: a random one of 16 bits, fit for secrets."""

    def __init__(self, settings: SidecarSettings, delivery: Delivery, etcd: Client, number: Callable[[], int]) -> None:
        if settings.names is None:
            raise ValueError("without `names` in the settings there is no DNS")
        self._listen = Server.parse(settings.names_listen)
        self._delivery = delivery
        self._etcd = etcd
        self._network = delivery.pipeline.compiler.workload.virtual or VirtualNetwork()
        self._names = Names(self._held, self._look_up, self._use)
        upstream = [Server.parse(one) for one in settings.names.upstream]
        servers = (lambda: upstream) if upstream else ResolvConf(self._listen).servers
        namespace = delivery.pipeline.compiler.workload.service.namespace
        self._server = DnsServer(namespace, self._names.find, Forwarder(servers, number))
        delivery.on_event = self.taken

    @property
    def counts(self) -> Counter[str]:
        """Queries by how they ended."""
        return self._server.counts

    async def run(self, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever; started when it answers. Raises Unavailable where it can't listen."""
        try:
            await self._server.run(self._listen, task_status)
        except OSError as error:
            raise Unavailable(f"can't serve names on {self._listen}: {error}; see `names.listen`") from error

    def taken(self, event: Event | Demand) -> None:
        """The state has it."""
        keyspace = self._delivery.pipeline.state.keyspace
        if isinstance(event, Demand) or event.prefix != keyspace.config():
            return
        if not isinstance(event, Changes):
            self._names.forget_all()
            return
        for ref in (keyspace.parse(one.key) for one in event.events):
            if isinstance(ref, ObjectRef) and ref.kind == Mesh.__name__:
                self._names.forget_all()
            elif isinstance(ref, ObjectRef) and ref.kind in _NAMED_KINDS:
                self._names.forget([ServiceRef(ref.namespace, ref.name)])

    def _held(self, service: ServiceRef) -> Named | None:
        pipeline = self._delivery.pipeline
        declared = pipeline.state.destination(service)
        if declared is not None:
            return self._named(declared)
        listed = self._delivery.from_last_good or pipeline.state.keyspace.config() in pipeline.state.listed
        if listed and all(pipeline.relevance().keeps(ref) for ref in _refs(service)):
            return None
        raise KeyError(service)

    async def _look_up(self, service: ServiceRef) -> Named | None:
        keyspace = self._delivery.pipeline.state.keyspace
        refs = {keyspace.object(ref): ref for ref in _refs(service)}
        try:
            answered = await self._etcd.txn([], [Get(key) for key in refs], timeout=LOOKUP_S)
        except EtcdError as error:
            raise Unknown(f"etcd does not say whether there is {service}: {error}") from error
        for result in answered.results:
            for kv in result.kvs if isinstance(result, RangeResult) else ():
                try:
                    found = read(refs[kv.key], kv.value)
                except Corrupt as error:
                    raise Unknown(str(error)) from error
                if isinstance(found, Service | ExternalService):
                    return self._named(found)
        return None

    def _named(self, declared: Service | ExternalService) -> Named:
        ranges, address = self._delivery.pipeline.state.virtual_ranges(), declared.spec.virtual_address
        here = virtual.local(address, ranges, self._network) if ranges is not None and address is not None else None
        ipv4, ipv6 = here or (None, None)
        return Named(ipv4, ipv6, {port.name: port.port for port in declared.spec.ports})

    async def _use(self, service: ServiceRef) -> None:
        scope = self._delivery.pipeline.compiler.scope
        if service not in scope.virtual and (scope.on_demand or scope.everything):
            with trio.move_on_after(LEARN_S):
                await self._delivery.learn(f"{service}.{HOST_SUFFIX}")


def _refs(service: ServiceRef) -> list[ObjectRef]:
    return [ObjectRef(kind, service.namespace, service.name) for kind in _NAMED_KINDS]
