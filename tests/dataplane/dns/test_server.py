"""The server on real sockets, asked by a real client, with real servers behind it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from dataplane.dns import forward, messages
from dataplane.dns import names as names_module
from dataplane.dns import server as server_module
from dataplane.dns.forward import Forwarder, NoAnswer, ResolvConf
from dataplane.dns.names import Names
from dataplane.dns.server import DnsServer, Unknown
from dataplane.dns.upstreams import Server
from dataplane.dns.zone import Named
from schemas.names import ServiceRef
from tests.dataplane.dns.test_messages import ORDERS

HERE = "127.0.0.1"
ANY = Server(HERE, 0)
ORDERS_REF = ServiceRef("shop", "orders")


async def find(service: ServiceRef) -> Named | None:
    if service.name == "unknown":
        raise Unknown("etcd is away")
    if service.name == "broken":
        raise RuntimeError("a fault of ours")
    return ORDERS if service == ORDERS_REF else None


@asynccontextmanager
async def serving(
    *upstreams: Server, find: Callable[..., object] = find, servers: Callable[[], Sequence[Server]] | None = None
) -> AsyncIterator[tuple[DnsServer, Server]]:
    async with trio.open_nursery() as nursery:
        forwarder = Forwarder(servers or (lambda: upstreams), lambda: random.getrandbits(16))
        served = DnsServer("shop", find, forwarder)  # type: ignore[arg-type]  # as `find` above
        yield served, await nursery.start(served.run, ANY)
        nursery.cancel_scope.cancel()


class Upstream:
    """Answers every question by ``192.0.2.<last>``, by UDP and TCP, unless told otherwise."""

    def __init__(self, last: int = 1) -> None:
        self.last = last
        self.asked: list[dns.message.Message] = []
        self.ports: list[int] = []
        self.rcode = dns.rcode.NOERROR
        self.is_silent = False
        self.is_long = False
        self.lies: list[Callable[[bytes], bytes]] = []
        """Sent before the true answer."""
        self.go = trio.Event()
        self.go.set()

    def reply(self, data: bytes, *, udp: bool) -> bytes:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        answer = dns.message.make_response(query)
        answer.set_rcode(self.rcode)
        if self.is_long and udp:
            answer.flags |= dns.flags.TC
        elif self.rcode == dns.rcode.NOERROR:
            texts = (
                [f"192.0.2.{self.last}"]
                if not self.is_long
                else [f"10.1.{one // 250}.{one % 250}" for one in range(900)]
            )
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", *texts))
        return answer.to_wire(max_size=65535)

    async def serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            data, sender = await sock.recvfrom(4096)
            self.ports.append(sender[1])
            if self.is_silent:
                continue
            await self.go.wait()
            for lie in self.lies:
                await sock.sendto(lie(self.reply(data, udp=True)), sender)
            await sock.sendto(self.reply(data, udp=True), sender)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        data = await stream.receive_some()
        reply = self.reply(bytes(data[2:]), udp=False)
        await stream.send_all(len(reply).to_bytes(2) + reply)


@asynccontextmanager
async def running(*upstreams: Upstream) -> AsyncIterator[list[Server]]:
    found = []
    async with trio.open_nursery() as nursery:
        for one in upstreams:
            listener = (await trio.open_tcp_listeners(0, host=HERE))[0]
            port = listener.socket.getsockname()[1]
            sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            await sock.bind((HERE, port))
            nursery.start_soon(one.serve_udp, sock)
            nursery.start_soon(trio.serve_listeners, one.serve_tcp, [listener])
            found.append(Server(HERE, port))
        yield found
        nursery.cancel_scope.cancel()


async def by_udp(server: Server, name: str, rdtype: str = "A", **more: object) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **more)  # type: ignore[arg-type]  # its options
    return await dns.asyncquery.udp(query, server.address, port=server.port, timeout=5)


async def by_tcp(server: Server, name: str, rdtype: str = "A") -> dns.message.Message:
    return await dns.asyncquery.tcp(dns.message.make_query(name, rdtype), server.address, port=server.port, timeout=5)


async def by_both(server: Server, name: str, rdtype: str = "A") -> list[dns.message.Message]:
    return [await by_udp(server, name, rdtype), await by_tcp(server, name, rdtype)]


def address(reply: dns.message.Message) -> str:
    assert reply.rcode() == dns.rcode.NOERROR
    return str(reply.answer[0][0])


# -- ours


async def test_our_names_by_udp_and_tcp() -> None:
    async with running(elsewhere := Upstream()) as others, serving(*others) as (served, at):
        for reply in await by_both(at, "orders.shop.mesh"):
            assert address(reply) == "127.240.3.4"
        for reply in await by_both(at, "orders"):
            assert address(reply) == "127.240.3.4"
        for name in ("cart.shop.mesh", "_x._tcp.orders.shop.mesh", "a.b.c.d.mesh"):
            for reply in await by_both(at, name):
                assert reply.rcode() == dns.rcode.NXDOMAIN
        for reply in await by_both(at, "unknown.shop.mesh"):
            assert reply.rcode() == dns.rcode.SERVFAIL
        for reply in await by_both(at, "shop.mesh", "MX"):
            assert reply.rcode() == dns.rcode.NOERROR
        assert elsewhere.asked == [], "no name of the mesh is told to anybody"
        assert served.counts == {"answered": 12, "failed": 2, "forwarded": 0, "dropped": 0, "unusable": 0}


async def test_whatever_comes_the_next_one_is_answered() -> None:
    chance = random.Random(5)
    good = dns.message.make_query("orders.shop.mesh", "A").to_wire()
    async with serving() as (served, at):
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            for _ in range(200):
                broken = bytearray(good)
                for _ in range(3):
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
                await sock.sendto(bytes(broken[: chance.randrange(len(broken) + 1)]), (at.address, at.port))
        for junk in (b"\xff\xff" + b"x" * 50, b"\x00\x00", b"\x00", b"\x00\x05hello"):
            async with await trio.open_tcp_stream(at.address, at.port) as stream:
                await stream.send_all(junk)
        assert (await by_udp(at, "broken.shop.mesh")).rcode() == dns.rcode.SERVFAIL
        for reply in await by_both(at, "orders.shop.mesh"):
            assert address(reply) == "127.240.3.4"
        assert served.counts["unusable"] > 0


async def test_several_queries_on_one_connection() -> None:
    async with serving() as (_, at), await trio.open_tcp_stream(at.address, at.port) as stream:
        for number in (1, 2, 3):
            wire = dns.message.make_query("orders.shop.mesh", "A", id=number).to_wire()
            data = len(wire).to_bytes(2) + wire
            await stream.send_all(data[:5])
            await stream.send_all(data[5:])
            reply = dns.message.from_wire(bytes((await stream.receive_some())[2:]))
            assert reply.id == number


async def test_connections_and_waiting_queries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server_module, "MAX_WAITING", 2)
    released = trio.Event()

    async def slow(service: ServiceRef) -> Named | None:
        if service.name == "slow":
            await released.wait()
        return ORDERS

    async with serving(find=slow) as (served, at):
        async with await trio.open_tcp_stream(at.address, at.port) as first:
            wire = dns.message.make_query("orders.shop.mesh", "A").to_wire()
            await first.send_all(len(wire).to_bytes(2) + wire)
            assert await first.receive_some()
            async with await trio.open_tcp_stream(at.address, at.port) as second:
                with pytest.raises((trio.BrokenResourceError, AssertionError)):
                    assert await second.receive_some()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_ask_in_vain, at)
            with trio.fail_after(5):
                while served.counts["dropped"] < 2:
                    await trio.lowlevel.checkpoint()
            released.set()
            nursery.cancel_scope.cancel()
        assert address(await by_udp(at, "orders.shop.mesh")) == "127.240.3.4"


async def _ask_in_vain(at: Server) -> None:
    await by_udp(at, "slow.shop.mesh")


# -- others'


async def test_others_names_go_to_others() -> None:
    async with running(elsewhere := Upstream(7)) as others, serving(*others) as (served, at):
        for name in ("example.com", "orders.shop", "localnet"):
            for reply in await by_both(at, name):
                assert address(reply) == "192.0.2.7"
        assert served.counts["forwarded"] == 6
        assert len(elsewhere.asked) == 6


async def test_what_is_long_comes_by_tcp() -> None:
    elsewhere = Upstream()
    elsewhere.is_long = True
    async with running(elsewhere) as others, serving(*others) as (_, at):
        assert (await by_udp(at, "example.com")).flags & dns.flags.TC
        assert len((await by_tcp(at, "example.com")).answer[0]) == 900
        query = dns.message.make_query("example.com", "A")
        reply, by = await dns.asyncquery.udp_with_fallback(query, at.address, port=at.port, timeout=5)
        assert (len(reply.answer[0]), by) == (900, True)


async def test_who_does_not_answer_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "SERVER_S", 0.2)
    silent, refusing, good = Upstream(), Upstream(), Upstream(3)
    silent.is_silent, refusing.rcode = True, dns.rcode.REFUSED
    async with running(silent, refusing, good) as others:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind((HERE, 0))
            nobody = Server(HERE, sock.getsockname()[1])
        async with serving(nobody, *others) as (_, at):
            for reply in await by_both(at, "example.com"):
                assert address(reply) == "192.0.2.3"
            seen = len(silent.ports)
            assert address(await by_udp(at, "example.org")) == "192.0.2.3"
            assert len(silent.ports) == seen, "it is not asked again at once"
        refusing.rcode = good.rcode = dns.rcode.SERVFAIL
        async with serving(*others[1:]) as (_, at):
            assert (await by_udp(at, "example.com")).rcode() == dns.rcode.SERVFAIL
    async with serving() as (served, at):
        assert (await by_udp(at, "example.com")).rcode() == dns.rcode.SERVFAIL
        assert served.counts["failed"] == 1


async def test_ids_and_ports_can_not_be_guessed_and_guesses_count_for_nothing() -> None:
    elsewhere = Upstream(4)
    elsewhere.lies = [
        lambda reply: messages.with_id(reply, messages.id_of(reply) ^ 1),
        lambda reply: reply[:13] + b"X" + reply[14:],
        lambda reply: b"\x00",
    ]
    async with running(elsewhere) as others, serving(*others) as (_, at):
        for number in range(8):
            assert address(await by_udp(at, f"name{number}.example")) == "192.0.2.4"
    assert len(set(elsewhere.ports)) > 6
    assert len({query.id for query in elsewhere.asked}) > 6


async def test_one_of_equal_questions_is_on_its_way() -> None:
    elsewhere = Upstream()
    elsewhere.go = trio.Event()
    replies: list[dns.message.Message] = []
    async with running(elsewhere) as others, serving(*others) as (_, at), trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            replies.append(await by_udp(at, "example.com", id=number))

        for number in range(5):
            nursery.start_soon(ask, number)
        with trio.fail_after(5):
            while not elsewhere.ports:
                await trio.lowlevel.checkpoint()
        elsewhere.go.set()
    assert sorted(reply.id for reply in replies) == [0, 1, 2, 3, 4]
    assert len(elsewhere.asked) < 5


async def test_a_server_that_asks_us_ends_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are set up to ask each other, as a resolver of the host and we could be."""
    monkeypatch.setattr(forward, "SERVER_S", 0.3)
    monkeypatch.setattr(forward, "ALL_SERVERS_S", 0.5)
    second: list[Server] = []
    async with serving(servers=lambda: second) as (one, at), serving(at) as (two, behind):
        second.append(behind)
        assert (await by_udp(at, "example.com")).rcode() == dns.rcode.SERVFAIL
        assert sum(one.counts.values()) + sum(two.counts.values()) <= 4


