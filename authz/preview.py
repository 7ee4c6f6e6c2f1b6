"""What other rules would make of requests that were seen: two sets of rules of a port, and flows ▸ changes. Pure.

Of a request that was seen not all is known: no header, no token. Where it may depend on that, it is said to.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from authz.judge import Request, Verdict, certain, deciding, judge
from authz.rules import PortRules
from schemas.objects.service import ServicePort

T = TypeVar("T")


class Effect(Enum):
    DENIED = "newly denied"
    ALLOWED = "newly allowed"
    UNSURE = "may change"
    """Other rules would judge it, and it depends on what is not known whether they judge otherwise."""


@dataclass(frozen=True, slots=True)
class Flow(Generic[T]):
    """A request that stands for others. allowed: what became of it. about: whatever it is known by elsewhere."""

    request: Request
    allowed: bool
    about: T


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """after: by the new rules; of what is unsure, as if nothing held that is not known."""

    flow: Flow[T]
    effect: Effect
    after: Verdict


def changes(before: PortRules, after: PortRules, port: ServicePort, flows: Iterable[Flow[T]]) -> Iterator[Changed[T]]:
    """In the order of the flows; those that stay as they are left out."""
    for flow in flows:
        effect = _effect(before, after, port, flow.request, flow.allowed)
        if effect is not None:
            yield Changed(flow, effect, judge(after, port, flow.request))


def _effect(before: PortRules, after: PortRules, port: ServicePort, request: Request, allowed: bool) -> Effect | None:
    if deciding(before, port, request) == deciding(after, port, request):
        return None
    was, will = certain(before, port, request), certain(after, port, request)
    let_in = was.allowed if was is not None else allowed
    if will is None:
        return Effect.UNSURE
    if will.allowed == let_in:
        return None
    return Effect.ALLOWED if will.allowed else Effect.DENIED
