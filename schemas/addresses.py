"""IP addresses and host names as objects give them. Pure."""

import ipaddress
import re

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def is_ip(text: str) -> bool:
    """Any IPv4 or IPv6 address, with a zone too."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def of_one_spelling(text: str) -> str:
    """As every part of the mesh compares it: without its zone, and an IPv4 address in IPv6's form as IPv4 (RFC 4291,
    2.5.5.2). Raises ValueError where it is no IP address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_reachable(text: str) -> bool:
    """Whether it is an IP address that other hosts can connect to.

    A zone (fe80::1%eth0) means something on one host only, and Envoy refuses what it stands in.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None))


def is_host_name(text: str) -> bool:
    """In lower case, of at most 253 characters, and no IPv4 address (nor what resolvers take for one: 127.1)."""
    return len(text) <= 253 and bool(_HOST_NAME.fullmatch(text)) and not text.rpartition(".")[2].isdigit()
