"""[edge] Asks other servers what is not ours: one after the other, until one answers.

Each question has a socket of its own, so a port that nobody can guess, and a random id. Of equal questions only one is
on its way: so a server that asks us what we ask it gets no answer from either, instead of a storm.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.rcode
import trio

from dataplane.dns import messages
from dataplane.dns.upstreams import Order, Server, nameservers

log = logging.getLogger("mesh.dns")

# Seconds for one server. Two of them, and a third for half as long, within the 5 s that the C library waits for us.
SERVER_S = 2.0
ALL_SERVERS_S = 4.5
# systemd-resolved's stub asks us for some names; the servers behind it do not.
_STUB = ("127.0.0.53", "127.0.0.54")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")
_LARGEST = 65535
_REDO = frozenset({dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP})
"""What another server may know better."""


class NoAnswer(Exception):
    """No server has answered; says what became of each."""


class ResolvConf:
    """The servers of this host, as they are at each moment. Never ourselves: `own` is where we listen."""

    def __init__(self, own: Server, path: Path = Path("/etc/resolv.conf"), behind: Path = _BEHIND_STUB) -> None:
        self._own = own
        self._path = path
        self._behind = behind
        self._seen: tuple[tuple[Path, int, int], ...] = ()
        self._servers: list[Server] = []

    def servers(self) -> list[Server]:
        """A look at the files' times, unless they have changed. Blocks no longer than that."""
        seen = tuple((path, *_stamp(path)) for path in (self._path, self._behind))
        if seen != self._seen:
            self._seen = seen
            found = _read(self._path)
            if any(one.address in _STUB for one in found):
                found = [one for one in found if one.address not in _STUB] + _read(self._behind)
            self._servers = [one for one in found if one != self._own]
        return self._servers


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _read(path: Path) -> list[Server]:
    try:
        return nameservers(path.read_text(errors="replace"))
    except OSError:
        return []


@dataclass(slots=True)
class _OnItsWay:
    done: trio.Event = field(default_factory=trio.Event)
    reply: bytes | None = None


class Forwarder:
    """servers: whom to ask, asked anew for each question. number: a random one of 16 bits, fit for secrets."""

    def __init__(self, servers: Callable[[], Sequence[Server]], number: Callable[[], int]) -> None:
        self._servers = servers
        self._number = number
        self._order = Order()
        self._on_its_way: dict[tuple[bytes, bool], _OnItsWay] = {}
        self._in_trouble = False

    async def ask(self, question: bytes, *, udp: bool) -> bytes:
        """The answer, of any id. Raises NoAnswer."""
        key = (question, udp)
        if (same := self._on_its_way.get(key)) is not None:
            await same.done.wait()
            if same.reply is None:
                raise NoAnswer("the same question, asked a moment before, was not answered")
            return same.reply
        mine = self._on_its_way[key] = _OnItsWay()
        try:
            mine.reply = await self._ask(question, udp=udp)
        finally:
            del self._on_its_way[key]
            mine.done.set()
        return mine.reply

    async def _ask(self, question: bytes, *, udp: bool) -> bytes:
        last: bytes | None = None
        troubles: list[str] = []
        way: Callable[[Server, bytes], Awaitable[bytes]] = _by_udp if udp else _by_tcp
        with trio.move_on_after(ALL_SERVERS_S):
            for server in self._order.of(self._servers(), trio.current_time()):
                numbered = messages.with_id(question, self._number())
                try:
                    with trio.fail_after(SERVER_S):
                        reply = await way(server, numbered)
                except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                    self._order.failed(server, trio.current_time())
                    why = "does not answer" if isinstance(error, trio.TooSlowError) else str(error)
                    troubles.append(f"{server}: {why}")
                    continue
                self._order.worked(server)
                self._say(None)
                last = reply
                if messages.answers(reply, numbered) not in _REDO:
                    return reply
        if last is None:
            why = "; ".join(troubles) or "there is no other server to ask"
            self._say(why)
            raise NoAnswer(why)
        return last

    def _say(self, trouble: str | None) -> None:
        """Once an outage, not once a query."""
        if trouble is not None and not self._in_trouble:
            log.warning("names outside of the mesh can't be looked up: %s", trouble)
        elif trouble is None and self._in_trouble:
            log.info("names outside of the mesh can be looked up again")
        self._in_trouble = trouble is not None


async def _by_udp(server: Server, question: bytes) -> bytes:
    family, address = await _address(server, trio.socket.SOCK_DGRAM)
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(address)  # only what comes from there is taken
        await sock.send(question)
        while True:
            reply = await sock.recv(_LARGEST)
            if messages.answers(reply, question) is not None:
                return bytes(reply)


async def _by_tcp(server: Server, question: bytes) -> bytes:
    family, address = await _address(server, trio.socket.SOCK_STREAM)
    with trio.socket.socket(family, trio.socket.SOCK_STREAM) as sock:
        await sock.connect(address)
        stream = trio.SocketStream(sock)
        await stream.send_all(len(question).to_bytes(2) + question)
        size = int.from_bytes(await _exactly(stream, 2))
        reply = await _exactly(stream, size)
        if messages.answers(reply, question) is None:
            raise OSError(f"{server} answered something else by TCP")
        return reply


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await stream.receive_some(count - len(got))
        if not part:
            raise trio.BrokenResourceError("it closed the connection")
        got += part
    return got


async def _address(server: Server, kind: int) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """Of an address in text, without asking anybody."""
    flags = trio.socket.AI_NUMERICHOST | trio.socket.AI_NUMERICSERV
    found = await trio.socket.getaddrinfo(server.address, server.port, type=kind, flags=flags)
    return found[0][0], found[0][4]  # type: ignore[return-value]  # of IPv4 or IPv6
