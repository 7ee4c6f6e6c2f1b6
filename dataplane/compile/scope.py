"""The services that a workload may call, and so all that its sidecar needs to hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dataplane.snapshot.state import MeshState
from schemas.errors import Problem
from schemas.names import SYSTEM_NAMESPACE, ServiceRef
from schemas.objects.service import Service, ServicePort


@dataclass(frozen=True, slots=True)
class BoundPort:
    """A port on the workload's own host that leads to one port of a service."""

    bind_port: int
    service: ServiceRef
    port: int | None
    """None: the only one that the service has."""


@dataclass(frozen=True, slots=True)
class Scope:
    everything: bool = False
    """All that the mesh knows; `named` is what is declared beside it."""
    on_demand: bool = False
    """Nothing is declared: `named` is what the workload turned out to call, and grows."""
    named: frozenset[ServiceRef] = frozenset()
    bound: tuple[BoundPort, ...] = field(default=())
    closed: bool = False
    """Nothing is called, not even by the sidecar itself."""
    gateways: bool = False
    """What the routes of gateways in this sidecar lead to, too."""
    hosted_in: tuple[str, ...] = ()
    """Namespaces whose ExternalServices with `hosts` are in scope: nobody could tell from a host name whose it is, so
    there is nothing to learn."""
    hosts_from: tuple[str, ...] = ()
    """Namespaces whose ExternalServices may say where a host name leads, the first goes before the second; and those
    of `named` where it is declared."""
    virtual: frozenset[ServiceRef] = frozenset()
    """Whom the app may reach at a virtual address. Of everything only what it has asked for by name: a listener for
    each port of ten thousand services would be too much."""

    def holds(self, state: MeshState, service: ServiceRef) -> bool:
        return self.everything or service in self.named or state.is_hosted(service, self.hosted_in)

    def services(self, state: MeshState) -> list[ServiceRef]:
        """Those of the scope that exist, in order."""
        if self.everything:
            return state.destinations()
        return sorted({*(ref for ref in self.named if state.destination(ref)), *state.hosted(self.hosted_in)})

    def rank_of_hosts(self, service: ServiceRef) -> int | None:
        """How much the `hosts` of an ExternalService of the scope count, 0 the most; None: not at all.

        Whoever may write objects of some other namespace must not be able to lead a name elsewhere.
        """
        if service.namespace in self.hosts_from[:1]:
            return 0
        if service in self.named and not self.on_demand:
            return 1
        return 2 if service.namespace in self.hosts_from else None


def scope_of(service: ServiceRef, declared: Service | None, learnt: Iterable[ServiceRef] = ()) -> Scope:
    """What `service` declares, or where it declares nothing, what was learnt; nothing while its Service object does not
    exist."""
    if declared is None:
        return Scope()
    dependencies = declared.spec.dependencies
    near = tuple(dict.fromkeys((service.namespace, SYSTEM_NAMESPACE)))
    if dependencies is None:
        learnt = frozenset(learnt)
        return Scope(gateways=True, on_demand=True, named=learnt, hosted_in=near, hosts_from=near, virtual=learnt)
    everything = any(dependency.name == "*" for dependency in dependencies)
    named, bound = set(), []
    for dependency in dependencies:
        if dependency.name == "*":
            continue
        ref = ServiceRef(dependency.namespace or service.namespace, dependency.name)
        named.add(ref)
        if dependency.bind_port is not None:
            bound.append(BoundPort(dependency.bind_port, ref, dependency.port))
    bound.sort(key=lambda one: one.bind_port)
    virtual = frozenset(named).union(learnt if everything else ())
    return Scope(
        gateways=True,
        everything=everything,
        named=frozenset(named),
        bound=tuple(bound),
        hosts_from=near,
        virtual=virtual,
    )


def bound_target(state: MeshState, bound: BoundPort) -> ServicePort | Problem:
    """The service port that a bound port leads to, or why there is none."""
    subject = f"bound port {bound.bind_port}"
    service = state.destination(bound.service)
    if service is None:
        return Problem(subject, f"leads to {bound.service}, which does not exist", remedy="apply it")
    ports = service.spec.ports
    if bound.port is None:
        if len(ports) == 1:
            return ports[0]
        return Problem(subject, f"{bound.service} has several ports", remedy="say which with `port`")
    for port in ports:
        if port.port == bound.port:
            return port
    return Problem(subject, f"{bound.service} has no port {bound.port}", remedy="correct `port`")