async def test_forwarding_without_anybody_says_so() -> None:
    with pytest.raises(NoAnswer, match="there is no other server"):
        await Forwarder(list, lambda: 1).ask(b"", udp=True)


def test_the_servers_of_this_host(tmp_path: Path) -> None:
    conf, behind = tmp_path / "resolv.conf", tmp_path / "behind"
    found = ResolvConf(Server("127.0.0.9"), conf, behind)
    assert found.servers() == []
    conf.write_text("nameserver 10.0.0.1\nnameserver 127.0.0.9\n")
    assert found.servers() == [Server("10.0.0.1")], "never ourselves"
    behind.write_text("nameserver 10.0.0.7\n")
    (tmp_path / "new").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "new").rename(conf)
    assert found.servers() == [Server("10.0.0.7")], "the stub would ask us"


# -- what is known of names


class Source:
    """As etcd: what it holds, how often it was asked, whether it answers."""

    def __init__(self) -> None:
        self.holds: dict[ServiceRef, Named] = {}
        self.asked = 0
        self.is_away = False
        self.go = trio.Event()
        self.go.set()
        self.used: list[ServiceRef] = []

    async def look_up(self, service: ServiceRef) -> Named | None:
        self.asked += 1
        found = self.holds.get(service)
        await self.go.wait()
        if self.is_away:
            raise Unknown("away")
        return found

    async def use(self, service: ServiceRef) -> None:
        self.used.append(service)

    def held(self, service: ServiceRef) -> Named | None:
        if service.namespace == "held":
            return ORDERS if service.name == "orders" else None
        raise KeyError(service)

    def names(self) -> Names:
        return Names(self.held, self.look_up, self.use)


