"""Which member is asked: one connection an endpoint, and the next endpoint when one fails."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trio_grpc import TLS

from .transport import Connect, Transport


class Connection:
    """A transport to one endpoint, closed once it is retired and nobody uses it."""

    def __init__(self, endpoint: str, transport: Transport) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self._users = 0
        self._retired = False

    @contextmanager
    def used(self) -> Iterator["Connection"]:
        """Keeps the transport open for the body."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._close_if_over()

    def retire(self) -> None:
        """No new users; close after the last."""
        self._retired = True
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._retired and self._users == 0:
            self.transport.close()


class Endpoints:
    """The connections of one client. All calls go to one current endpoint until it fails."""

    def __init__(self, endpoints: Sequence[str], tls: TLS | None, connect: Connect, rng: random.Random) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoint given: pass at least one host:port")
        self._order = list(endpoints)
        rng.shuffle(self._order)  # many clients with one list spread over its members
        self._connect = connect
        self._connections: dict[str, Connection] = {}
        self._tls = tls

    def __len__(self) -> int:
        return len(self._order)

    @property
    def all(self) -> tuple[str, ...]:
        """Every endpoint, the current one first."""
        return tuple(self._order)

    def current(self) -> Connection:
        """The connection that calls should use now."""
        return self.to(self._order[0])

    def to(self, endpoint: str) -> Connection:
        """The connection to one endpoint of the list, made if there is none."""
        found = self._connections.get(endpoint)
        if found is None:
            found = Connection(endpoint, self._connect(endpoint, self._tls))
            self._connections[endpoint] = found
        return found

    def failed(self, connection: Connection) -> None:
        """`connection` did not serve a call: the next endpoint becomes current, unless that has happened already."""
        if connection.endpoint == self._order[0]:
            self._order.append(self._order.pop(0))

    @contextmanager
    def trial(self, tls: TLS | None) -> Iterator["Endpoints"]:
        """Separate connections with other credentials, closed after the body unless `adopt` took them over."""
        other = Endpoints.__new__(Endpoints)
        other._order, other._connect, other._connections, other._tls = list(self._order), self._connect, {}, tls
        try:
            yield other
        finally:
            if other._connections is not self._connections:
                other.close()

    def adopt(self, other: "Endpoints") -> None:
        """Use the connections and credentials of `other` from now on; the old ones close after their last user."""
        self.close()
        self._connections, self._tls = other._connections, other._tls

    def close(self) -> None:
        """Retire every connection."""
        for connection in self._connections.values():
            connection.retire()
        self._connections = {}
