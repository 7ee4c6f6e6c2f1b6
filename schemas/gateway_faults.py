"""What a `Gateway` contradicts itself in, beyond what its types can say. Pure.

Replicas refuse it on a write, and sidecars don't believe it in etcd: Envoy would refuse the listener.
"""

from collections.abc import Iterator

from schemas.checking import Fault, Path
from schemas.objects.gateway import Gateway, Listener


def gateway_faults(gateway: Gateway) -> Iterator[Fault]:
    """Paths from the object on."""
    listeners = gateway.spec.listeners
    for index, listener in enumerate(listeners):
        path: Path = ("spec", "listeners", index)
        before = listeners[:index]
        if listener.name in [one.name for one in before]:
            yield Fault((*path, "name"), f"a second listener of the name {listener.name!r}", "give each its own")
        reason = next(filter(None, (conflict(one, listener) for one in before)), None)
        if reason is not None:
            yield Fault(path, reason, "give each port one protocol, and each listener of a port its own hostname")
        yield from _tls(listener, path)
        namespaces = listener.allowed_routes.namespaces
        if (namespaces.from_ == "Names") != bool(namespaces.names):
            where: Path = (*path, "allowedRoutes", "namespaces", "names")
            said = f"says nothing where from is {namespaces.from_}" if namespaces.names else "missing: from is Names"
            yield Fault(where, said, "name the namespaces, with from: Names")


def conflict(first: Listener, second: Listener) -> str | None:
    """Why two listeners can't be beside each other; None: they can."""
    if first.port != second.port:
        return None
    if first.protocol != second.protocol:
        return f"port {second.port} is for {first.protocol} already, by listener {first.name!r}"
    if first.hostname == second.hostname:
        return f"listener {first.name!r} is for {second.hostname or 'all host names'} on port {second.port} already"
    return None


def _tls(listener: Listener, path: Path) -> Iterator[Fault]:
    certificates = listener.tls.certificate_refs if listener.tls is not None else ()
    where: Path = (*path, "tls", "certificateRefs")
    if listener.protocol == "HTTPS" and not certificates:
        yield Fault(where, "missing: protocol is HTTPS", "name the files with certificate and key")
    if listener.protocol == "HTTP" and certificates:
        yield Fault(where, "says nothing for protocol HTTP", "leave it out, or write protocol: HTTPS")
    if listener.protocol == "HTTPS" and listener.tls is not None and listener.tls.https_redirect:
        yield Fault((*path, "tls", "httpsRedirect"), "what comes here is https already", "it is for protocol HTTP")
    for index, one in enumerate(certificates):
        if one in certificates[:index]:
            yield Fault((*where, index), "the same files a second time", "name them once")
