"""Who still comes in plaintext to ports that take it: Envoy's counters ▸ when whom was seen last. Pure.

Envoy counts signs of life by port and address (`compile.plaintext.seen`); what grew since it was asked last was seen
meanwhile. A counter that went back, or is missing as those of nobody are, is one of an Envoy that has started anew.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.compile.plaintext import EVERYONE, SEEN
from schemas.records import PlaintextPort, PlaintextSource

# Seconds by which what is told may lag behind what is known: each report is a write in etcd, and senders send on.
TELL_EVERY_S = 30
MAX_SOURCES_TOLD = 10

_LINE = re.compile(rf"envoy_({EVERYONE}|{SEEN})_seen\{{(.*)\}} (\d+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Counts = Mapping[tuple[int, str], int]
"""By port of the Service and address; address "": everybody."""


def read(exposition: str) -> dict[tuple[int, str], int]:
    """exposition: in the text format of Prometheus."""
    found = {}
    for line in exposition.splitlines():
        if (match := _LINE.fullmatch(line)) is not None:
            labels = dict(_LABEL.findall(match[2]))
            if labels.get("port", "").isdecimal() and (match[1] == EVERYONE or labels.get("source")):
                found[int(labels["port"]), "" if match[1] == EVERYONE else labels["source"]] = int(match[3])
    return found


@dataclass(slots=True)
class _Port:
    since: int
    last: int | None = None
    signs: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    """Address to when it was seen last."""
    told: PlaintextPort | None = None


@dataclass(slots=True)
class PlaintextSeen:
    """Of one sidecar. Times are seconds since 1970."""

    _ports: dict[int, _Port] = field(default_factory=dict)
    _counts: dict[tuple[int, str], int] = field(default_factory=dict)
    """All that Envoy said last, of closed ports too: it doesn't forget those, and they may open again."""
    _unread: set[int] = field(default_factory=set)
    """Ports of the agent before this one, which alone knew what Envoy had counted of single addresses. Nothing is told
    of them until Envoy has been asked: who came meanwhile would be missing."""
    _now: int = 0

    @classmethod
    def restored(cls, before: Iterable[PlaintextPort]) -> "PlaintextSeen":
        """Of the agent before this one. What Envoy has counted since shows when it is asked, but by port only."""
        made = cls()
        for one in before:
            sources = {source.address: source.last_seen for source in one.sources}
            made._ports[one.port] = _Port(one.since, one.last_seen, one.signs, sources, one)
            made._counts[one.port, ""] = one.counted
            made._unread.add(one.port)
        return made

    def open(self, ports: Collection[int], now: int) -> None:
        """The ports that take plaintext by now; the others are forgotten."""
        for port in self._ports.keys() - set(ports):
            del self._ports[port]
        for port in ports:
            self._ports.setdefault(port, _Port(now))

    def take(self, counts: Counts, now: int) -> bool:
        """What Envoy has counted by now; whether there is something new to tell."""
        self._now = now
        counted, self._counts = self._counts, dict(counts)
        for (port, address), count in counts.items():
            known = self._ports.get(port)
            before = counted.get((port, address), 0)
            if known is None or count == before or count == 0:
                continue
            if address:
                if port not in self._unread:
                    known.sources[address] = now
            else:
                known.last, known.signs = now, known.signs + (count - before if count > before else count)
        was_unread, self._unread = self._unread, set()
        return not was_unread.isdisjoint(self._ports) or any(self._due(one) for one in self._ports.values())

    def _due(self, one: _Port) -> bool:
        if one.told is None or one.told.counted > self._counts.get((one.told.port, ""), 0):
            return True  # new, or of an Envoy before this one: its counter would hide from the next agent who comes
        if one.last is None:
            return False
        before = one.told.last_seen
        if one.last != before and (before is None or self._now - before >= TELL_EVERY_S):
            return True
        told = {source.address for source in one.told.sources}
        return len(told) < MAX_SOURCES_TOLD and not told >= one.sources.keys()

    def said(self) -> tuple[PlaintextPort, ...]:
        """What the mesh is told: the same until there is something new."""
        read = {port: one for port, one in sorted(self._ports.items()) if port not in self._unread}
        for port, one in read.items():
            if self._due(one):
                latest = sorted(one.sources.items(), key=lambda item: (-item[1], item[0]))[:MAX_SOURCES_TOLD]
                sources = tuple(PlaintextSource(address=address, last_seen=last) for address, last in latest)
                one.told = PlaintextPort(
                    port=port,
                    since=one.since,
                    last_seen=one.last,
                    signs=one.signs,
                    counted=self._counts.get((port, ""), 0),
                    sources=sources,
                )
        return tuple(one.told for one in read.values() if one.told is not None)
