"""The ranges of virtual addresses, as numbers: which network is usable, which address a number is. Pure."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.checking import Fault
from schemas.objects.mesh import VirtualRanges
from schemas.objects.service import VirtualAddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Addresses are allocated in blocks of 256: the range has at least one, and at most what an IPv4 network of class A has.
_PREFIX_LENGTHS = range(8, 25)
# A number of the IPv4 range has to fit into the IPv6 range too.
_MAX_IPV6_PREFIX = 104
# Here are localhost, Debian's own name of the host (127.0.1.1) and the stubs of resolvers (127.0.0.53).
HOST_OWN = ipaddress.IPv4Network("127.0.0.0/16")


@dataclass(frozen=True, slots=True)
class Ranges:
    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network

    @classmethod
    def of(cls, spec: VirtualRanges) -> "Ranges | None":
        """None where `range_faults` has something to say."""
        if any(True for _ in range_faults(spec)):
            return None
        return cls(ipaddress.IPv4Network(spec.ipv4), ipaddress.IPv6Network(spec.ipv6))

    def address(self, number: int) -> VirtualAddress:
        """number: at least 0, below the number of IPv4 addresses."""
        return VirtualAddress(ipv4=str(self.ipv4[number]), ipv6=str(self.ipv6[number]))

    def number(self, address: VirtualAddress) -> int | None:
        """Which one it is; None where the two are not of these ranges, or do not belong together."""
        try:
            number = int(ipaddress.IPv4Address(address.ipv4)) - int(self.ipv4.network_address)
        except ValueError:
            return None
        if 0 <= number < self.ipv4.num_addresses and self.address(number) == address:
            return number
        return None


def range_faults(spec: VirtualRanges) -> Iterator[Fault]:
    """Paths are relative to `spec`."""
    ipv4, ipv6 = _network(spec.ipv4), _network(spec.ipv6)
    if not isinstance(ipv4, ipaddress.IPv4Network):
        yield Fault(("ipv4",), f"{spec.ipv4!r} is no IPv4 network", "write one such as 127.240.0.0/16")
    elif ipv4.prefixlen not in _PREFIX_LENGTHS:
        yield Fault(("ipv4",), f"{spec.ipv4} is not of 256 to 16,777,216 addresses", "use /8 to /24, /16 for most")
    elif ipv4.overlaps(HOST_OWN):
        yield Fault(("ipv4",), f"{spec.ipv4} holds addresses that hosts use themselves", f"keep out of {HOST_OWN}")
    elif ipv4.is_multicast or ipv4.is_unspecified:
        yield Fault(("ipv4",), f"{spec.ipv4} has no addresses of hosts", "write one such as 127.240.0.0/16")
    if not isinstance(ipv6, ipaddress.IPv6Network):
        yield Fault(("ipv6",), f"{spec.ipv6!r} is no IPv6 network", "write one such as fd6d:6573:6800::/64")
    elif ipv6.prefixlen > _MAX_IPV6_PREFIX:
        yield Fault(("ipv6",), f"{spec.ipv6} is too small", f"use /64, or anything up to /{_MAX_IPV6_PREFIX}")
    elif ipv6.is_multicast or ipv6.is_unspecified or ipv6.is_link_local or ipv6.overlaps(_LOOPBACK6):
        yield Fault(("ipv6",), f"{spec.ipv6} has no addresses of hosts", "use a network of fc00::/7")


_LOOPBACK6 = ipaddress.IPv6Network("::/8")


def _network(text: str) -> Network | None:
    """None for what is no network, one with bits of a host among them."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
