"""Virtual addresses: where the app finds a service by its name. One listener a port of the service, on this host only.

An app that looked up ``orders.shop.mesh`` connects to the answer, at the service's own port, and reaches its sidecar.
"""

import ipaddress

from envoy.config.listener.v3 import listener_pb2

from dataplane.compile import clusters
from dataplane.compile.outbound import entrance
from dataplane.compile.resources import Resource
from dataplane.compile.workload import VirtualNetwork, Workload
from dataplane.snapshot.state import MeshState
from schemas.errors import Problem
from schemas.names import ServiceRef
from schemas.objects.service import VirtualAddress
from schemas.virtual_addresses import Ranges


def listener_name(service: ServiceRef, port: int) -> str:
    return f"outbound|virtual|{service}|{port}"


def local(address: VirtualAddress, ranges: Ranges, network: VirtualNetwork) -> tuple[str, str | None] | None:
    """IPv4 and, where the host has it, IPv6, as they are on this host; None: not an address of the mesh's ranges, or
    one that the host's own network is too small for."""
    number = ranges.number(address)
    if number is None:
        return None
    ipv4: ipaddress.IPv4Network = network.ipv4 or ranges.ipv4
    if number >= ipv4.num_addresses:
        return None
    return str(ipv4[number]), address.ipv6 if network.ipv6 else None


def listeners(state: MeshState, workload: Workload, service: ServiceRef) -> list[Resource] | Problem:
    """And their routes; nothing where the host has no virtual addresses, or the service has none."""
    declared = state.destination(service)
    if workload.virtual is None or declared is None or declared.spec.virtual_address is None:
        return []
    address, subject = declared.spec.virtual_address, f"virtual address of {service}"
    ranges = state.virtual_ranges()
    here = local(address, ranges, workload.virtual) if ranges is not None else None
    if here is None:
        message = f"{address.ipv4} is not of the mesh's ranges, or does not fit into this host's network"
        return Problem(subject, message, remedy="see `virtualAddresses` of Mesh, `names.network` of the sidecar")
    first = state.holders(address.ipv4)[0]
    if first != service:
        return Problem(subject, f"{address.ipv4} is that of {first} too", remedy="delete the service, and apply it")
    ipv4, ipv6 = here
    if ipv4 in (workload.local_address, workload.inbound_address, workload.app_address):
        message = f"{ipv4} is what this sidecar or its app listens on"
        return Problem(subject, message, remedy="set `names.network` of the sidecar to another network")
    found: list[Resource] = []
    for port in declared.spec.ports:
        listener = listener_pb2.Listener(
            name=listener_name(service, port.port),
            address=clusters.socket_address(ipv4, port.port),
            traffic_direction="OUTBOUND",
        )
        if ipv6 is not None:
            listener.additional_addresses.add(address=clusters.socket_address(ipv6, port.port))
        # With it another sidecar of this host and user could listen there as well, and take half of the connections
        # under its own identity: so it is refused instead.
        listener.enable_reuse_port.value = False
        found += entrance(state, workload, listener, service, port)
    return found
