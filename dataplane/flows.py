"""Who called what lately, of the samples that Envoy reports: a bounded table, asked for by `Questions`. Pure.

A flow is a kind of request: caller, port, method, route, and whether it was denied. Nothing that callers send makes the
table grow beyond its bounds; of one caller it keeps fewer than of all.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from dataplane.compile.flow_samples import Sample
from schemas.names import MAX_SPIFFE_ID_BYTES
from schemas.questions import FlowRecord

# Of a sidecar. A service has some callers with some dozen routes each; a flow is some 500 bytes.
MAX_FLOWS = 500
# Of one caller: who walks through paths drives out its own flows first.
MAX_OF_CALLER = 150
# Characters. A longer path could not be kept whole, and cut off it would be judged as another.
MAX_PATH = 1024
# The same, of methods, of which Envoy takes any at all. The longest that is registered has 17.
MAX_METHOD = 32
# Bytes of what is told at once, below schemas.questions.MAX_ANSWER_BYTES with all else that is in an answer.
MAX_TOLD = 256 * 1024

# A part of a path that stands for others: a number, an UUID, a long hexadecimal or otherwise long word with digits.
_ID = re.compile(r"[0-9]+|[0-9a-fA-F-]{12,}|(?=[^/]*[0-9])[^/]{20,}")
_LISTENER = "inbound|"


class _Key(NamedTuple):
    source: str
    port: str
    method: str
    route: str
    denied: bool


@dataclass(slots=True)
class _Seen:
    newest: Sample
    samples: int
    first: int
    last: int


class Flows:
    """now: seconds since 1970, when it begins."""

    def __init__(self, now: int) -> None:
        self.since = now
        self.omitted = 0
        """Samples that could not be kept, and flows that gave way to newer ones."""
        self._flows: OrderedDict[_Key, _Seen] = OrderedDict()
        """The one that was seen last is the last."""
        self._of_caller: dict[str, int] = {}

    def take(self, listener: str, samples: Iterable[Sample], now: int) -> None:
        """listener: by whose name they were reported."""
        port = listener.removeprefix(_LISTENER)
        for one in samples:
            if one.identity is None or not _is_short(one, one.identity):
                self.omitted += 1
                continue
            key = _Key(one.identity, port, one.method, route_of(one.path), one.denied)
            seen = self._flows.get(key)
            if seen is None:
                self._make_room(one.identity)
                self._flows[key] = _Seen(one, 1, now, now)
                self._of_caller[one.identity] = self._of_caller.get(one.identity, 0) + 1
            else:
                seen.newest, seen.samples, seen.last = one, seen.samples + 1, now
                self._flows.move_to_end(key)

    def told(self, max_bytes: int = MAX_TOLD) -> tuple[tuple[FlowRecord, ...], int]:
        """The newest first, as many as fit into so many bytes; and how many were left out, now and before."""
        records: list[FlowRecord] = []
        size = 0
        for key, seen in reversed(self._flows.items()):
            record = _record(key, seen)
            size += len(msgspec.msgpack.encode(record))
            if size > max_bytes:
                break
            records.append(record)
        return tuple(records), self.omitted + len(self._flows) - len(records)

    def _make_room(self, caller: str) -> None:
        if self._of_caller.get(caller, 0) >= MAX_OF_CALLER:
            self._drop(next(key for key in self._flows if key.source == caller))
        elif len(self._flows) >= MAX_FLOWS:
            self._drop(next(iter(self._flows)))

    def _drop(self, key: _Key) -> None:
        del self._flows[key]
        self.omitted += 1
        self._of_caller[key.source] -= 1
        if not self._of_caller[key.source]:
            del self._of_caller[key.source]


def _is_short(one: Sample, identity: str) -> bool:
    """Whether all that its caller has chosen is."""
    return (
        len(one.path) <= MAX_PATH
        and len(one.authority) <= MAX_PATH
        and len(one.method) <= MAX_METHOD
        and len(identity) <= MAX_SPIFFE_ID_BYTES
    )


def _record(key: _Key, seen: _Seen) -> FlowRecord:
    one = seen.newest
    return FlowRecord(
        source=key.source,
        port=key.port,
        method=key.method,
        route=key.route,
        path=one.path,
        authority=one.authority,
        address=one.address,
        denied=key.denied,
        rule=one.rule,
        samples=seen.samples,
        first=seen.first,
        last=seen.last,
    )


def route_of(path: str) -> str:
    """``/orders/4711/items`` as ``/orders/{*}/items``."""
    return "/".join("{*}" if _ID.fullmatch(part) else part for part in path.split("/"))
