"""[edge] Takes queries by UDP and TCP on one address and port. Whatever comes, it goes on answering the next one."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import dns.rcode
import trio

from dataplane.dns import messages
from dataplane.dns.forward import Forwarder, NoAnswer
from dataplane.dns.upstreams import Server
from dataplane.dns.zone import Foreign, Host, Named, Port, asked
from schemas.names import ServiceRef

log = logging.getLogger("mesh.dns")

# Queries by UDP that may wait at once; what comes above is dropped, and asked again by whoever still needs it.
MAX_WAITING = 256
# Connections that may be open at once, and seconds that one may be idle (RFC 7766, 6.2.3: a few are enough).
MAX_CONNECTIONS = 64
IDLE_S = 10.0
_LARGEST_QUERY = 4096
_BACKLOG = 64


class Unknown(Exception):
    """Whether there is such a service can't be told now."""


Find = Callable[[ServiceRef], Awaitable[Named | None]]
"""The service of that name, None where there is none; raises Unknown."""


class DnsServer:
    """namespace: the app's own. `counts`: queries by how they ended."""

    def __init__(self, namespace: str, find: Find, forwarder: Forwarder) -> None:
        self._namespace = namespace
        self._find = find
        self._forwarder = forwarder
        self.counts: Counter[str] = Counter(
            dict.fromkeys(("answered", "forwarded", "failed", "dropped", "unusable"), 0)
        )

    async def run(self, listen: Server, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever; started when it takes queries, with where. Port 0: any that is free. Raises OSError."""
        family = trio.socket.AF_INET6 if ":" in listen.address else trio.socket.AF_INET
        with (
            trio.socket.socket(family, trio.socket.SOCK_DGRAM) as udp,
            trio.socket.socket(family, trio.socket.SOCK_STREAM) as tcp,
        ):
            tcp.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await tcp.bind((listen.address, listen.port))
            port = tcp.getsockname()[1]
            await udp.bind((listen.address, port))
            tcp.listen(_BACKLOG)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_tcp, tcp, nursery)
                task_status.started(Server(listen.address, port))
                await self._serve_udp(udp)

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data, sender = await sock.recvfrom(_LARGEST_QUERY)
                except OSError as error:  # of an earlier answer, to a port that was closed
                    log.debug("receiving: %s", error)
                    continue
                if len(nursery.child_tasks) >= MAX_WAITING:
                    self.counts["dropped"] += 1
                else:
                    nursery.start_soon(self._answer_udp, sock, data, sender)

    async def _answer_udp(self, sock: trio.socket.SocketType, data: bytes, sender: tuple[object, ...]) -> None:
        reply = await self._reply(data, udp=True)
        if reply is not None:
            try:
                await sock.sendto(reply, sender)
            except OSError as error:
                log.debug("answering: %s", error)

    async def _serve_tcp(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        limit = trio.CapacityLimiter(MAX_CONNECTIONS)

        async def serve(stream: trio.SocketStream) -> None:
            await self._serve_stream(stream, limit)

        await trio.serve_listeners(serve, [trio.SocketListener(sock)], handler_nursery=nursery)

    async def _serve_stream(self, stream: trio.SocketStream, limit: trio.CapacityLimiter) -> None:
        try:
            limit.acquire_nowait()
        except trio.WouldBlock:
            self.counts["dropped"] += 1
            await trio.aclose_forcefully(stream)
            return
        try:
            async with stream:
                while (data := await _next(stream)) is not None:
                    reply = await self._reply(data, udp=False)
                    if reply is None:
                        return
                    with trio.fail_after(IDLE_S):
                        await stream.send_all(len(reply).to_bytes(2) + reply)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # it has gone, or takes no answers
        finally:
            limit.release()

    async def _reply(self, data: bytes, *, udp: bool) -> bytes | None:
        try:
            query = messages.read(data)
        except messages.Unusable as unusable:
            self.counts["unusable"] += 1
            return unusable.reply
        try:
            return await self._answer(query, udp=udp)
        except (Unknown, NoAnswer) as error:
            self.counts["failed"] += 1
            log.debug("%s: %s", query.name, error)
        except Exception:  # anybody on this host can send anything: it must not end the agent
            self.counts["failed"] += 1
            log.exception("a fault of ours with a query for %s", query.name)
        return messages.failure(query, dns.rcode.SERVFAIL)

    async def _answer(self, query: messages.Query, *, udp: bool) -> bytes:
        what = asked(query.labels, self._namespace)
        named = await self._find(what.service) if isinstance(what, Host | Port) else None
        if isinstance(what, Foreign) or (isinstance(what, Host) and what.bare and named is None):
            reply = await self._forwarder.ask(messages.onward(query), udp=udp)
            self.counts["forwarded"] += 1
            return messages.relayed(query, reply, udp=udp)
        self.counts["answered"] += 1
        return messages.answer(query, what, named)


async def _next(stream: trio.SocketStream) -> bytes | None:
    """The next message of a connection; None at its end, when it is idle for too long, and for what is no query."""
    got = b""
    with trio.move_on_after(IDLE_S):
        while len(got) < 2 or len(got) < 2 + int.from_bytes(got[:2]):
            if len(got) >= 2 and int.from_bytes(got[:2]) > _LARGEST_QUERY:
                return None
            wanted = 2 - len(got) if len(got) < 2 else 2 + int.from_bytes(got[:2]) - len(got)
            part = await stream.receive_some(wanted)
            if not part:
                return None
            got += part
        return got[2:]
    return None
