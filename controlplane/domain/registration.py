"""A sidecar's instance and status: which keys, and who may take them over. Pure."""

import ipaddress
from dataclasses import dataclass

from controlplane.store.ops import Delete, KeyGuard, Op, Put
from schemas import codec
from schemas.errors import Conflict, Corrupt, InvalidInput, Problem
from schemas.keys import EndpointRef, Keyspace, StatusRef
from schemas.names import ServiceRef, check_name
from schemas.records import Endpoint, SidecarStatus

# Below 5 s a busy host would lose its lease; above 10 min a dead instance would be called for too long.
MIN_TTL_SECONDS = 5
MAX_TTL_SECONDS = 600
DEFAULT_TTL_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service: the service is from the caller's identity, the name is its own choice."""

    service: ServiceRef
    name: str

    @classmethod
    def of(cls, service: ServiceRef, name: str) -> "Instance":
        """Raises InvalidInput for a name outside the grammar."""
        return cls(service, check_name(name, "instance name"))

    def endpoint_key(self, keyspace: Keyspace) -> bytes:
        return keyspace.endpoint(EndpointRef(self.service, self.name))

    @property
    def status_ref(self) -> StatusRef:
        # Instance names are unique within a service only; a name has no dot.
        return StatusRef(self.service.namespace, f"{self.service.name}.{self.name}")

    def __str__(self) -> str:
        return f"{self.name} of {self.service}"


def service_of(ref: StatusRef) -> ServiceRef:
    """Whose status it is: neither a service's name nor an instance's has a dot."""
    return ServiceRef(ref.namespace, ref.sidecar.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Present:
    """What etcd has at one key: its value, mod revision and lease."""

    value: bytes
    mod_revision: int
    lease: int


def check_ttl(seconds: int) -> int:
    """`seconds`, or the default for 0. Raises InvalidInput."""
    if not seconds:
        return DEFAULT_TTL_SECONDS
    if not MIN_TTL_SECONDS <= seconds <= MAX_TTL_SECONDS:
        remedy = f"use {MIN_TTL_SECONDS} to {MAX_TTL_SECONDS}"
        raise InvalidInput(Problem("registration", f"a lease of {seconds} s", "ttl_seconds", remedy))
    return seconds


def check_status(instance: Instance, status: SidecarStatus) -> None:
    """A sidecar speaks for itself only. Raises InvalidInput."""
    said = Instance(ServiceRef(status.namespace, status.service), status.instance)
    if said != instance:
        raise InvalidInput(Problem("status", f"speaks of {said}, and comes from {instance}"))


def check_endpoint(endpoint: Endpoint) -> None:
    """Callers connect to it, so it must be an address that can be connected to. Raises InvalidInput."""
    try:
        address = ipaddress.ip_address(endpoint.address)
    except ValueError as error:
        raise InvalidInput(Problem("endpoint", str(error), "$.address", "give an IP address")) from error
    if address.is_unspecified or address.is_multicast:
        message = f"{address} is no address of one host"
        raise InvalidInput(Problem("endpoint", message, "$.address", "give the address that callers reach"))
    if not endpoint.ports:
        raise InvalidInput(Problem("endpoint", "has no port", "$.ports", "give the ports of the service"))


def check_takeover(instance: Instance, held_endpoint: Present | None, endpoint: Endpoint | None, lease: int) -> None:
    """Whether this sidecar may take the instance's keys, which another lease may still hold.

    An agent that restarts without its lease comes from where it was: it takes over at once. Two hosts under one name
    would throw each other out for ever: the second waits until the first one's lease has ended. Raises Conflict.
    """
    if held_endpoint is None or endpoint is None or held_endpoint.lease == lease:
        return
    try:
        held = codec.decode(held_endpoint.value, Endpoint, "endpoint")
    except Corrupt:
        return
    if held.address != endpoint.address:
        raise Conflict(
            f"instance {instance} is live at {held.address}; this one is at {endpoint.address}: "
            "give it another instance name, or stop the other and wait for its lease to end"
        )


def operations(
    instance: Instance,
    keyspace: Keyspace,
    endpoint: Endpoint | None,
    status: SidecarStatus,
    lease: int,
    held_endpoint: Present | None,
    held_status: Present | None,
) -> tuple[tuple[KeyGuard, ...], tuple[Op, ...]]:
    """Guards and operations: both keys under the lease; without an endpoint, none in etcd either."""
    endpoint_key, status_key = instance.endpoint_key(keyspace), keyspace.status(instance.status_ref)
    guards = (
        KeyGuard(endpoint_key, held_endpoint.mod_revision if held_endpoint else 0),
        KeyGuard(status_key, held_status.mod_revision if held_status else 0),
    )
    ops: list[Op] = [Put(status_key, codec.encode(status), lease)]
    if endpoint is not None:
        ops.append(Put(endpoint_key, codec.encode(endpoint), lease))
    elif held_endpoint is not None:
        ops.append(Delete(endpoint_key))
    return guards, tuple(ops)
