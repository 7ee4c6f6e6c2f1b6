"""RequestAuthentication ▸ where tokens stand in requests to a service, and of what form they must be there.

What Envoy's filter takes for a token and what an app takes for one are not the same: Envoy looks for its prefix
anywhere in a value, in the case that it is written in, and stops at what can't be of a token. So whatever might be a
token and is not written exactly as it must be is refused before Envoy looks, and so is a second one. Pure.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from authz.key_sources import source_faults
from schemas.checking import Fault
from schemas.names import ServiceRef
from schemas.objects import RequestAuthentication
from schemas.objects.request_authentication import DEFAULT_PREFIX, FromHeader, JwtRule, RequestAuthenticationSpec

AUTHORIZATION = "authorization"
# RFC 7515, 7.1: three parts of base64url. Without a signature (RFC 7518, 3.6: alg none) there is nothing to believe.
TOKEN = r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # noqa: S105  (a form, not a token)


@dataclass(frozen=True, slots=True)
class Place:
    """A header in which tokens stand; `name` in lower case.

    Expressions are for RE2 and `re`, of the whole value; of a header that is there twice the values are one text with
    commas in between.
    """

    name: str
    prefixes: tuple[str, ...]

    @property
    def holds_a_token(self) -> str:
        """Of values that somebody may take for one with a token in it."""
        if self.name != AUTHORIZATION or "" in self.prefixes:
            return r"(?s).*"
        # Other schemes may stand there too (RFC 9110, 11.6.2): Basic, say.
        words = "|".join(re.escape(one.strip()) for one in self.prefixes)
        return rf"(?is).*({words})([\s,].*)?"

    @property
    def form(self) -> str:
        """Of values that are as they must be."""
        either = "|".join(re.escape(one) for one in self.prefixes)
        return f"({either}){TOKEN}"


def applies(authentication: RequestAuthentication, service: ServiceRef) -> bool:
    if authentication.metadata.namespace != service.namespace:
        return False
    targets = authentication.spec.target_refs
    return targets is None or any(target.name == service.name for target in targets)


def headers_of(rule: JwtRule) -> tuple[FromHeader, ...]:
    return rule.from_headers or (FromHeader(name=AUTHORIZATION, prefix=DEFAULT_PREFIX),)


def places(rules: Iterable[JwtRule]) -> list[Place]:
    """All headers in which `rules` look for tokens, by name."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        for header in headers_of(rule):
            found.setdefault(header.name.lower(), set()).add(header.prefix)
    return [Place(name, tuple(sorted(prefixes))) for name, prefixes in sorted(found.items())]


def pairs(found: Iterable[Place]) -> Iterator[tuple[Place, Place]]:
    """Two of which a request may have but one."""
    return combinations(found, 2)


def authentication_faults(spec: RequestAuthenticationSpec) -> Iterator[Fault]:
    """What the types do not say. Paths begin at the object."""
    for index, rule in enumerate(spec.jwt_rules):
        yield from _rule_faults(rule, ("spec", "jwtRules", index))


def _rule_faults(rule: JwtRule, path: tuple[str | int, ...]) -> Iterator[Fault]:
    yield from source_faults(rule, path)
    seen: set[tuple[str, str]] = set()
    for number, header in enumerate(rule.from_headers):
        if (header.name.lower(), header.prefix) in seen:
            yield Fault((*path, "fromHeaders", number), "stands there twice", "leave one out")
        seen.add((header.name.lower(), header.prefix))