async def test_what_is_held_is_not_looked_up() -> None:
    source = Source()
    names = source.names()
    assert await names.find(ServiceRef("held", "orders")) == ORDERS
    assert await names.find(ServiceRef("held", "none")) is None
    assert (source.asked, source.used) == (0, [ServiceRef("held", "orders")])


async def test_what_was_looked_up_is_true_until_it_changes() -> None:
    source = Source()
    names = source.names()
    source.holds[ORDERS_REF] = ORDERS
    absent = ServiceRef("shop", "cart")
    for _ in range(3):
        assert await names.find(ORDERS_REF) == ORDERS
        assert await names.find(absent) is None
    assert source.asked == 2
    source.is_away = True
    assert await names.find(ORDERS_REF) == ORDERS, "etcd's death does not take away what is known"
    with pytest.raises(Unknown):
        await names.find(ServiceRef("shop", "another"))
    source.is_away = False
    source.holds[absent] = ORDERS
    names.forget([absent])
    assert await names.find(absent) == ORDERS
    del source.holds[ORDERS_REF]
    names.forget_all()
    assert await names.find(ORDERS_REF) is None


async def test_an_answer_that_was_overtaken_is_not_remembered() -> None:
    source = Source()
    names = source.names()
    source.go = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(names.find, ORDERS_REF)
        with trio.fail_after(5):
            while not source.asked:
                await trio.lowlevel.checkpoint()
        source.holds[ORDERS_REF] = ORDERS
        names.forget([ORDERS_REF])  # it came into being while etcd's answer, that there is none, was on its way
        source.go.set()
    assert source.asked == 1, "one look-up for all who ask at once"
    assert await names.find(ORDERS_REF) == ORDERS


async def test_no_more_is_remembered_than_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "MAX_REMEMBERED", 2)
    source = Source()
    names = source.names()
    one, two, three = (ServiceRef("shop", name) for name in ("a", "b", "c"))
    for service in (one, two, one, three, one):
        await names.find(service)
    assert source.asked == 3
    await names.find(two)
    assert source.asked == 4, "the one that was asked for longest ago has gone"
