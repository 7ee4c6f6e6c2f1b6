"""What an `ExternalService` contradicts itself in, beyond what its types can say. Pure.

Replicas refuse it on a write, and sidecars don't believe it in etcd: Envoy would refuse the cluster, or nobody would
verify the server. Whether `caCertificates` are any is told elsewhere: that takes more than the text.
"""

from collections.abc import Iterator

from schemas.addresses import is_host_name, is_ip, is_reachable
from schemas.checking import Fault, Path
from schemas.objects.external import ExternalEndpoint, ExternalService, ExternalTls

_MESH_SUFFIX = ".mesh"


def external_faults(service: ExternalService) -> Iterator[Fault]:
    """Paths from the object on."""
    yield from _hosts(service)
    yield from _endpoints(service)
    for path, tls in tls_parts(service):
        yield from _tls(service, tls, path)


def tls_parts(service: ExternalService) -> Iterator[tuple[Path, ExternalTls]]:
    """The service's own, and those of ports, each with its path."""
    yield ("spec", "tls"), service.spec.tls
    for index, port in enumerate(service.spec.ports):
        if port.tls is not None:
            yield ("spec", "ports", index, "tls"), port.tls


def _hosts(service: ExternalService) -> Iterator[Fault]:
    hosts = service.spec.hosts
    for index, host in enumerate(hosts):
        path: Path = ("spec", "hosts", index)
        if host in hosts[:index]:
            yield Fault(path, f"{host!r} a second time", "name it once")
        if host.endswith(_MESH_SUFFIX) or "." not in host:
            yield Fault(path, f"{host!r} is a name of services of the mesh", "give the full name in DNS")
        elif not is_host_name(host):
            yield Fault(path, f"{host!r} is no host name", "give addresses in `endpoints`")


def _endpoints(service: ExternalService) -> Iterator[Fault]:
    spec = service.spec
    if not service.addresses:
        yield Fault(("spec", "endpoints"), "neither endpoints nor hosts: it is nowhere", "say where it is")
    names = {port.name for port in spec.ports}
    of_mesh = any(not service.is_outside(port) for port in spec.ports)
    for index, endpoint in enumerate(spec.endpoints):
        path: Path = ("spec", "endpoints", index)
        if is_ip(endpoint.address):
            if not is_reachable(endpoint.address):
                message = f"{endpoint.address!r} is no IP address that hosts can connect to"
                yield Fault((*path, "address"), message, "give the address at which others reach it")
        elif not is_host_name(endpoint.address):
            message = f"{endpoint.address[:64]!r} is neither an IP address nor a host name in lower case"
            yield Fault((*path, "address"), message, "correct it")
        elif of_mesh:
            message = "sidecars of another mesh are reached by IP address"
            yield Fault((*path, "address"), message, "give the address of the other mesh's sidecar")
        for name in sorted(set(endpoint.ports or ()) - names):
            remedy = f"its ports are {', '.join(sorted(names))}"
            yield Fault((*path, "ports"), f"there is no port {name!r}", remedy)
    if of_mesh and not spec.endpoints:
        yield Fault(("spec", "endpoints"), "missing: tls.mode is MESH", "give the other mesh's sidecars")
    if spec.resolution == "DNS_ROUND_ROBIN" and (len(service.addresses) != 1 or is_ip(service.addresses[0].address)):
        yield Fault(("spec", "resolution"), "DNS_ROUND_ROBIN is for one name", "leave it out, or give one endpoint")


def _tls(service: ExternalService, tls: ExternalTls, path: Path) -> Iterator[Fault]:
    given = {
        "spiffeId": tls.spiffe_id is not None,
        "sni": tls.sni is not None,
        "subjectAltNames": bool(tls.subject_alt_names),
        "caCertificates": tls.ca_certificates is not None,
        "clientCertificate": tls.client_certificate is not None,
    }
    means = {
        "DISABLE": set[str](),
        "SIMPLE": {"sni", "subjectAltNames", "caCertificates"},
        "MUTUAL": {"sni", "subjectAltNames", "caCertificates", "clientCertificate"},
        "MESH": {"spiffeId"},
    }[tls.mode]
    for field, is_given in given.items():
        if is_given and field not in means:
            yield Fault((*path, field), f"says nothing for mode {tls.mode}", "leave it out, or choose another mode")
    if tls.mode == "MESH" and tls.spiffe_id is None:
        yield Fault((*path, "spiffeId"), "missing: mode is MESH", "ask whoever runs it which identity it has")
    if tls.sni is not None and not is_host_name(tls.sni):
        yield Fault((*path, "sni"), f"{tls.sni!r} is no host name", "TLS takes no IP address there: leave it out")
    for index, name in enumerate(tls.subject_alt_names):
        if not is_host_name(name) and not is_ip(name):
            yield Fault(
                (*path, "subjectAltNames", index), f"{name!r} is neither a host name nor an IP address", "correct it"
            )
    if tls.mode in ("SIMPLE", "MUTUAL") and not expected_names(service, tls):
        message = "nothing says which name the server's certificate must have"
        yield Fault((*path, "subjectAltNames"), message, "add it, or `sni`, or `hosts`")


def own_name(service: ExternalService) -> str | None:
    """The name that the server itself knows, for `Host` and SNI; None where there are only addresses."""
    if service.spec.hosts:
        return service.spec.hosts[0]
    names = (endpoint.address for endpoint in service.spec.endpoints if not is_ip(endpoint.address))
    return next(names, None)


def expected_names(service: ExternalService, tls: ExternalTls) -> tuple[str, ...]:
    """Of which the server's certificate must have one: host names and IP addresses."""
    if tls.subject_alt_names:
        return tls.subject_alt_names
    name = tls.sni or own_name(service)
    return (name,) if name is not None else ()


def port_on(endpoint: ExternalEndpoint, name: str, port: int, target_port: int | None) -> int:
    """The number on that endpoint of the port `name`."""
    return (endpoint.ports or {}).get(name, target_port or port)
