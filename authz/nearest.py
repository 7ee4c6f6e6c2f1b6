"""The ALLOW rules of one port ▸ what each of them would let in if less were asked. Pure.

Envoy knows which rule refused a request, not which one nearly let it in. So it is given these beside the rules, to be
asked in the order of their names, and the first that matches is told with the denial. They decide nothing.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from authz.rules import Alternative, Condition, PortRule

# Of a port. Each is asked of every request until one matches: where rules would make more, none is asked, for who is
# told of the first few only is told of the wrong one. `authz.judge` knows the nearest of any number.
MAX_NEAR = 64

_ANYTHING: tuple[Alternative, ...] = ((),)


class Near(NamedTuple):
    """Matches what `rule` would have matched but for what `name` says. As of `PortRule`: any of each."""

    name: str
    """``but for methods: shop/web-may-order[0]``: one condition is missing. ``only from: …``, ``only to: …``: of who
    calls and of what is asked, no more than that is as the rule wants it."""
    sources: tuple[Alternative, ...]
    operations: tuple[Alternative, ...]

    @property
    def matches_all(self) -> bool:
        return () in self.sources and () in self.operations


def near_misses(allow: Iterable[PortRule]) -> tuple[Near, ...]:
    """In the order of names the nearer ones come first. None where there would be more than `MAX_NEAR`."""
    found: list[Near] = []
    for rule in allow:
        found += _of(rule)
        if len(found) > MAX_NEAR:
            return ()
    return tuple(sorted(found))


def _of(rule: PortRule) -> Iterator[Near]:
    name = rule.name
    for said, sources in _without_one(rule.sources):
        yield Near(f"but for {said}: {name}", sources, rule.operations)
    for said, operations in _without_one(rule.operations):
        yield Near(f"but for {said}: {name}", rule.sources, operations)
    if rule.operations != _ANYTHING:
        yield Near(f"only from: {name}", rule.sources, _ANYTHING)
    if rule.sources != _ANYTHING:
        yield Near(f"only to: {name}", _ANYTHING, rule.operations)


def _without_one(alternatives: Iterable[Alternative]) -> Iterator[tuple[str, tuple[Alternative, ...]]]:
    """By each condition that they have: those that have it, without it. What can never hold here is no near miss."""
    kept: dict[str, list[Alternative]] = {}
    for one in alternatives:
        named = [(said_of(condition), condition) for condition in one]
        for said in dict.fromkeys(said for said, condition in named if not condition.never):
            kept.setdefault(said, []).append(tuple(condition for other, condition in named if other != said))
    for said, several in kept.items():
        yield said, tuple(several)


def said_of(condition: Condition) -> str:
    """As policies have it: ``methods``, ``notPaths``, ``headers x-team``, ``when realm.groups``."""
    name = f"not{condition.field[0].upper()}{condition.field[1:]}" if condition.negated else condition.field
    return " ".join(filter(None, (name, condition.header, ".".join(condition.claim))))
