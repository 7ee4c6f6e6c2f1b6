"""[edge] What the mesh's names stand for: of the services that the sidecar holds it knows itself, others it looks up.

The agent sees every change of configuration pass by, and tells of those that concern names: what was looked up once is
true until then, with etcd dead too. So a sidecar answers for ten thousand services, and remembers those that were asked
for.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import trio

from dataplane.dns.server import Unknown
from dataplane.dns.zone import Named
from schemas.names import ServiceRef

# Names that are remembered beside those of the services that are held; the one that was asked for longest ago goes.
MAX_REMEMBERED = 4096
# Look-ups in etcd at once: an app that tries names must not occupy it.
MAX_LOOKUPS = 16
# Seconds for one. An etcd that works answers in milliseconds; who asks waits for 5 s.
LOOKUP_S = 2.0


class Names:
    """held: what the sidecar knows of a service by itself; raises KeyError where it does not hold that one.
    look_up: what etcd says now; raises Unknown. use: the app is about to call it; returns when it can."""

    def __init__(
        self,
        held: Callable[[ServiceRef], Named | None],
        look_up: Callable[[ServiceRef], Awaitable[Named | None]],
        use: Callable[[ServiceRef], Awaitable[None]],
    ) -> None:
        self._held = held
        self._look_up = look_up
        self._use = use
        self._remembered: OrderedDict[ServiceRef, Named | None] = OrderedDict()
        self._looking: dict[ServiceRef, _LookUp] = {}
        self._limit = trio.CapacityLimiter(MAX_LOOKUPS)

    async def find(self, service: ServiceRef) -> Named | None:
        """None: there is no such service. Raises Unknown."""
        found = await self._find(service)
        if found is not None and found.ipv4 is not None:
            await self._use(service)
        return found

    async def _find(self, service: ServiceRef) -> Named | None:
        try:
            return self._held(service)
        except KeyError:
            pass
        if service in self._remembered:
            self._remembered.move_to_end(service)
            return self._remembered[service]
        looking = self._looking.get(service)
        if looking is not None:
            await looking.done.wait()
            if looking.error is not None:
                raise Unknown(looking.error)
            return looking.found
        return await self._ask(service)

    async def _ask(self, service: ServiceRef) -> Named | None:
        looking = self._looking[service] = _LookUp()
        try:
            with trio.fail_after(LOOKUP_S):
                async with self._limit:
                    looking.found = await self._look_up(service)
            looking.error = None
        except (Unknown, trio.TooSlowError) as error:
            looking.error = str(error) or "etcd does not answer"
            raise Unknown(looking.error) from error
        finally:
            del self._looking[service]
            looking.done.set()
        if not looking.overtaken:
            self._remembered[service] = looking.found
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return looking.found

    def forget(self, services: Iterable[ServiceRef]) -> None:
        """They have been written or deleted."""
        for service in services:
            self._remembered.pop(service, None)
            if (looking := self._looking.get(service)) is not None:
                looking.overtaken = True

    def forget_all(self) -> None:
        """What has changed meanwhile is not known."""
        self.forget((*self._remembered, *self._looking))


class _LookUp:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.found: Named | None = None
        self.error: str | None = "it was given up"
        self.overtaken = False
        """What comes may be older than what has been told since."""
