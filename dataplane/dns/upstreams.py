"""Which other servers there are, and in which order to ask them. Pure."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

DNS_PORT = 53
# Seconds for which one that did not answer is asked after all others.
SHUNNED_S = 10.0
# Of resolv.conf(5): the C library asks no more than these.
MAX_SERVERS = 3


@dataclass(frozen=True, slots=True, order=True)
class Server:
    address: str
    """IPv4, or IPv6, which may have a zone: fe80::1%eth0."""
    port: int = DNS_PORT

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Server":
        """``10.0.0.2``, ``10.0.0.2:5353``, ``fd00::2``, ``[fd00::2]:5353``. Raises ValueError."""
        if text.startswith("["):
            address, closed, port = text[1:].partition("]")
            if not closed or not port.startswith(":"):
                raise ValueError(f"{text!r} is no address with port")
            port = port[1:]
        elif text.count(":") == 1:
            address, _, port = text.partition(":")
        else:
            address, port = text, str(DNS_PORT)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{text!r} has no port from 1 to 65535")
        ipaddress.ip_address(address)
        return cls(address, int(port))


def nameservers(resolv_conf: str) -> list[Server]:
    """As resolv.conf(5) has them, in order; what can't be understood is passed over."""
    found: list[Server] = []
    for line in resolv_conf.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    ipaddress.ip_address(address)
                except ValueError:
                    continue
                found.append(Server(address))
    return found[:MAX_SERVERS]


@dataclass(slots=True)
class Order:
    """Remembers who did not answer."""

    _failed: dict[Server, float] = field(default_factory=dict)

    def of(self, servers: Iterable[Server], now: float) -> list[Server]:
        """As they are given, but who failed a moment ago last. now: seconds of any clock that does not go back."""
        given = list(dict.fromkeys(servers))
        for gone in self._failed.keys() - set(given):
            del self._failed[gone]
        return sorted(given, key=lambda one: self._failed.get(one, -SHUNNED_S) + SHUNNED_S > now)

    def failed(self, server: Server, now: float) -> None:
        self._failed[server] = now

    def worked(self, server: Server) -> None:
        self._failed.pop(server, None)
