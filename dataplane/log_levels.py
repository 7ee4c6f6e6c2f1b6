"""[edge] How much Envoy and the agent log: as the settings say, and for a time as an operator does.

    etcd ─▶ watch ─▶ Orders ─▶ keep: Envoy's admin, the agent's own loggers
                                ▲ its end, another Envoy

An Envoy that is taken up goes back first: an order that its last agent had may have ended since. What is still in force
comes by etcd again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import trio

from dataplane.log_orders import Order, Orders
from dataplane.watch.events import Event
from dataplane.watch.follow import Follower
from schemas.checking import nearest
from schemas.errors import Problem, Unavailable
from schemas.keys import Keyspace, LogLevelRef
from schemas.log_levels import LogLevels
from trio_etcd import Client

log = logging.getLogger("mesh.agent")

# All loggers of ours; those of libraries stay as they are, which at DEBUG write what they send and receive.
OURS = "mesh"
# Seconds until an Envoy that does not answer, as one that has just started, is told again.
RETRY_S = 0.5
_QUEUE = 16
# Python has neither.
_OF_AGENT = {"trace": logging.DEBUG, "off": logging.CRITICAL + 1}


class Envoy(Protocol):
    """What is needed of `EnvoyProcess`."""

    @property
    def pid(self) -> int | None: ...

    async def set_log_levels(self, general: str, of_loggers: Mapping[str, str]) -> frozenset[str]: ...


class LogLevelKeeper:
    """`keep` it, and let it `follow` etcd. default: Envoy's level as the settings have it. changed: is told of each."""

    def __init__(self, envoy: Envoy, default: str, changed: Callable[[], None]) -> None:
        self._envoy = envoy
        self._default = default
        self._changed = changed
        self._orders: Orders | None = None
        self._unknown: tuple[Problem, ...] = ()
        self._look = trio.Event()
        self._announced: Order | None = None
        """In the log, which says it once, however often Envoy is told."""
        self.running: LogLevels | None = None
        """What is in force; None: as the settings say."""

    def look_again(self) -> None:
        """There may be another Envoy: each begins as the settings say."""
        self._look.set()

    def problems(self) -> list[Problem]:
        unreadable = self._orders.problem if self._orders is not None else None
        return [*([unreadable] if unreadable is not None else []), *self._unknown]

    async def follow(self, etcd: Client, keyspace: Keyspace, ref: LogLevelRef, fraction: Callable[[], float]) -> None:
        """For ever."""
        orders = self._orders = Orders(keyspace, ref)
        send, receive = trio.open_memory_channel[Event](_QUEUE)
        async with trio.open_nursery() as nursery:
            Follower(nursery, etcd, send, fraction=fraction).want(frozenset((orders.prefix,)))
            async for event in receive:
                before = orders.problem
                orders.take(event, time.time(), trio.current_time())
                self._look.set()
                if orders.problem != before:
                    self._changed()

    async def keep(self, *, adopted: bool) -> None:
        """For ever. adopted: Envoy was running, at levels that nobody knows."""
        done: tuple[Order | None, int | None] | None = None if adopted else (None, self._envoy.pid)
        while True:
            self._look = trio.Event()
            order = self._orders.current(trio.current_time()) if self._orders is not None else None
            due, pid = order.ends if order is not None else float("inf"), self._envoy.pid
            if (order, pid) != done:
                done = (order, pid) if await self._apply(order) else None
                due = due if done is not None else min(due, trio.current_time() + RETRY_S)
            with trio.move_on_at(due):
                await self._look.wait()

    async def _apply(self, order: Order | None) -> bool:
        """Whether Envoy has taken it. The agent's own level needs nobody."""
        levels = order.levels if order is not None else None
        own = levels.of_agent if levels is not None else None
        if order is not None and order != self._announced:
            self._announced = order
            log.warning("logging %s for %.0f s, says %s", levels, order.ends - trio.current_time(), order.by)
        logging.getLogger(OURS).setLevel(logging.NOTSET if own is None else _OF_AGENT.get(own) or own.upper())
        general = (levels.level if levels is not None else None) or self._default
        try:
            known = await self._envoy.set_log_levels(general, levels.of_envoy if levels is not None else {})
        except Unavailable as error:
            log.debug("Envoy's log levels could not be set, trying again: %s", error)
            return False
        if order is None and self._announced is not None:
            self._announced = None
            log.warning("logging as the settings say again")
        unknown = sorted(levels.of_envoy.keys() - known) if levels is not None else []
        said = f"{order.subject}" if order is not None else ""
        self._unknown = tuple(
            Problem(said, f"Envoy has no logger {one!r}", "", nearest(one, sorted(known))) for one in unknown
        )
        self.running = levels and msgspec.structs.replace(
            levels, components={name: level for name, level in levels.components.items() if name not in unknown}
        )
        self._changed()
        return True
