"""Host names of ExternalServices ▸ the domains at the proxy port that lead to them; each domain to one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dataplane.compile.scope import Scope
from dataplane.snapshot.state import MeshState
from routing.names import default_port, host_names
from schemas.errors import Problem
from schemas.names import ServiceRef
from schemas.objects import ExternalService


@dataclass(frozen=True, slots=True)
class HostClaims:
    domains: Mapping[tuple[ServiceRef, int], tuple[str, ...]] = field(default_factory=dict)
    """By service and port; as Envoy matches them: ``api.example.com``, ``api.example.com:443``."""
    problems: tuple[Problem, ...] = ()


def host_claims(state: MeshState, scope: Scope, caller: ServiceRef) -> HostClaims:
    """Envoy refuses a whole route table for one domain that stands there twice."""
    in_scope = scope.services(state)
    ranked = []
    for ref in in_scope:
        found = state.destination(ref)
        if isinstance(found, ExternalService) and found.spec.hosts:
            rank = scope.rank_of_hosts(ref)
            if rank is not None:
                ranked.append((rank, ref, found))
    if not ranked:
        return HostClaims()
    taken = {name: str(ref) for ref in in_scope for name in host_names(ref, caller)}
    owners: dict[str, tuple[int, ServiceRef]] = {}
    domains: dict[tuple[ServiceRef, int], tuple[str, ...]] = {}
    problems = []
    for rank, ref, found in sorted(ranked, key=lambda one: one[:2]):
        for index, host in enumerate(found.spec.hosts):
            if host in taken:
                message = f"{host} is a name of {taken[host]} here: callers reach that one by it"
                problems.append(Problem(str(found.ref), message, f"$.spec.hosts[{index}]", "take it out"))
                continue
            for number, domain in _domains(found, host):
                of_rank, owner = owners.setdefault(domain, (rank, ref))
                if owner == ref:
                    domains[ref, number] = (*domains.get((ref, number), ()), domain)
                elif of_rank == rank:
                    message = f"{domain} leads to {owner} here, which goes before it"
                    problems.append(Problem(str(found.ref), message, f"$.spec.hosts[{index}]", "take it out of one"))
    return HostClaims(domains, tuple(sorted(set(problems))))


def _domains(service: ExternalService, host: str) -> Iterator[tuple[int, str]]:
    default = default_port(service)
    for port in service.spec.ports:
        yield port.port, f"{host}:{port.port}"
        if port is default:
            yield port.port, host
